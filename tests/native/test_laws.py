"""Every row of the suite's table: a step by kernels has the bits of XLA's path.

Each step starts from what XLA's step before it has made. `tests/laws/exact_lane.py` has
the same law where no products are contracted, without exceptions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.native import running
from tests.support import trajectories, trees
from tests.support.contracted import CONTRACTED, assert_within_an_ulp
from tests.support.over import over
from tests.support.transformations import ROWS

pytestmark = running.needs_compiler


@over(ROWS)
def test_a_step_by_kernels_is_the_step_by_xla(row):
    run = trajectories.of(row)
    step, by_xla = (
        jax.jit(optadamw.with_kernels(row.make(), kernel).step)
        for kernel in ("auto", "xla")
    )
    before = run.params, run.state
    for grads in run.grads:
        actual = step(grads, before[1], before[0])
        after = by_xla(grads, before[1], before[0])
        if row.name in CONTRACTED:
            assert_within_an_ulp(actual, after)
        else:
            trajectories.assert_agree(row, tuple(actual), after)
        before = after


FAULTS = {
    "no product is contracted": ("__builtin_fmaf(a, b, c)", "((a) * (b) + (c))"),
    "an element is left out": ("i < n;", "i + 1 < n;"),
    "denormals are kept": ("old | 0x8040u", "old & ~0x8040u"),
    "a skipped step is taken": (
        "if (!*(const uint8_t *)argument(frame, 0)->data) return NULL;",
        "",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_source_is_noticed(name, monkeypatch):
    with running.planted(monkeypatch, *FAULTS[name]):
        with pytest.raises(AssertionError, match="differ"):
            check_one_step()


def check_one_step():
    """Compare a taken step and a skipped one, with denormals among the gradients."""
    xla, native = (
        optadamw.adamw(0.1, skip_nonfinite=True, ema_decay=0.5, kernel=kernel)
        for kernel in ("xla", "native")
    )
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=300_000), jnp.float32)}
    good = {"w": params["w"][::-1].at[::9].set(1e-39)}
    for grads in (good, {"w": good["w"].at[5].set(jnp.nan)}):
        ends = [
            jax.jit(lambda g, p, tx=tx: tx.step(g, tx.init(p), p))(grads, params)
            for tx in (native, xla)
        ]
        trees.assert_same_bits(*ends)
