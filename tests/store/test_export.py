"""A step that takes and returns a State can be exported, stored and called again."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

import optadamw
from tests.support import trees

PARAMS = trees.normal(trees.FLOATS, seed=0)
GRADS = trees.normal(trees.FLOATS, seed=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.9, "amsgrad": True, "accumulate_steps": 2},
        {"skip_nonfinite": True, "stats": True, "clip_global_norm": 1.0},
        {"mu_dtype": optadamw.blockwise(min_size=0), "skip_nonfinite": True},
    ],
    ids=["plain", "average-window", "guard-stats", "blocks"],
)
def test_an_exported_step_computes_what_the_step_does(options):
    # A module has XLA's own code; kernels round a global norm in another way.
    tx = optadamw.adamw(0.1, kernel="xla", **options)
    state = tx.init(PARAMS)
    exported = export.export(jax.jit(tx.step))(GRADS, state, PARAMS)
    again = export.deserialize(exported.serialize())
    expected = jax.jit(tx.step)(GRADS, state, PARAMS)
    found = again.call(GRADS, state, PARAMS)
    assert isinstance(found[1], optadamw.State)
    trees.assert_same_bits(found, expected)


def test_a_swapped_state_can_be_exported():
    tx = optadamw.adamw(0.1, ema_decay=0.9)
    _, swapped = optadamw.swap_ema(tx.init(PARAMS), PARAMS)
    exported = export.export(jax.jit(lambda s: jax.tree.map(jnp.negative, s)))(swapped)
    found = export.deserialize(exported.serialize()).call(swapped)
    assert type(found) is type(swapped)
