"""Every transformation of the suite's table in each of JAX's modes.

A row takes two steps, an update, and a flush if it accumulates, in and out of the mode:
the numbers are the same, and nothing is raised. Every schedule of ours drives the rate
of AdamW under strict promotion.
"""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optadamw
from tests.campaigns.campaign import Case
from tests.schedules.calls import OURS
from tests.support import trees
from tests.support.trajectories import kinds_of
from tests.support.transformations import ROWS, Row

MODES: dict[str, Callable[[], Any]] = {
    # The first mode of each row, so that leaf functions too are traced in it.
    "check_tracer_leaks": jax.checking_leaks,
    "strict dtypes": partial(jax.numpy_dtype_promotion, "strict"),
    "strict ranks": partial(jax.numpy_rank_promotion, "raise"),
    "debug_nans": partial(jax.debug_nans, True),
    "debug_infs": partial(jax.debug_infs, True),
    "enable_checks": partial(jax.enable_checks, True),
    "transfer_guard": partial(jax.transfer_guard, "disallow"),
    "disable_jit": jax.disable_jit,
    "x64": partial(jax.enable_x64, True),
}
JITTED = ("check_tracer_leaks", "transfer_guard")
"""Modes that are about compiled steps: eager mode makes arrays of numbers."""
TO_ROUNDING = ("disable_jit", "x64")
"""Modes in which other programs compute the numbers."""


def cases(full: bool) -> Iterator[Case]:
    """All rows in all modes; in the short form one row in each mode."""
    rows = [row for row in ROWS if full or row.name == "adamw-numbers"]
    for row in rows:
        for mode in MODES:
            yield Case(f"{mode}, {row.name}", partial(_row, mode, row))
    for mode in ("strict dtypes", "strict ranks", "x64"):
        for name in list(OURS)[:: 1 if full else 30]:
            yield Case(f"{mode}, schedule {name}", partial(_schedule, mode, name))


def _row(mode: str, row: Row) -> None:
    kinds = kinds_of(row)
    trees_of = [trees.normal(kinds, seed) for seed in range(3)]
    if mode in JITTED:
        _compiled(mode, row.make(), *trees_of)
        return
    expected, befores = _expected(row)
    with MODES[mode]():
        found, _ = _run(row.make(), *trees_of, befores=befores, lands=row.overwrites)
    if mode in TO_ROUNDING:
        _assert_near(found, expected)
    else:
        trees.assert_same_bits(found, expected)


@functools.lru_cache(1)
def _expected(row: Row) -> Any:
    """Run a row in no mode, once for all its modes."""
    drawn = [trees.normal(kinds_of(row), seed) for seed in range(3)]
    return _run(row.make(), *drawn, lands=row.overwrites)


def _compiled(mode: str, tx: Any, params: Any, *grads: Any) -> None:
    state = tx.init(params)
    step = jax.jit(lambda g, s, p: tx.step(g, s, p))
    if mode == "transfer_guard":  # numbers are made where a step is traced
        step(grads[0], state, params)
    with MODES[mode]():
        found = step(grads[0], state, params)
    trees.assert_same_bits(found, jax.jit(tx.step)(grads[0], state, params))


def _run(
    tx: Any, params: Any, *grads: Any, befores: Any = (), lands: bool = False
) -> Any:
    """Take steps, each from where the last one ended, or from `befores`.

    If `lands`, an update is returned as the parameter where it ends: one that copies an
    average into the parameter is the difference of two numbers of the parameter's size,
    whose rounding is not small beside the difference.
    """
    carry, results, starts = (params, tx.init(params)), [], []
    for number, g in enumerate(grads):
        params, state = carry = befores[number] if befores else carry
        starts.append(carry)
        carry = tuple(tx.step(g, state, params))
        update, after = tx.update(g, state, params)
        if lands:
            update = jax.tree.map(
                lambda p, u: (p.astype(u.dtype) + u).astype(p.dtype), params, update
            )
        results += [carry, (update, after)]
    params, state = carry
    if state.micro_step is not None:
        results.append(tx.flush(state, params))
    return results, starts


def _assert_near(found: Any, expected: Any) -> None:
    """Assert that numbers are 1e-5 of the largest of their leaf apart, or less.

    Where numbers are rounded to 16 or 8 bits, the last bit does not count.
    """
    trees.assert_same_types(found, expected)
    pairs = jax.tree_util.tree_leaves_with_path(found)
    for (path, a), b in zip(pairs, jax.tree.leaves(expected), strict=True):
        x, y = (np.asarray(v, np.float64).ravel() for v in (a, b))
        size = max(float(np.max(np.abs(y), initial=0.0)), 1e-30)
        apart = float(np.max(np.abs(x - y) / size, initial=0.0))
        limit = 2.0**-6 if b.dtype.itemsize < 4 else 1e-5
        assert apart <= limit, f"{jax.tree_util.keystr(path)} is {apart} apart"


def _schedule(mode: str, name: str) -> None:
    params = trees.normal(trees.FLOATS, 0)
    expected, _ = _run(optadamw.adamw(OURS[name]()), params, params)
    with MODES[mode]():
        schedule = OURS[name]()
        found, _ = _run(optadamw.adamw(schedule), params, params)
        for step in (0, 7, 10**6):
            assert np.isfinite(schedule(jnp.int32(step)))
    assert trees.largest_difference(found, expected) <= 1e-6
