"""The codes of FlashOptim (arXiv 2602.23349), computed by its package for JAX.

Both are rounded to nearest, beside one float16 scale for 32 numbers. The first moment
is divided by the largest of its block and bent by a softsign before it is rounded to
127 steps; of the second moment the square root is rounded to 255 equal steps.
"""

import importlib.util
from typing import Any

from benchmarks.codes.code import Code

BLOCK = 32
"""The package's default, and the paper's."""

MISSING = (
    "FlashOptim's package is not installed: pip install flashoptim-jax==0.1.0, "
    "in any environment that has JAX."
)


def is_installed() -> bool:
    """Whether `flashoptim-jax` can be imported."""
    return importlib.util.find_spec("flashoptim_jax") is not None


def momentum() -> Code:
    """Return the code of the first moment."""
    from flashoptim_jax import dequantize_momentum, quantize_momentum

    return _code("FlashOptim mu", quantize_momentum, dequantize_momentum)


def variance() -> Code:
    """Return the code of the second moment."""
    from flashoptim_jax import dequantize_variance, quantize_variance

    return _code("FlashOptim nu", quantize_variance, dequantize_variance)


def _code(name: str, quantize: Any, dequantize: Any) -> Code:
    return Code(
        name,
        lambda values, _: quantize(values, values.shape[-1]),
        lambda stored: dequantize(stored, stored.values.shape[-1]),
        BLOCK,
        element_bits=8,
        scale_bits=16,
    )
