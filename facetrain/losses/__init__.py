"""Losses on cosines and embeddings; importing this package imports no TensorFlow."""

from __future__ import annotations

import importlib
from typing import Any

from facetrain.errors import InputError
from facetrain.registry import Registry

LOSSES = Registry("loss")
LOSSES.add("norm_softmax", "facetrain.losses.margin_softmax:NormSoftmax", "softmax over scaled cosines, no margin")
LOSSES.add("arcface", "facetrain.losses.margin_softmax:ArcFace", "additive angular margin, cos(theta + m)")
LOSSES.add("cosface", "facetrain.losses.margin_softmax:CosFace", "additive cosine margin, cos(theta) - m")
LOSSES.add("sphereface", "facetrain.losses.margin_softmax:SphereFace", "multiplicative angular margin, cos(m * theta)")
LOSSES.add("combined_margin", "facetrain.losses.margin_softmax:CombinedMargin", "all three, cos(m1 * theta + m2) - m3")
LOSSES.add("airface", "facetrain.losses.airface:AirFace", "additive angular margin on logits linear in the angle")
LOSSES.add("curricularface", "facetrain.losses.adaptive:CurricularFace", "ArcFace, hard negatives weigh more over time")
LOSSES.add("magface", "facetrain.losses.adaptive:MagFace", "angular margin that grows with the embedding's length")
LOSSES.add("adaface", "facetrain.losses.adaface:AdaFace", "margin by image quality, for which the length stands")
LOSSES.add("adacos", "facetrain.losses.adacos:AdaCos", "no margin, scale by number of classes, fixed or dynamic")
LOSSES.add("arcnegface", "facetrain.losses.negatives:ArcNegFace", "ArcFace, negatives weigh more near the own cosine")
LOSSES.add("circle", "facetrain.losses.negatives:CircleLoss", "each cosine weighed by its distance from its goal")
LOSSES.add("mv_arc", "facetrain.losses.mv_softmax:MVArcSoftmax", "MV-Softmax: ArcFace, misclassified negatives raised")
LOSSES.add("mv_am", "facetrain.losses.mv_softmax:MVAMSoftmax", "MV-Softmax: CosFace, misclassified negatives raised")
LOSSES.add("npcface", "facetrain.losses.npcface:NPCFace", "hard negatives raised, and the margin by their mean")
LOSSES.add("triplet", "facetrain.losses.tuplet:TripletLoss", "triplets of embeddings, mined in the batch")
LOSSES.add("center", "facetrain.losses.centre:CenterLoss", "distance from the class's moving centre")
LOSSES.add("supcon", "facetrain.losses.contrastive:SupConLoss", "supervised contrastive loss of embeddings")
LOSSES.add("sum", "facetrain.losses.sums:SumLoss", "weighted sum of several losses")
LOSSES.add("none", "facetrain.losses.taught:NoLoss", "nothing: for distillation without labels")

DISTILLATION_LOSSES = Registry("distillation loss")
DISTILLATION_LOSSES.add(
    "cosine", "facetrain.losses.distillation:CosineTeacherLoss", "1 - cosine with the teacher's embedding"
)
DISTILLATION_LOSSES.add("l2", "facetrain.losses.distillation:L2TeacherLoss", "squared distance from its embedding")
DISTILLATION_LOSSES.add(
    "kl", "facetrain.losses.distillation:KLTeacherLoss", "divergence from its softmax over classes, at a temperature"
)
DISTILLATION_LOSSES.add(
    "distances", "facetrain.losses.relational:DistanceTeacherLoss", "relational: distances between images of a batch"
)
DISTILLATION_LOSSES.add(
    "angles", "facetrain.losses.relational:AngleTeacherLoss", "relational: angles between three images of a batch"
)
DISTILLATION_LOSSES.add(
    "attention", "facetrain.losses.attention:AttentionTeacherLoss", "where feature maps of named layers are large"
)

_HOME = {
    "AdaCos": "adacos",
    "AdaFace": "adaface",
    "AirFace": "airface",
    "AngularMarginLoss": "margin_softmax",
    "AngleTeacherLoss": "relational",
    "ArcFace": "margin_softmax",
    "ArcNegFace": "negatives",
    "AttentionTeacherLoss": "attention",
    "CenterLoss": "centre",
    "CircleLoss": "negatives",
    "CombinedMargin": "margin_softmax",
    "CosFace": "margin_softmax",
    "CosineTeacherLoss": "distillation",
    "CurricularFace": "adaptive",
    "DistanceTeacherLoss": "relational",
    "DistillationLoss": "taught",
    "FaceLoss": "base",
    "KLTeacherLoss": "distillation",
    "L2TeacherLoss": "distillation",
    "MVAMSoftmax": "mv_softmax",
    "MVArcSoftmax": "mv_softmax",
    "MagFace": "adaptive",
    "MarginLoss": "margin_softmax",
    "NPCFace": "npcface",
    "NoLoss": "taught",
    "NormSoftmax": "margin_softmax",
    "SphereFace": "margin_softmax",
    "SumLoss": "sums",
    "SupConLoss": "contrastive",
    "TripletLoss": "tuplet",
    "combined_margin": "margins",
}


def get(spec: Any, **defaults: Any) -> Any:
    """Returns a loss for a name, a mapping with a ``name``, or an instance, which is passed through.

    Args:
        spec: ``"arcface"``, ``{"name": "arcface", "margin": 0.5}``, or a loss; a list of these is their sum, in which
            a mapping may hold a ``weight``.
        **defaults: arguments that ``spec`` may override, e.g. ``margin=0.5, scale=64.0``.
    Raises:
        InputError: for an unknown name or argument, a refused value, or something that is no loss.
    """
    if isinstance(spec, (list, tuple)):
        spec = {"name": "sum", "losses": list(spec)}
    loss = LOSSES.build(spec, **defaults)
    if not callable(loss):
        raise InputError(f"a loss must be a name, a mapping with a 'name' or a loss object, received {spec!r}")
    return loss


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(_HOME) | set(globals()))
