"""Rounding to a dtype, and distances in units of its last place (ULPs)."""

from typing import Any

import ml_dtypes
import numpy as np


def real_dtype(dtype: Any) -> np.dtype:
    """Return the dtype of the real and imaginary parts."""
    dtype = np.dtype(dtype)
    return {"c8": np.dtype("f4"), "c16": np.dtype("f8")}.get(dtype.str[1:], dtype)


def compute_dtype(dtype: Any) -> np.dtype:
    """Return the real dtype that the library computes in for such a parameter."""
    return np.dtype("f8" if real_dtype(dtype).itemsize == 8 else "f4")


def ulp(x: Any, dtype: Any) -> np.ndarray:
    """Return the spacing of `dtype` around the float64 values `x`."""
    info = ml_dtypes.finfo(real_dtype(dtype))
    x = np.asarray(x, np.float64)
    exponent = np.where(x == 0, int(info.minexp), np.frexp(x)[1] - 1)
    return np.ldexp(1.0, np.maximum(exponent, int(info.minexp)) - int(info.nmant))


def round_to(x: Any, dtype: Any) -> np.ndarray:
    """Round float64 values to the nearest of `dtype`, once, ties to even, as float64.

    `astype(bfloat16)` is not used: ml_dtypes goes through float32 and so rounds twice
    (1 + 2**-8 + 2**-40 becomes 1 instead of 1 + 2**-7).
    """
    x = np.asarray(x, np.float64)
    if real_dtype(dtype).itemsize == 8:
        return x
    spacing = ulp(x, dtype)
    with np.errstate(invalid="ignore"):
        rounded = np.rint(x / spacing) * spacing
        largest = float(ml_dtypes.finfo(real_dtype(dtype)).max)
        overflowed = np.where(
            np.abs(rounded) > largest, np.copysign(np.inf, x), rounded
        )
    return np.where(np.isfinite(x), overflowed, x)


def ulps(actual: Any, expected64: Any, dtype: Any) -> np.ndarray:
    """Return the distance of `actual` from float64 values, in ULPs of `dtype`.

    Equal infinities and two NaNs are 0 apart; a NaN or an infinity on one side only is
    infinitely far.
    """
    actual = np.asarray(as_reals(actual), np.float64)
    expected = np.asarray(as_reals(expected64), np.float64)
    with np.errstate(invalid="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        distance = np.abs(actual - expected) / ulp(expected, dtype)
    distance = np.where(np.isfinite(distance), distance, np.inf)
    return np.where(same, 0.0, distance)


def near_midpoint(x: Any, dtype: Any, slack: Any = 0.0) -> np.ndarray:
    """Tell where an error of `slack` could change the rounding of `x` to `dtype`."""
    if real_dtype(dtype).itemsize == 8:
        return np.zeros(np.shape(x), bool)
    spacing = ulp(x, dtype)
    part = np.abs(np.asarray(x, np.float64) / spacing) % 1.0
    return np.abs(part - 0.5) <= 0.01 + np.asarray(slack) / spacing


def as_reals(x: Any) -> np.ndarray:
    """View complex numbers as a last axis of two reals; leave reals alone."""
    x = np.asarray(x)
    if np.iscomplexobj(x):
        return np.stack([x.real, x.imag], axis=-1)
    return x
