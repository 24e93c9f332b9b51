"""Parameters, gradients and runs for the numbers of the rules."""

from typing import Any

import ml_dtypes
import numpy as np

BF16 = ml_dtypes.bfloat16
SHAPES = {"w": (3, 5), "b": (7,), "s": ()}


def trees(
    dtype: Any = np.float32, steps: int = 5, size: float = 1.0
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Return parameters, and gradients that grow and shrink a hundredfold."""
    rng = np.random.default_rng(0)

    def normal(shape: tuple[int, ...], size: float) -> np.ndarray:
        x = rng.normal(size=shape) * size
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.normal(size=shape) * size
        return np.asarray(x).astype(dtype)

    params = {name: normal(shape, 1.0) for name, shape in SHAPES.items()}
    gradients = [
        {
            name: normal(shape, size * 10.0 ** (t % 3 - 1))
            for name, shape in SHAPES.items()
        }
        for t in range(steps)
    ]
    return params, gradients
