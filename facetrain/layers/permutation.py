"""A random order of 0..n-1 of which any part can be computed by itself."""

from __future__ import annotations

import tensorflow as tf

ROUNDS = 8


def permuted(first: int, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns the first elements of a random permutation of 0..size-1; time and memory grow with ``first`` alone.

    A Feistel network, keyed by ``seed``, permutes the numbers below the next power of two; what falls beyond ``size``
    is sent through it again until it does not (Black and Rogaway, CT-RSA 2002). A pure function: nothing is stored.

    Args:
        first: how many elements, at most ``size``.
        size: n, in [1, 2^31).
        seed: [2] int64, such as (seed, step).
    Returns:
        [first] int32, distinct.
    """
    keys = tf.random.stateless_uniform([ROUNDS], seed, minval=None, maxval=None, dtype=tf.uint32)
    bits = max(2, (size - 1).bit_length())
    limit = tf.constant(size, tf.uint32)
    found = _feistel(tf.cast(tf.range(first), tf.uint32), keys, bits)
    outside = tf.where(found >= limit)

    def again(found: tf.Tensor, outside: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        moved = _feistel(tf.gather_nd(found, outside), keys, bits)
        return tf.tensor_scatter_nd_update(found, outside, moved), tf.boolean_mask(outside, moved >= limit)

    found, _ = tf.while_loop(
        lambda _, outside: tf.shape(outside)[0] > 0,
        again,
        (found, outside),
        shape_invariants=(found.shape, tf.TensorShape([None, 1])),
    )
    return tf.cast(found, tf.int32)


def _feistel(numbers: tf.Tensor, keys: tf.Tensor, bits: int) -> tf.Tensor:
    """Permutes the numbers below 2**bits; the two halves may differ by one bit and change places in each round."""
    high, low = bits // 2, bits - bits // 2
    left, right = tf.bitwise.right_shift(numbers, _u32(low)), tf.bitwise.bitwise_and(numbers, _u32((1 << low) - 1))
    for key in tf.unstack(keys):
        mixed = tf.bitwise.bitwise_and(_mixed(tf.bitwise.bitwise_xor(right, key)), _u32((1 << high) - 1))
        left, right = right, tf.bitwise.bitwise_xor(left, mixed)
        high, low = low, high
    return tf.bitwise.bitwise_or(tf.bitwise.left_shift(left, _u32(low)), right)


def _mixed(numbers: tf.Tensor) -> tf.Tensor:
    """Hashes each number so that every bit depends on every bit (multiply and shift, twice)."""
    for factor, shift in ((0x85EBCA6B, 15), (0xC2B2AE35, 16)):
        numbers = numbers * _u32(factor)
        numbers = tf.bitwise.bitwise_xor(numbers, tf.bitwise.right_shift(numbers, _u32(shift)))
    return numbers


def _u32(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)
