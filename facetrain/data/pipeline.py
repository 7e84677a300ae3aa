"""The way of a batch, in one function: which images -> their pixels -> augmentation -> tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.data import augment
from facetrain.data.augment_mix import mix
from facetrain.data.buffers import BatchBuffers
from facetrain.data.decoding import worker_count
from facetrain.data.ending import exit_gate
from facetrain.data.sampling import EpochOrder
from facetrain.errors import InputError

_ENDLESS = 2**62
_MAX_WORKERS = 8
_BATCHES_AHEAD = 2
AUGMENT_ON = ("cpu", "device")


def build_pipeline(
    images: Any,
    labels: np.ndarray,
    order: EpochOrder,
    augmentations: Any = (),
    seed: int = 0,
    first_epoch: int = 0,
    first_step: int = 0,
    num_epochs: int | None = None,
    workers: int | None = None,
    augment_on: str = "cpu",
) -> tf.data.Dataset:
    """Builds the stream of training batches: one dataset that runs on over all epochs.

    Batches are a pure function of their place: a stream that starts at (first_epoch, first_step) goes on exactly like
    the one that started at the beginning.

    Args:
        images: uint8 [N, S, S, 3] as an array or memory map, or an object with that ``shape`` and a ``gather`` method
            such as ``DecodingImages``, or with several ``rows`` for each image, such as ``VariantImages``.
        labels: integers [N].
        order: which images each step takes, on this process.
        augmentations: names, mappings or augmentations for ``augment.build``, or the chain it returns.
        seed: of the augmentations.
        first_epoch: epoch of the first batch.
        first_step: step of the first batch in that epoch; the number of steps means the epoch after it.
        num_epochs: epochs of the whole training, counted from 0, after which the stream ends; None never ends it.
        workers: batches in the making at one time; None takes one per processor, 8 at most.
        augment_on: ``"cpu"`` augments here; ``"device"`` yields images as they are, and what is to be done to them,
            for a ``FaceRecognizer`` that is compiled with the same augmentations.

    Returns:
        dataset of ``{"image": uint8 [B, S, S, 3] in 0..255, RGB, "label": int32 [B], "index": int64 [B]}``, where
        ``index`` tells which of ``images`` it is. With mixup also ``"mix_label"`` int32 [B], the partner's label, and
        ``"mix_weight"`` float32 [B], the weight of the own one. With ``augment_on="device"`` also ``"plan"``, what
        ``AugmentationChain.plan`` returned, and with mixup ``"mix_image"`` and ``"mix_plan"``, the partners and theirs.

    Raises:
        InputError: if images, labels and order differ in length, images are not what they should be, or an
            augmentation cannot run on a device but should.
    """
    if augment_on not in AUGMENT_ON:
        raise InputError(f"augment_on is one of {', '.join(AUGMENT_ON)}, received {augment_on!r}")
    maker = _BatchMaker(images, labels, order, augment.build(augmentations), seed, augment_on == "device")
    first = first_epoch * order.steps_per_epoch + first_step
    end = _ENDLESS if num_epochs is None else num_epochs * order.steps_per_epoch
    workers = min(worker_count(None), _MAX_WORKERS) if workers is None else worker_count(workers)

    # 1. Which steps: one counter runs on through all epochs, so that no epoch starts a new iterator.
    dataset = tf.data.Dataset.range(first, max(first, end))
    # 2. Their batches, each by one call: order -> gather -> augment. OpenCV and NumPy release the interpreter lock
    #    over the pixels, so that workers overlap; results keep their order.
    dataset = dataset.map(maker.as_tensors, num_parallel_calls=workers, deterministic=True)
    # 3. A few batches are ready before they are needed.
    dataset = dataset.prefetch(_BATCHES_AHEAD)
    return dataset.with_options(_options(workers))


def input_error(error: tf.errors.OpError) -> InputError | None:
    """Returns the InputError that was raised while a batch was made, which TensorFlow hands on as text, or None."""
    found = re.search(r"\bInputError: ([^\n]+)", error.message or "")
    return InputError(found.group(1)) if found else None


def _options(workers: int) -> tf.data.Options:
    options = tf.data.Options()
    # Its thread sleeps ever longer, and whoever drops the iterator waits for it: seconds between epochs.
    options.autotune.enabled = False
    options.deterministic = True
    # Threads of their own: whoever drops an iterator waits for its calls, also where that is a thread of TensorFlow's
    # own pool, which may have no other.
    options.threading.private_threadpool_size = workers
    # Ranks have their share from the order already, and replicas split the batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


class _BatchMaker:
    """Makes the batch of a step, counted from the first step of epoch 0."""

    def __init__(
        self,
        images: Any,
        labels: np.ndarray,
        order: EpochOrder,
        chain: augment.AugmentationChain,
        seed: int,
        on_device: bool,
    ):
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or np.dtype(images.dtype) != np.uint8:
            raise InputError(f"images are uint8 of shape [N, S, S, 3], received {images.dtype} of shape {list(shape)}")
        if not shape[0] == len(labels) == order.num_images:
            raise InputError(
                f"images, labels and order are of one length, received {shape[0]}, {len(labels)} and {order.num_images}"
            )
        self._gather = getattr(images, "gather", None)
        self._rows_of = getattr(images, "rows_of", None)
        # Rows of a plain array come without the bookkeeping of np.memmap, which costs more than copying one.
        self._images = images if self._gather else np.asarray(images.rows if self._rows_of else images)
        self._labels = np.asarray(labels, np.int32)
        self._order = order
        self._chain = chain
        self._seed = seed
        self._shape = (order.batch_size, *shape[1:])
        self._on_device = on_device
        self._buffers = BatchBuffers()
        if on_device:
            chain.require_device()
        self._spec = self._batch_spec()

    def as_tensors(self, step: tf.Tensor) -> dict[str, Any]:
        flat = tf.nest.flatten(self._spec)
        tensors = tf.numpy_function(self._make_flat, [step], [part.dtype for part in flat], stateful=False)
        shaped = [tf.ensure_shape(tensor, part.shape) for tensor, part in zip(tensors, flat)]
        return tf.nest.pack_sequence_as(self._spec, shaped)

    def make(self, counter: int) -> dict[str, Any]:
        epoch, step = divmod(int(counter), self._order.steps_per_epoch)
        drawn = self._order.batch(epoch, step)
        pixels, taken = self._pixels(drawn, epoch)
        batch = {"image": pixels, "label": self._labels[taken], "index": taken}
        if self._on_device:
            batch["plan"] = self._plan(drawn, epoch)
        if self._chain.mixup is not None:
            self._mix(batch, drawn, epoch)
        return batch

    def _make_flat(self, counter: int) -> list[np.ndarray]:
        with exit_gate:
            return tf.nest.flatten(self.make(counter))

    def _batch_spec(self) -> dict[str, Any]:
        batch = self._shape[:1]
        spec = {"image": tf.TensorSpec(self._shape, tf.uint8), "label": tf.TensorSpec(batch, tf.int32)}
        spec["index"] = tf.TensorSpec(batch, tf.int64)
        plan = self._plan(np.zeros(batch, np.int64), 0) if self._on_device else ()
        plan = tuple(tf.TensorSpec(part.shape, part.dtype) for part in plan)
        if self._on_device:
            spec["plan"] = plan
        if self._chain.mixup is not None:
            spec.update(mix_label=spec["label"], mix_weight=tf.TensorSpec(batch, tf.float32))
            if self._on_device:
                spec.update(mix_image=spec["image"], mix_plan=plan)
        return spec

    def _plan(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, ...]:
        return tuple(self._chain.plan(self._seed, epoch, indices, self._shape[1]))

    def _pixels(self, drawn: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images, augmented unless the device will do that, and which they are."""
        augmented = len(self._chain) and not self._on_device
        places = self._rows_of(epoch, drawn) if self._rows_of else drawn
        if self._gather:
            if not augmented:
                return self._gather(drawn)
            return self._gather(drawn, self._chain.painter(self._seed, epoch, drawn, self._shape[1]))
        if augmented:
            return self._augmented([self._images[i] for i in places.tolist()], epoch, drawn), drawn
        pixels = self._buffers.empty((len(drawn), *self._shape[1:]))
        np.take(self._images, places, axis=0, out=pixels, mode="clip")  # "raise" would gather into a second buffer
        return pixels, drawn

    def _augmented(self, rows: Sequence[np.ndarray], epoch: int, indices: np.ndarray) -> np.ndarray:
        pixels = self._buffers.empty((len(indices), *self._shape[1:]))
        self._chain.write(rows, pixels, self._seed, epoch, indices)
        return pixels

    def _mix(self, batch: dict[str, Any], drawn: np.ndarray, epoch: int) -> None:
        """Mixes the images of a batch with their partners, which are read only where there are any."""
        mixing = self._chain.mixup.draw(self._seed, epoch, drawn, self._order.num_images)
        places = np.flatnonzero(mixing.mixed)
        batch["mix_label"], batch["mix_weight"] = batch["label"].copy(), mixing.weights
        if self._on_device:
            batch["mix_plan"] = self._plan(mixing.partners, epoch)
            batch["mix_image"] = batch["image"].copy()
        if not len(places):
            return
        partners, taken = self._pixels(mixing.partners[places], epoch)
        batch["mix_label"][places] = self._labels[taken]
        if self._on_device:
            batch["mix_image"][places] = partners
        else:
            mix(batch["image"], partners, mixing.weights)
