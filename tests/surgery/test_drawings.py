"""The guide: every surgery is in it, and its pictures are drawn from models."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from facetrain import surgery
from tests.scripts import load_script

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def drawings():
    return load_script("docs/draw_surgery.py")


def test_every_surgery_is_explained_and_every_drawing_shown(drawings):
    text = (DOCS / "surgery.md").read_text(encoding="utf-8")
    assert [name for name in surgery.SURGERIES.names() if name not in text] == []
    # What leaves the graph as it is has nothing to draw.
    settings = text[text.index("### Settings") : text.index("## Rewrites that change")]
    others = [name for name in surgery.SURGERIES.names() if f"`{name}`" not in settings]
    assert [name for name in others if name not in drawings.DRAWINGS] == ["to_float32", "to_mixed_precision"]
    for name in drawings.DRAWINGS:
        assert f"(images/surgery_{name}.svg)" in text and (DOCS / "images" / f"surgery_{name}.svg").is_file()


@pytest.mark.parametrize("name", ["reparameterize", "fuse_conv_bn"])
def test_a_drawing_shows_the_layers_of_both_models(drawings, name, tmp_path):
    drawings.draw(name, tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    words = "\n".join(element.text or "" for element in root.iter() if element.tag.endswith(("text", "tspan")))
    shown = {"reparameterize": ["conv3", "conv1", "bn0", "Add"], "fuse_conv_bn": ["conv", "bn", "Conv2D"]}[name]
    assert [word for word in shown if word not in words] == []
    assert (tmp_path / "a.svg").stat().st_size < 40_000
