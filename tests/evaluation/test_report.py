from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from facetrain.evaluation import PairSet, verification_report, write_report
from facetrain.evaluation.report import worst_pairs
from facetrain.images import decode_image
from tests.evaluation.helpers import picture_pairs

EVIL = "<script>alert('x')</script>\"&"
HISTORY = [
    {"step": s, "epoch": s / 10, "loss": 5 / s, "learning_rate": 0.1, "images_per_second": 60.0} for s in range(1, 20)
]
VOID = {"meta", "img", "br", "source", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that elements close in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.urls, self.text, self.open = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.urls += [
            value for key, value in attributes if key in ("src", "srcset", "href", "action", "data", "poster")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def judged(pair_set, wrong=2, bootstrap=50):
    scores = np.where(pair_set.is_same, 0.8, 0.1) + np.linspace(0, 0.05, len(pair_set))
    for kind in (True, False):
        where = np.flatnonzero(pair_set.is_same == kind)[:wrong]
        scores[where] = 0.9 - scores[where]
    return verification_report(scores, pair_set.is_same, bootstrap=bootstrap)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pairs = replace(picture_pairs(60), names=[f"{EVIL} {i}" for i in range(61)])
    path = tmp_path_factory.mktemp("report") / "report.html"
    returned = write_report(
        path, title=f"run {EVIL}", history=HISTORY, results={"set one": judged(pairs), f"two/{EVIL}": judged(pairs, 0)},
        pair_sets={"set one": pairs, f"two/{EVIL}": pairs}, config_yaml=f"train:\n  name: {EVIL}\n",
        manifest={"versions": {"tensorflow": "2.15.1"}, "seed": 3, "note": EVIL, "licence": None},
    )  # fmt: skip
    assert returned == path
    return path


def test_page_is_whole_and_loads_nothing(written):
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert page.urls and all(url.startswith("data:image/") for url in page.urls)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "default-src 'none'" in text


def test_text_from_outside_is_escaped(written):
    text = written.read_text(encoding="utf-8")
    assert "<script" not in text and text.count("&lt;script&gt;") > 10
    assert EVIL in "".join(Page(text).text)


def test_it_says_what_matters(written):
    said = " ".join(" ".join(Page(written.read_text(encoding="utf-8")).text).split())
    for part in ("10-fold accuracy", "95 % interval", "AUC", "Equal error rate", "TAR at FAR 1e-1", "False matches",
                 "False non-matches", "19 steps", "60 images per second", "versions.tensorflow 2.15.1", "seed 3",
                 "None: no pair of two persons", "licence –", "Configuration train:"):  # fmt: skip
        assert part in said, part
    accuracy = judged(picture_pairs(60)).accuracy
    assert f"{100 * accuracy:.2f} %" in said


def test_inline_pictures_are_pictures(written):
    uris = [url for url in Page(written.read_text(encoding="utf-8")).urls]
    sizes = {decode_image(base64.b64decode(uri.split(",", 1)[1])).shape for uri in uris}
    assert (112, 112, 3) in sizes and len(sizes) > 1
    # Two themes of training, ROC and two histograms; two faces for each of two false matches and two false non-matches.
    assert len(uris) == 2 * 4 + 2 * 4


def test_plots_lie_beside(written):
    names = sorted(path.name for path in (written.parent / "plots").iterdir())
    assert names == ["roc.png", "scores_set_one.png", "scores_two_script_alert_x_script_.png", "training.png"]


def test_a_run_without_evaluation_and_an_evaluation_without_run(tmp_path):
    write_report(tmp_path / "a.html", "a", HISTORY, {}, {}, "", {})
    assert "Training" in "".join(Page((tmp_path / "a.html").read_text(encoding="utf-8")).text)
    pairs = picture_pairs(20)
    write_report(tmp_path / "b.html", "b", [], {"x": judged(pairs, bootstrap=0)}, {}, "", {})
    said = "".join(Page((tmp_path / "b.html").read_text(encoding="utf-8")).text)
    assert "Verification" in said and "False matches" not in said and "95 %" not in said


def test_an_image_that_cannot_be_shown_does_not_stop_the_report(tmp_path):
    pairs = picture_pairs(20)
    broken = PairSet([b"junk"] * len(pairs.images), pairs.is_same, pairs.pairs)
    write_report(tmp_path / "a.html", "a", [], {"x": judged(pairs)}, {"x": broken}, "", {})
    assert "unreadable" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_worst_pairs_are_the_mistakes_in_order():
    is_same = np.arange(40) % 2 == 0
    scores = np.where(is_same, 0.9, 0.1)
    scores[[1, 3, 5]] = [0.75, 0.95, 0.8]
    scores[[0, 2]] = [0.3, 0.2]
    result = replace(verification_report(scores, is_same), threshold=0.7)
    false_matches, false_non_matches = worst_pairs(result, 5)
    assert false_matches.tolist() == [3, 5, 1] and false_non_matches.tolist() == [2, 0]
    assert [found.tolist() for found in worst_pairs(result, 1)] == [[3], [2]]
