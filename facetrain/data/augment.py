"""Augmentation of batches: chains of random changes, seeded by (seed, epoch, image), carried out in few passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np

from facetrain.data.augment_base import Augmentation, Painter, Stage
from facetrain.data.augment_mix import Mixup
from facetrain.data.augment_random import uniforms
from facetrain.errors import InputError
from facetrain.registry import Registry

AUGMENTATIONS = Registry("augmentation")
AUGMENTATIONS.add("flip", "facetrain.data.augment_geometry:Flip", "mirror left and right")
AUGMENTATIONS.add("crop", "facetrain.data.augment_geometry:Crop", "shift by whole pixels: pad, then crop")
AUGMENTATIONS.add(
    "resized_crop", "facetrain.data.augment_crop:ResizedCrop", "magnify a window of random area and shape"
)
AUGMENTATIONS.add("warp", "facetrain.data.augment_geometry:Warp", "rotate, scale, shear and shift in one warp")
AUGMENTATIONS.add("color", "facetrain.data.augment_color:Color", "change brightness, contrast, saturation and hue")
AUGMENTATIONS.add("grey", "facetrain.data.augment_color:Grey", "take the colour away")
AUGMENTATIONS.add("blur", "facetrain.data.augment_filter:Blur", "blur with a Gaussian filter")
AUGMENTATIONS.add("sharpness", "facetrain.data.augment_filter:Sharpness", "sharpen or soften")
AUGMENTATIONS.add("jpeg", "facetrain.data.augment_quality:Jpeg", "compress as JPEG of random quality")
AUGMENTATIONS.add("low_resolution", "facetrain.data.augment_quality:LowResolution", "shrink and enlarge again")
AUGMENTATIONS.add("posterize", "facetrain.data.augment_tone:Posterize", "keep the upper bits of each value")
AUGMENTATIONS.add("solarize", "facetrain.data.augment_tone:Solarize", "invert bright values")
AUGMENTATIONS.add("autocontrast", "facetrain.data.augment_tone:Autocontrast", "stretch each channel to 0..255")
AUGMENTATIONS.add("equalize", "facetrain.data.augment_tone:Equalize", "make all values of a channel equally frequent")
AUGMENTATIONS.add("cutout", "facetrain.data.augment_erase:Cutout", "hide a square, partly outside the image or not")
AUGMENTATIONS.add("erase", "facetrain.data.augment_erase:Erase", "hide a rectangle of random area and shape")
AUGMENTATIONS.add("mask", "facetrain.data.augment_mask:Mask", "put a mask over mouth and nose of an aligned face")
AUGMENTATIONS.add(
    "superpixel_dropout",
    "facetrain.data.augment_superpixel:SuperpixelDropout",
    "flatten superpixels to their mean colour",
)
AUGMENTATIONS.add("rand_augment", "facetrain.data.augment_rand:RandAugment", "a few random operations at one magnitude")
AUGMENTATIONS.add("mixup", "facetrain.data.augment_mix:Mixup", "mix with another image of the data set, and its label")

Spec = Union[str, Mapping[str, Any], Augmentation, Mixup]


class AugmentationChain:
    """Augmentations in their order, neighbours of one kind fused into one pass over the pixels.

    What happens to an image depends on (seed, epoch, index of the image) and on the augmentation's name alone:
    neither on the batch it is in, nor on what other augmentations stand in the chain.

    Args:
        augmentations: first to last.
        mixup: what mixes the images that they made, or None. The chain itself changes single images; whoever has the
            whole data set draws partners by ``mixup.draw`` and mixes.
    """

    def __init__(self, augmentations: Sequence[Augmentation], mixup: Mixup | None = None):
        self.augmentations = tuple(augmentations)
        self.mixup = mixup
        seen: Counter[str] = Counter()
        self._streams = []
        self._stages: list[tuple[Stage, list[int]]] = []
        for place, augmentation in enumerate(self.augmentations):
            # One name twice in a chain must not draw the same numbers twice.
            self._streams.append(f"{augmentation.name}:{seen[augmentation.name]}")
            seen[augmentation.name] += 1
            joined = self._stages[-1][0].join(augmentation.stage) if self._stages else None
            if joined is None:
                self._stages.append((augmentation.stage, [place]))
            else:
                self._stages[-1] = (joined, [*self._stages[-1][1], place])

    def __len__(self) -> int:
        return len(self.augmentations)

    def require_device(self, compiled: bool = False) -> None:
        """Raises InputError if the chain cannot run on a device inside the model, naming what cannot and why.

        Args:
            compiled: whether XLA is to compile it, as part of the train step.
        """
        for augmentation in self.augmentations:
            reason = augmentation.stage.host_only
            if compiled and not reason and not augmentation.stage.compiles:
                reason = "XLA does not compile it, so that it needs jit_compile off"
            if reason:
                raise InputError(
                    f"augmentation {augmentation.name!r} cannot run on a device: {reason}; "
                    "leave it out, or set augment_on to 'cpu'"
                )

    def plan(self, seed: int, epoch: int, indices: np.ndarray, size: int) -> list[np.ndarray]:
        """Draws what is done to some images, without touching pixels.

        Args:
            seed: of the run, 0 or above.
            epoch: 0 or above.
            indices: int64 [B], which images.
            size: side of the images in pixels.

        Returns:
            the parameters of each stage, arrays with first axis B: a few numbers per image, as ``in_graph`` takes.
        """
        parameters = [
            augmentation.parameters(uniforms(seed, epoch, indices, stream, augmentation.num_uniforms), size)
            for augmentation, stream in zip(self.augmentations, self._streams)
        ]
        return [stage.compose([parameters[place] for place in places]) for stage, places in self._stages]

    def write(
        self, sources: Sequence[np.ndarray], target: np.ndarray, seed: int, epoch: int, indices: np.ndarray
    ) -> None:
        """Augments images into ``target``; each pixel is read once where one stage is enough.

        Args:
            sources: B images, uint8 [S, S, 3].
            target: uint8 [B, S, S, 3], written.
            seed: of the run, 0 or above.
            epoch: 0 or above.
            indices: int64 [B], which images they are.
        """
        paint = self.painter(seed, epoch, indices, target.shape[1])
        for k, source in enumerate(sources):
            paint(k, source, target[k])

    def painter(self, seed: int, epoch: int, indices: np.ndarray, size: int) -> Painter:
        """Returns ``paint(k, source, target)``, which augments image ``k`` of a batch; threads may share it.

        Args:
            seed: of the run, 0 or above.
            epoch: 0 or above.
            indices: int64 [B], which images they are.
            size: side of the images in pixels.
        """
        plan = self.plan(seed, epoch, indices, size)
        painters = [stage.painter(parameters, size) for (stage, _), parameters in zip(self._stages, plan)]

        def paint_all(k: int, source: np.ndarray, target: np.ndarray) -> None:
            if not painters:
                target[...] = source
            for paint in painters:
                paint(k, source, target)
                source = target

        return paint_all

    def __call__(self, images: np.ndarray, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """Augments a batch.

        Args:
            images: uint8 [B, S, S, 3].
            seed: of the run, 0 or above.
            epoch: 0 or above.
            indices: int64 [B], which images they are.

        Returns:
            uint8 [B, S, S, 3], a new array.
        """
        augmented = np.empty(images.shape, np.uint8)
        self.write(images, augmented, seed, epoch, indices)
        return augmented

    def in_graph(self, images: Any, plan: Sequence[Any]) -> Any:
        """Augments a batch with TensorFlow operations, on whatever device they are placed.

        Args:
            images: uint8 or float32 [B, S, S, 3] in 0..255.
            plan: as ``plan`` returns it, arrays or tensors.

        Returns:
            float32 [B, S, S, 3] in 0..255.
        """
        import tensorflow as tf

        images = tf.cast(images, tf.float32)
        for (stage, _), parameters in zip(self._stages, plan):
            images = stage.in_graph(images, parameters)
        return images


def build(specs: Spec | Sequence[Spec] | AugmentationChain | None) -> AugmentationChain:
    """Builds a chain from names, ``{"name": ..., **arguments}`` or augmentations, one or a sequence of them.

    Args:
        specs: what to do, first to last; None or nothing leaves images as they are; a chain is returned unchanged.

    Raises:
        InputError: for an unknown name or argument, a value out of range, or a mixup that does not stand last.
    """
    if isinstance(specs, AugmentationChain):
        return specs
    if specs is None:
        specs = ()
    if isinstance(specs, (str, Mapping, Augmentation, Mixup)):
        specs = (specs,)
    augmentations = [AUGMENTATIONS.build(spec) for spec in specs]
    mixup = augmentations.pop() if augmentations and isinstance(augmentations[-1], Mixup) else None
    for augmentation in augmentations:
        if isinstance(augmentation, Mixup):
            raise InputError("mixup mixes what the other augmentations made: it stands last in the list, and once")
        if not isinstance(augmentation, Augmentation):
            raise InputError(f"an augmentation is a name or a mapping with a 'name', received {augmentation!r}")
    return AugmentationChain(augmentations, mixup)
