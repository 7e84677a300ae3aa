"""Registration of Keras objects under a name that does not depend on where their code lives."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T", bound=type)

PACKAGE = "facetrain"


def serializable(cls: T) -> T:
    """Class decorator: saves ``cls`` in Keras files as ``facetrain>ClassName``, wherever its module moves to."""
    from tensorflow import keras

    return keras.saving.register_keras_serializable(package=PACKAGE)(cls)
