"""Laws of donation: a step replaces parameters and state in place."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests import trajectories
from tests.transformations import ROWS, Row, over

each_row = over(ROWS)

TEMPORARIES = {
    **dict.fromkeys(
        ("scale_by_adam-options", "adamw-mu_dtype", "adamw-everything_elementwise"),
        "XLA copies a 16-bit moment that is read after it was written: half the tree",
    ),
    **dict.fromkeys(
        ("cautious", "adamw-caution", "adamw-everything"),
        "XLA's CPU scheduler keeps the directions of all leaves for their means",
    ),
}

LEAF = 1024 * 1024
LARGE = {
    f"kernel{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(4)
}
LARGE_BYTES = len(LARGE) * 4 * LEAF


@over(ROWS, TEMPORARIES)
def test_a_donated_step_allocates_nothing(row):
    tx = row.make()
    state = tx.init(LARGE)
    _assert_in_place(row, tx.jit_step.lower(LARGE, state, LARGE), (LARGE, state))


@over(ROWS, TEMPORARIES)
def test_a_donated_train_step_allocates_nothing(row):
    tx = row.make()
    state = tx.init(LARGE)

    def train(params: Any, state: Any, grads: Any) -> Any:
        return tx.step(grads, state, params)

    step = jax.jit(train, donate_argnums=(0, 1))
    _assert_in_place(row, step.lower(LARGE, state, LARGE), (LARGE, state))


def _assert_in_place(row: Row, lowered: Any, donated: Any) -> None:
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes == _bytes(donated)
    # Of a norm or mean over one parameter, XLA's CPU backend may keep the terms.
    allowed = 4 * LEAF if "parameter" in row.sums else LARGE_BYTES // 100
    assert memory.temp_size_in_bytes <= allowed


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@each_row
def test_fresh_leaves_share_no_buffer(row):
    """Donation refuses a buffer that it is given twice."""
    run = trajectories.of(row)
    twice = run.params["kernel"]
    params = run.params | {"kernel_too": twice}
    for init in (run.tx.init, jax.jit(run.tx.init)):
        leaves = jax.tree.leaves((init(params), run.params))
        buffers = [x.unsafe_buffer_pointer() for x in leaves]
        assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize("form", ["NumPy", "JAX"])
def test_fresh_state_does_not_follow_the_parameters(form):
    """Not even those that share the memory of a NumPy array."""
    numbers = jnp.zeros if form == "JAX" else np.zeros
    params = {"kernel": numbers((64, 64), "float32")}
    tx = optadamw.adamw(0.1, ema_decay=0.5)
    state = tx.init(params)
    if form == "NumPy":
        params["kernel"] += 1.0
    else:
        params["kernel"].delete()
    assert not jnp.any(optadamw.ema_of(state)["kernel"])
