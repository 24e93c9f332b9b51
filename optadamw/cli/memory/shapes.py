"""The shapes of a decoder with a given number of parameters."""

import jax
import jax.numpy as jnp

from optadamw.base.types import DTypeLike

_VOCABULARY = 32_000


def decoder(count: float, dtype: DTypeLike) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes of a decoder of about `count` parameters, its layers stacked.

    The width is 128 times the number of layers, as in decoders from 1e8 to 1e11
    parameters within a factor of 2. Memory depends only on the number of parameters,
    nearly all of which are in large matrices.
    """
    width = 128
    while _size(width + 128) <= count:
        width += 128
    body = 12 * width * width
    layers = max(1, round((count - 2 * _VOCABULARY * width) / body))
    shapes = {
        "embedding": (_VOCABULARY, width),
        "attention": (layers, 4, width, width),
        "mlp": (layers, 2, width, 4 * width),
        "scales": (layers, 2, width),
        "head": (width, _VOCABULARY),
    }
    return {
        name: jax.ShapeDtypeStruct(s, jnp.dtype(dtype)) for name, s in shapes.items()
    }


def _size(width: int) -> int:
    return 2 * _VOCABULARY * width + max(1, width // 128) * 12 * width * width
