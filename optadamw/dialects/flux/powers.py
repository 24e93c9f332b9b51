"""Find the number of steps from the running products of the betas.

Optimisers.jl keeps no step but `beta^(t+1)`, multiplied up in the parameters' dtype.
The products multiplied up here in the same dtype have the same bits, so t is the index
of the product that is equal. (From the logarithm, t = 20,000 in float32 would be off by
one: the roundings add up.)
"""

import numpy as np

from optadamw.base.errors import invalid


def products(beta: float, count: int, dtype: np.dtype) -> np.ndarray:
    """Return `beta`, `beta^2`, ..., multiplied up in `dtype`."""
    return np.multiply.accumulate(np.full(count, beta, dtype), dtype=dtype)


def step_of(
    powers: tuple[float, float], betas: tuple[float, float], dtype: np.dtype
) -> int | None:
    """Return the step t at which the products were `powers`; None if they do not tell.

    Raises:
      ValueError: no step of these betas has these products.
    """
    # Old Flux kept its powers in float64 whatever the parameters.
    kinds: tuple[np.dtype, ...] = (
        np.dtype(dtype),
        np.dtype(np.float32),
        np.dtype(np.float64),
    )
    for kind in dict.fromkeys(kinds):
        for power, beta, other, other_beta in (
            (powers[1], betas[1], powers[0], betas[0]),
            (powers[0], betas[0], powers[1], betas[1]),
        ):
            if beta == 0 or power == 0:
                continue
            count = _count(power, beta)
            places = np.flatnonzero(products(beta, count, kind) == kind.type(power))
            if places.size > 1:
                continue  # so small that it no longer shrinks
            if places.size == 1:
                t = int(places[0])
                if products(other_beta, t + 1, kind)[-1] == kind.type(other):
                    return t
    if all(power < np.finfo(dtype).tiny for power in powers):
        return None
    raise invalid(
        "betas",
        f"those of the saved state, whose powers are {powers}",
        betas,
        "Pass betas=(b1, b2) as AdamW was given them, or step=.",
    )


def _count(power: float, beta: float) -> int:
    """Return how many products to form to reach `power`, with room for roundings."""
    if not 0 < power < 1 or not 0 < beta < 1:
        return 1
    return min(int(np.log(power) / np.log(beta) * 1.05) + 16, 20_000_000)
