"""Gradients that are hard on a block: outliers, zeros, extremes, rare rows, long tails.

Alone, a code shows which of the moments is to blame for a large update; in a pair, what
the floors of both do together. A step uses its moments before they are rounded.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.codes.code import Array
from benchmarks.codes.rank_one import AnyCode
from benchmarks.codes.training import Pair

_SHAPE = (8, 256)
_STEPS = 1500
_B1, _B2, _EPS = 0.9, 0.999, 1e-8
_PERIOD = 500


def cases() -> dict[str, dict[str, np.ndarray]]:
    """For each case each element's size, how often it has a gradient, and its turn."""
    random = np.random.default_rng(0)
    rows, columns = np.indices(_SHAPE)
    ones = np.ones(_SHAPE, np.float32)

    def case(size: Any, period: Any = 1, turn: Any = 0) -> dict[str, np.ndarray]:
        return {
            "size": np.broadcast_to(size, _SHAPE).astype(np.float32),
            "period": np.broadcast_to(period, _SHAPE).astype(np.int32),
            "turn": np.broadcast_to(turn, _SHAPE).astype(np.int32),
        }

    wide = 10.0 ** random.uniform(-15, 15, _SHAPE)
    return {
        "outlier": case(np.where(columns % 32 == 7, 1e4, ones)),
        "zeros": case(0 * ones),
        "half_zeros": case(columns % 2),
        "denormal": case(1e-21 * ones),
        "wide_rows": case(10.0 ** (4 * rows - 14)),
        "wide_block": case(wide),
        "rare_rows": case(ones, _PERIOD, 31 * rows),
        "rare_columns": case(ones, np.where(columns % 2, _PERIOD, 1), 31 * columns),
    }


def of(pair: Pair, heavy_tails: bool = False) -> dict[str, dict[str, float]]:
    """The updates in every case, against those of float32 moments.

    With `heavy_tails` the gradients are drawn from Student's distribution with 3
    degrees of freedom, otherwise from the normal distribution.

    Returns:
        For each case `peak`, the largest |update| of an element over all steps (outside
        the outliers); `float32_peak`; `displacement_error`, RMS of the difference of
        all updates summed, against the RMS of float32's; `finite`, whether all were.
    """
    found = {}
    for name, gradients in cases().items():
        counts = gradients["size"] < 1e4 if name == "outlier" else np.full(_SHAPE, True)
        peak, exact_peak, moved, exact_moved = _run(pair, heavy_tails, gradients)
        apart, whole = (
            float(jnp.sqrt((part[counts] ** 2).mean()))
            for part in (moved - exact_moved, exact_moved)
        )
        found[name] = {
            "peak": float(peak[counts].max()),
            "float32_peak": float(exact_peak[counts].max()),
            "displacement_error": apart / whole if whole else apart,
            "finite": bool(jnp.isfinite(peak).all() and jnp.isfinite(moved).all()),
        }
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _run(pair: Pair, heavy_tails: bool, gradients: dict[str, Array]) -> Any:
    root = jax.random.key(7)
    sizes, period, turn = (gradients[key] for key in ("size", "period", "turn"))

    def update(mu: Array, nu: Array, count: Array) -> Array:
        mu = mu / (1 - _B1**count)
        nu = nu / (1 - _B2**count)
        return mu / (jnp.sqrt(nu) + _EPS)

    def step(index: Array, carry: Any) -> Any:
        stored, exact, peak, exact_peak, moved, exact_moved = carry
        noisy, *random = jax.random.split(jax.random.fold_in(root, index), 3)
        due = (index - turn) % period == 0
        draw = _student if heavy_tails else jax.random.normal
        gradient = jnp.where(due, sizes * draw(noisy, _SHAPE), 0)

        def advanced(mu: Array, nu: Array) -> tuple[Array, Array]:
            return (
                _B1 * mu + (1 - _B1) * gradient,
                _B2 * nu + (1 - _B2) * gradient**2,
            )

        exact = advanced(*exact)
        coded = advanced(*map(_load, pair, stored))
        stored = tuple(map(_store, pair, coded, random))
        count = (index + 1).astype(jnp.float32)
        right, made = update(*exact, count), update(*coded, count)
        peak = jnp.maximum(peak, jnp.abs(made))
        exact_peak = jnp.maximum(exact_peak, jnp.abs(right))
        return stored, exact, peak, exact_peak, moved + made, exact_moved + right

    zeros = jnp.zeros(_SHAPE)
    first = tuple(_store(code, zeros, root) for code in pair)
    start = first, (zeros, zeros), zeros, zeros, zeros, zeros
    return jax.lax.fori_loop(0, _STEPS, step, start)[2:]


def _student(key: Array, shape: tuple[int, ...]) -> Array:
    normal, *others = jax.random.normal(key, (4, *shape))
    return normal / jnp.sqrt(sum(z * z for z in others) / len(others))


def _store(code: AnyCode | None, values: Array, key: Array) -> Any:
    if code is None:
        return values
    return code.store(values, jax.random.bits(key, _SHAPE, jnp.uint32))


def _load(code: AnyCode | None, stored: Any) -> Array:
    return stored if code is None else code.load(stored, _SHAPE)
