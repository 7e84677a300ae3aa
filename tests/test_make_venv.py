"""The launcher says clearly what is wrong where there is no fitting Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_venv.sh"


@pytest.fixture
def launch(tmp_path):
    """Runs the launcher on a machine that has nothing but the given Pythons."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "cut", "env"):
        (tools / tool).symlink_to(shutil.which(tool))

    def run(pythons: dict[str, str], **variables: str) -> str:
        for name, script in pythons.items():
            (tools / name).write_text(f"#!{tools}/bash\n{script}\n")
            (tools / name).chmod(0o755)
        command = [str(tools / "bash"), str(SCRIPT), str(tmp_path / "venv")]
        environment = {"PATH": str(tools), **variables}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 1
        assert not (tmp_path / "venv").exists()
        assert result.stderr.count("\n") == 1
        return result.stderr

    return run


def test_no_python(launch):
    message = launch({})
    assert message.startswith("facetrain needs Python 3.9, 3.10 or 3.11: none is on the PATH.")
    assert "apt-get install python3.11" in message


def test_a_command_that_exists_but_does_not_run(launch):
    assert "python3.11 (does not run)" in launch({"python3.11": "echo 'pyenv: not found' >&2; exit 127"})


def test_too_new_and_too_old(launch):
    message = launch({"python3": "echo 3.12 venv", "python": "echo 2.7 bare"})
    assert "python3 (3.12)" in message
    assert "python (2.7)" in message


def test_debian_without_the_venv_module(launch):
    assert "apt-get install python3.10-venv" in launch({"python3.10": "echo 3.10 bare"})


def test_a_chosen_python_is_judged_too(launch):
    assert "PYTHON=/nowhere does not run" in launch({"python3.11": "echo 3.11 venv"}, PYTHON="/nowhere")
    assert "is Python 3.8" in launch({"old": "echo 3.8 venv"}, PYTHON="old")
