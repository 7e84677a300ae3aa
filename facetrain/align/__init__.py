"""From a photograph and five landmarks to the aligned crop that embedding models take."""

from __future__ import annotations

from facetrain.align.folder import AlignReport, Skipped, align_folder
from facetrain.align.landmarks import (
    ARCFACE_TEMPLATE,
    LANDMARK_NAMES,
    AlignmentError,
    arcface_template,
    find_landmarks,
    is_mirrored,
    read_landmarks,
    write_landmarks,
)
from facetrain.align.warp import align_face, align_faces, estimate_similarity

__all__ = [
    "ARCFACE_TEMPLATE",
    "LANDMARK_NAMES",
    "AlignReport",
    "AlignmentError",
    "Skipped",
    "align_face",
    "align_faces",
    "align_folder",
    "arcface_template",
    "estimate_similarity",
    "find_landmarks",
    "is_mirrored",
    "read_landmarks",
    "write_landmarks",
]
