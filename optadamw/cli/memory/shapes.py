"""The shapes of a decoder with a given number of parameters."""

import jax
import jax.numpy as jnp

from optadamw.base.types import DTypeLike

_VOCABULARY = 32_000


def decoder(count: float, dtype: DTypeLike) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes of a decoder of about `count` parameters, its layers stacked.

    The width is 128 times the number of layers, as in decoders from 1e8 to 1e11
    parameters within a factor of 2. Memory depends only on the number of parameters,
    nearly all of which are in large matrices. A model below 1e7 parameters has fewer
    words, so that its embeddings leave room for a layer.
    """
    width = 128
    if count < 1e7:
        width = 32 if count < 1e6 else 128
        words = max(16, round((count - 12 * width * width) / (2 * width)))
        return _shapes(words, width, 1, dtype)
    while _size(width + 128) <= count:
        width += 128
    body = 12 * width * width
    layers = max(1, round((count - 2 * _VOCABULARY * width) / body))
    return _shapes(_VOCABULARY, width, layers, dtype)


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
