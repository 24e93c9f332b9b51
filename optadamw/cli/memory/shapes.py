"""The shapes of a decoder with about so many parameters."""

import jax
import jax.numpy as jnp

from optadamw.base.types import DTypeLike

_VOCABULARY = 32_000


def decoder(count: float, dtype: DTypeLike) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a decoder of about `count` parameters, its layers stacked for a scan.

    128 wide for each layer, as decoders from 1e8 to 1e11 parameters are within a
    factor of 2; what memory depends on is their number and that nearly all of them
    are in large matrices.
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
