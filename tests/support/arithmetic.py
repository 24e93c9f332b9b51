"""Float64 arithmetic of the oracle: sums, norms and quotients."""

import math
from typing import Any

import numpy as np


def moment_condition(mu: Any, g: Any, b1: float) -> np.ndarray:
    """Return the condition number of `b1 * mu + (1 - b1) * g` as a sum.

    A relative error of one ULP in a term is that many ULPs of the sum: where the old
    moment and the gradient cancel, no float32 arithmetic is accurate in the sum's ULPs.
    """
    kept, new = b1 * np.asarray(mu, np.float64), (1 - b1) * np.asarray(g, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        condition = (np.abs(kept) + np.abs(new)) / np.abs(kept + new)
    return np.where(np.isnan(condition), 1.0, condition)


def one_minus_power(beta: float, t: float) -> float:
    """Return 1 - beta**t without cancellation ([KB] Algorithm 1, lines 9 and 10)."""
    if t == 0:
        return 0.0
    if beta == 0:
        return 1.0
    return -math.expm1(t * math.log1p(beta - 1))


def norm(arrays: Any) -> float:
    """Return the Euclidean norm of all elements of all arrays."""
    # Scaled by the largest element: 1e200 is a legal float64 gradient.
    arrays = [np.abs(a) for a in arrays if a.size]
    largest = max((float(a.max()) for a in arrays), default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(sum(float(np.sum((a / largest) ** 2)) for a in arrays))


def norm_factor(norm: float, limit: float, eps: float = 0.0) -> float:
    """Return [PMB]'s factor; a norm that is not finite limits nothing."""
    if norm == 0 or not math.isfinite(norm):
        return 1.0
    return min(1.0, limit / (norm + eps))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; a zero denominator gives 0."""
    zero = denominator == 0
    with np.errstate(invalid="ignore"):  # inf / inf is NaN, as it should be
        return np.where(zero, 0.0, numerator / np.where(zero, 1.0, denominator))


def moment_magnitude(
    terms: list[tuple[np.ndarray, float]],
    mu: np.ndarray,
    g: np.ndarray,
    b1: float,
    nesterov: bool,
) -> np.ndarray:
    """Return the sum of the magnitudes of the terms of the numerator."""
    if not nesterov:
        return sum(np.abs(a) / c for a, c in terms)
    moment = np.abs(b1 * mu) + np.abs((1 - b1) * g)
    return b1 * moment / terms[0][1] + np.abs(terms[1][0]) / terms[1][1]
