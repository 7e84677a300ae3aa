"""What README promises: its Python runs, its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _python() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    return code


def test_the_example_is_short():
    assert sum(bool(line.strip()) for line in _python().splitlines()) < 30


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    from facetrain.align import align_folder
    from facetrain.data.synth_folder import write_synthetic
    from facetrain.models import load_embedding_model

    write_synthetic(tmp_path / "photos", identities=4, images=5, num_pairs=20)
    align_folder(tmp_path / "photos", tmp_path / "crops", tmp_path / "photos" / "landmarks.csv")
    pairs = (tmp_path / "photos" / "pairs.txt").read_text()
    (tmp_path / "pairs.txt").write_text(re.sub(r"\t", "\tcrops/", pairs))
    smaller = {
        "batch_size=64": "batch_size=8",
        "epochs=10": "epochs=1",
        '"mobilefacenet"': '{"name": "mobilefacenet", "width": 0.25}',
    }
    code = _python()
    for old, new in smaller.items():
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert 0.0 <= float(capsys.readouterr().out.strip().splitlines()[-1]) <= 1.0
    assert load_embedding_model(tmp_path / "my_model")[1].embedding_size == 256


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
