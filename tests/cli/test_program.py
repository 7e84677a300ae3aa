"""The command line as a whole: start-up, exit codes, one sentence on stderr."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest

from facetrain import __version__, experiment
from facetrain.cli import main
from facetrain.errors import InputError

HEAVY = ("tensorflow", "numpy", "cv2", "pydantic", "matplotlib")


def run_process(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "facetrain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)


@pytest.fixture
def failing(monkeypatch):
    """Makes ``facetrain compare m a b`` raise what the test wants."""

    def arrange(error: BaseException):
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setitem(vars(experiment), "compare", fail)
        return lambda *options: main([*options, "compare", "m", "a", "b"])

    return arrange


def test_help_is_fast_and_light():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_process("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    for command in ("train", "evaluate", "compare", "align", "data", "export", "profile", "report", "show", "doctor"):
        assert f"\n  {command} " in result.stdout
    # Processor time, because the wall clock of a busy machine says little.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["show", "losses"], ["show", "backbones"]])
def test_no_tensorflow_is_imported(arguments):
    heavy = HEAVY if arguments == ["--help"] else HEAVY[:1]
    code = (
        "import sys; from facetrain.cli import main; code = main(sys.argv[1:]);"
        f"sys.exit(code or [m for m in {heavy!r} if m in sys.modules] or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_the_package_imports_no_tensorflow():
    code = f"import sys, facetrain; sys.exit([m for m in {HEAVY!r} if m in sys.modules] or 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"facetrain {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train", "--sett", "x"], ["compare", "a"], ["evaluate", "x"], ["--nonsense"]]
)
def test_wrong_use_is_2(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err or captured.out


def test_bad_input_is_2_with_one_sentence(failing, capsys):
    assert failing(InputError("image 'a': expected a JPEG, received 3 bytes"))() == 2
    assert capsys.readouterr() == ("", "error: image 'a': expected a JPEG, received 3 bytes\n")


def test_anything_else_is_1_without_a_traceback(failing, capsys):
    assert failing(RuntimeError("two\nlines"))() == 1
    error = capsys.readouterr().err
    assert error.startswith("failed: RuntimeError: two lines (")
    assert error.count("\n") == 1


def test_long_messages_are_cut(failing, capsys):
    assert failing(RuntimeError("x" * 5000))() == 1
    assert len(capsys.readouterr().err) < 500


def test_traceback_on_request(failing, capsys, monkeypatch):
    command = failing(RuntimeError("boom"))
    assert command("--traceback") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and error.endswith("shows where)\n")
    monkeypatch.setenv("FACETRAIN_TRACEBACK", "1")
    assert command() == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("FACETRAIN_TRACEBACK", "0")
    assert command() == 1
    assert "Traceback" not in capsys.readouterr().err


def test_interruption_is_130(failing, capsys):
    assert failing(KeyboardInterrupt())() == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/small/file"),
        RuntimeError("{{function_node}} /small/file; No space left on device"),
    ],
)
def test_a_full_disk_is_2(failing, capsys, error):
    assert failing(error)() == 2
    assert "no space left on the disk" in capsys.readouterr().err


def test_refused_and_missing_files_are_2(failing, capsys):
    assert failing(PermissionError(errno.EACCES, "Permission denied", "/secret/x"))() == 2
    assert capsys.readouterr().err == (
        "error: Permission denied at '/secret/x': change the permissions, or take another path\n"
    )
    assert failing(FileNotFoundError(errno.ENOENT, "No such file or directory", "x.txt"))() == 2
    assert capsys.readouterr().err == "error: No such file or directory at 'x.txt': check the path\n"


def test_a_missing_package_is_named_with_its_remedy(failing, capsys):
    assert failing(ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"))() == 1
    error = capsys.readouterr().err
    assert "needs the Python package 'tensorflow'" in error
    assert "pip install tensorflow==2.15.1" in error
    assert failing(ModuleNotFoundError("No module named 'facetrain.gone'", name="facetrain.gone"))() == 1
    assert "ModuleNotFoundError" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "facetrain", "show", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_tensorflow_is_told_to_be_quiet(monkeypatch, capsys):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    main(["--version"])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    main(["--version"])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
