"""Operations of our own in C++, which make training on CPUs faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facetrain.compiled import Library, Surroundings


def _surroundings() -> Surroundings:
    import tensorflow as tf

    version = tf.version
    versions = [
        (version.VERSION, version.GIT_VERSION, version.COMPILER_VERSION),
        (tf.sysconfig.CXX11_ABI_FLAG, tf.sysconfig.CXX_VERSION),
        sorted(tf.sysconfig.get_build_info().items()),
    ]
    return Surroundings(tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags(), versions)


def _load(path: Path) -> Any:
    import tensorflow as tf

    try:
        return tf.load_op_library(str(path))
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


PRELU = Library(Path(__file__).with_name("prelu.cc"), _load, "training is slower without", _surroundings)
"""The module of the operations ``facetrain_prelu`` and ``facetrain_prelu_grad``."""
