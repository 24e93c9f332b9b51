"""The shapes of a decoder with a given number of parameters."""

import math

import jax
import jax.numpy as jnp

from optadamw.base.types import DTypeLike

_VOCABULARY = 32_000


def decoder(
    count: float, dtype: DTypeLike, devices: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes of a decoder of about `count` parameters, its layers stacked.

    The width is 128 times the number of layers, as in decoders from 1e8 to 1e11
    parameters within a factor of 2. Memory depends only on the number of parameters,
    nearly all of which are in large matrices. A model below 1e7 parameters has fewer
    words, so that its embeddings leave room for a layer.

    The width is a multiple of `devices` unless it is below that number, because a
    matrix of which `devices` divides no dimension would be whole on each of them.
    """
    if count < 1e7:
        width = _divisible(32 if count < 1e6 else 128, devices)
        words = max(16, round((count - 12 * width * width) / (2 * width)))
        return _shapes(words, width, 1, dtype)
    width = 128
    while _size(width + 128) <= count:
        width += 128
    width = _divisible(width, devices)
    body = 12 * width * width
    layers = max(1, round((count - 2 * _VOCABULARY * width) / body))
    return _shapes(_VOCABULARY, width, layers, dtype)


def _divisible(width: int, devices: int) -> int:
    """Return the largest multiple of `devices` up to `width`, of 128 too if it can."""
    for step in (math.lcm(128, devices), devices):
        if step <= width:
            return width // step * step
    return width


def _shapes(
    words: int, width: int, layers: int, dtype: DTypeLike
) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {
        "embedding": (words, width),
        "attention": (layers, 4, width, width),
        "mlp": (layers, 2, width, 4 * width),
        "scales": (layers, 2, width),
        "head": (width, words),
    }
    return {
        name: jax.ShapeDtypeStruct(s, jnp.dtype(dtype)) for name, s in shapes.items()
    }


def _size(width: int) -> int:
    return 2 * _VOCABULARY * width + max(1, width // 128) * 12 * width * width
