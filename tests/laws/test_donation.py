"""Laws of donation: a step replaces parameters and state in place."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.support import trajectories
from tests.support.compilations import Compilations
from tests.support.over import over
from tests.support.transformations import EVERYTHING, WIDE, Row

each_row = over(WIDE)
everything = over(EVERYTHING)

HEEDED = jax.__version_info__ >= (0, 12)
"""Whether XLA's CPU backend keeps optimization barriers until it orders its passes."""

TEMPORARIES = {
    # The exponents of the blocks, in int32, and the old scales; and the old moments,
    # where the barrier that puts the passes in order is not heeded.
    "adamw-8-bit-nearest": 0.05 if HEEDED else 0.65,
    "adamw-16-bit-nearest": 0.0 if HEEDED else 1.5,
    "scale_by_adam-options": 0.0 if HEEDED else 0.5,
    "adamw-mu_dtype": 0.0 if HEEDED else 0.5,
    "adamw-everything_elementwise": 0.0 if HEEDED else 0.5,
    # The old velocity and its scales, as for a first moment in 8 bits.
    "custom-momentum-8-bit": 0.05 if HEEDED else 0.3,
    # An overwrite is the number before it is rounded, beside the one that is kept.
    "custom-lookahead-16-bit": 1.5,
    # XLA's CPU backend keeps what a mean or a norm has yet to be taken of.
    "cautious": 1.0,
    "adamw-caution": 1.0,
    "adamw-everything": 2.0,
    "adamw-stats": 1.0,
}
"""Rows that need memory of their own, as a share of the parameters' bytes."""

LEAF = 1024 * 1024
LARGE = {
    f"kernel{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(4)
}
LARGE_BYTES = len(LARGE) * 4 * LEAF


@each_row
def test_a_jitted_step_allocates_nothing(row):
    tx = row.make()
    state = tx.init(LARGE)
    _assert_in_place(row, tx.jit_step.lower(LARGE, state, LARGE), (LARGE, state))


@each_row
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
    allowed = TEMPORARIES.get(row.name, 0.0) + 0.01
    assert memory.temp_size_in_bytes <= allowed * LARGE_BYTES


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@everything
def test_a_jitted_step_takes_what_it_is_given_and_is_shared(row):
    run = trajectories.of(row)
    carry, compiled = jax.tree.map(jnp.copy, (run.params, run.state)), []
    for grads, expected in zip(run.grads, run.after, strict=True):
        params, state = carry
        with Compilations() as compilations:
            carry = row.make().jit_step(grads, state, params, loss=1.0)
        trajectories.assert_agree(row, carry, expected)
        assert all(x.is_deleted() for x in jax.tree.leaves((params, state)))
        compiled.append(compilations.count)
    assert compiled == [1, 0, 0]


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
