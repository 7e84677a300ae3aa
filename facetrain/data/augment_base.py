"""What an augmentation is, and the stages that carry augmentations out: neighbours of one kind run as one."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from facetrain.errors import InputError

Painter = Callable[[int, np.ndarray, np.ndarray], None]
"""``painter(k, source, target)`` writes image ``k`` of a batch; ``target`` may be ``source``; uint8 [S, S, 3] both."""


class Stage(abc.ABC):
    """One pass over the pixels that carries out one or several augmentations.

    Parameters are arrays whose first axis is the batch; what they hold is the stage's own matter.

    Attributes:
        host_only: why the stage cannot run on a device, inside the model; empty if it can.
        compiles: whether XLA compiles what the stage does there.
    """

    host_only: ClassVar[str] = ""
    compiles: bool = True

    @abc.abstractmethod
    def join(self, other: Stage) -> Stage | None:
        """Returns the stage that does ``self`` and then ``other`` in one pass, or None if there is no such stage."""

    @abc.abstractmethod
    def compose(self, parameters: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the parameters that do all of ``parameters``, first to last, at once."""

    @abc.abstractmethod
    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns the function that does it on the processor, with OpenCV, image by image."""

    @abc.abstractmethod
    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Does it with TensorFlow on a batch, on any device: float32 [B, S, S, 3] in 0..255 to the same."""


class LoneStage(Stage):
    """A stage that is never one with its neighbours, and carries out a single augmentation."""

    def join(self, other: Stage) -> Stage | None:
        """Returns None: nothing joins."""
        return None

    def compose(self, parameters: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the only parameters that there are."""
        (only,) = parameters
        return only


class Augmentation(abc.ABC):
    """A random change of an image: a pure function of pixels and a few uniform random numbers.

    Attributes:
        name: as in the table of augmentations.
        num_uniforms: random numbers that an image takes.
        stage: what carries it out.
    """

    name: str
    num_uniforms: int
    stage: Stage

    @abc.abstractmethod
    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Turns random numbers into what the stage does.

        Args:
            uniforms: float32 [B, num_uniforms] in [0, 1).
            size: side of the images in pixels.

        Returns:
            one array with first axis B.
        """

    def __call__(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Augments a batch.

        Args:
            images: uint8 [B, S, S, 3].
            uniforms: float32 [B, num_uniforms] in [0, 1).

        Returns:
            uint8 [B, S, S, 3], a new array.
        """
        size = images.shape[1]
        paint = self.stage.painter(self.parameters(np.asarray(uniforms, np.float32), size), size)
        augmented = np.empty(images.shape, np.uint8)
        for k, (source, target) in enumerate(zip(images, augmented)):
            paint(k, source, target)
        return augmented


def signed(uniforms: np.ndarray) -> np.ndarray:
    """Moves uniform numbers from [0, 1) to [-1, 1), float64."""
    return uniforms.astype(np.float64) * 2 - 1


def check_range(name: str, value: float, low: float, high: float) -> float:
    """Returns ``value`` if it lies in ``low..high``; raises InputError naming the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InputError(f"{name} is a number in {low}..{high}, received {value!r}")
    return value


def check_interval(name: str, value: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Returns ``value`` as (least, largest) if both lie in ``low..high``; raises InputError naming it otherwise."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(f"{name} is (least, largest), two numbers in {low}..{high}, received {value!r}")
    least, largest = (check_range(name, part, low, high) for part in value)
    if least > largest:
        raise InputError(f"{name} is (least, largest), the smaller number first, received {value!r}")
    return least, largest


def within(interval: tuple[float, float], uniforms: np.ndarray) -> np.ndarray:
    """Moves uniform numbers from [0, 1) to an interval (least, largest), float64."""
    return interval[0] + (interval[1] - interval[0]) * uniforms.astype(np.float64)


def copy_into(target: np.ndarray, source: np.ndarray) -> None:
    """Makes ``target`` the same image as ``source``, which it may be already."""
    if source is not target:
        target[...] = source
