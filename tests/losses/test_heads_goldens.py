"""Members of the family against the heads of AdaFace, CurricularFace, MagFace and FaceX-Zoo, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain import losses
from tests.losses.goldens import assert_near, golden, step

CASES = {
    "adaface_m0.4_h0.333_ta1.0": {"name": "adaface", "ema": 1.0, "clipped": True},
    "adaface_m0.4_h0.333_ta0.01": {"name": "adaface", "ema": 0.01, "clipped": True},
    "adaface_m0.5_h0.2_ta0.5": {"name": "adaface", "margin": 0.5, "h": 0.2, "ema": 0.5, "clipped": True},
    "adarepo_arcface_m0.5": {"name": "arcface", "margin": 0.5, "beyond": "none"},
    "adarepo_cosface_m0.4": {"name": "cosface", "margin": 0.4},
    "curricular_m0.5": {"name": "curricularface"},
    "curricularrepo_arcface_m0.5": {"name": "arcface"},
    "magface_easy": {"name": "magface", "easy_margin": True},
    "magface_hard": {"name": "magface"},
    "fx_magface_am0_s32_l20": {"name": "magface", "scale": 32.0, "strength": 20.0},
    "fx_am_softmax_m0.35_s32": {"name": "cosface", "margin": 0.35, "scale": 32.0},
    "fx_arcface_m0.35_am0_s32": {"name": "arcface", "margin": 0.35, "scale": 32.0},
    "fx_adacos": {"name": "adacos", "lower_median": True},
    "fx_arcnegface_m0.5_s64": {"name": "arcnegface"},
    "fx_circle_m0.25_g256": {"name": "circle"},
    "fx_mv_am_m0.35_t1.12_s32": {"name": "mv_am", "easy_margin": True, "scale": 32.0},
    "fx_mv_arc_m0.35_t1.12_s32": {"name": "mv_arc", "margin": 0.35, "easy_margin": True, "scale": 32.0},
    "fx_npcface_m0.5_s64": {"name": "npcface", "easy_margin": True},
}
STATE = {"batch_mean": "adaface_mean", "batch_std": "adaface_std", "t": "curricular_t", "scale": "loss_scale"}
# What is kept between steps is float32 in both.
PRECISIONS = {"float32": ("f4", 2e-5), "float64": ("f8", 1e-6)}


def _check(loss, case, inputs, dtype):
    short, tolerance = PRECISIONS[dtype]
    found, key = golden("loss_heads"), f"{case}/{inputs}/{short}"
    mean, in_embeddings, in_centres = step(loss, found["W"], found[f"E_{inputs}"], found["labels"], dtype)
    # MagFace's pull on the length is listed apart.
    theirs = found[f"{key}/ce"] + found.get(f"{key}/extra_mean", 0.0)
    np.testing.assert_allclose(mean, theirs, rtol=tolerance)
    assert_near(in_embeddings, found[f"{key}/dE"], tolerance, "dE")
    assert_near(in_centres, found[f"{key}/dW"], tolerance, "dW")
    kept = {v.name.split(":")[0]: v.numpy() for v in loss.variables}
    for theirs_name, ours in STATE.items():
        if f"{key}/{theirs_name}" in found:
            np.testing.assert_allclose(kept[ours], np.ravel(found[f"{key}/{theirs_name}"])[0], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_head(case, dtype):
    _check(losses.get(CASES[case]), case, "random", dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.split("_")[0] in ("adaface", "curricular")] + ["fx_adacos"]
)
def test_three_steps_with_their_statistics(case, dtype):
    loss = losses.get(CASES[case])
    for inputs in ("seq0", "seq1", "seq2"):
        _check(loss, case, inputs, dtype)
