from __future__ import annotations

import logging

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.evaluation import EVALUATORS, PairSet, VerificationEvaluator, pixel_embeddings, save_bin
from facetrain.images import ImageError
from tests.evaluation.helpers import picture_pairs
from tests.shared import shared_path


def test_identical_pictures_are_told_from_others():
    evaluator = VerificationEvaluator(picture_pairs(40), size=16)
    figures = evaluator.run(pixel_embeddings)
    assert figures["accuracy"] == 1.0 and figures["auc"] == 1.0 and figures["tar@far=1e-1"] == 1.0
    assert list(figures) == [
        "accuracy", "accuracy_std", "best_threshold_accuracy", "auc", "eer", "tar@far=1e-1", "threshold",
        "threshold_far",
    ]  # fmt: skip
    assert all(isinstance(value, float) for value in figures.values())


def test_images_are_decoded_once_and_each_distinct_one_is_embedded_once(monkeypatch):
    pairs = picture_pairs(40)
    doubled = PairSet([pairs.images[i] for i in pairs.pairs.ravel()], pairs.is_same, name="doubled")
    evaluator = VerificationEvaluator(doubled, size=16, flip=False, batch_size=8)
    seen = []

    def embed(batch):
        seen.append(len(batch))
        return pixel_embeddings(batch)

    scores = evaluator.evaluate(embed).scores
    monkeypatch.setattr("facetrain.evaluation.embeddings.decode_image", None)
    np.testing.assert_array_equal(evaluator.evaluate(pixel_embeddings).scores, scores)
    monkeypatch.undo()
    assert len(evaluator.pixels()) == len(set(doubled.images)) and sum(seen) == -(-len(set(doubled.images)) // 8) * 8
    np.testing.assert_allclose(VerificationEvaluator(pairs, 16, flip=False).evaluate(embed).scores, scores, atol=1e-6)


def test_registry_builds_it_from_a_file(tmp_path):
    save_bin(tmp_path / "own.bin", picture_pairs(40))
    evaluator = EVALUATORS.build({"name": "verification", "pairs": str(tmp_path / "own.bin"), "folds": 5}, size=16)
    assert evaluator.name == "own" and len(evaluator.evaluate(pixel_embeddings).fold_accuracies) == 5
    with pytest.raises(InputError, match="did you mean 'verification'"):
        EVALUATORS.build("verificaton")


def test_folds_of_one_kind_are_warned_about(caplog):
    images = picture_pairs(20).images
    with caplog.at_level(logging.WARNING):
        VerificationEvaluator(PairSet(images[:20] * 2, np.arange(20) < 10, name="sorted"), size=16)
    assert "'sorted'" in caplog.text and "in turn" in caplog.text
    caplog.clear()
    VerificationEvaluator(picture_pairs(20), size=16)
    assert not caplog.text


def test_a_damaged_image_is_named():
    pairs = PairSet([*picture_pairs(4).images, b"junk"], [True, False], [[0, 1], [2, 5]], list("abcdef"))
    with pytest.raises(ImageError, match="image f"):
        VerificationEvaluator(pairs, size=16, folds=2).run(pixel_embeddings)


def test_pixels_of_real_photographs_give_the_known_baseline():
    evaluator = VerificationEvaluator(shared_path("faces/lfw-dev/val_pairs.txt"))
    result = evaluator.evaluate(pixel_embeddings, bootstrap=50)
    assert 0.60 <= result.accuracy <= 0.65
    low, high = result.intervals["accuracy"]
    assert low < result.accuracy < high
