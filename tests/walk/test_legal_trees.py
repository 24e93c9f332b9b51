"""Trees that look odd and are legal: a missing gradient, another precision, NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.base.tree import Leaves
from tests.walk.test_bad_trees import (
    AFTER,
    CALLS,
    GRADS,
    PARAMS,
    STATE,
    bits,
    tree,
    with_bias,
)

FLOAT0 = np.zeros(3, jax.dtypes.float0)


@pytest.mark.parametrize(
    ("leaf", "wrap"),
    [(None, jax.jit), (None, lambda step: step), (FLOAT0, lambda step: step)],
    ids=["None-jit", "None", "float0"],
)
def test_no_gradient_leaves_a_parameter_and_its_buffers(leaf, wrap):
    tx = optadamw.adamw(0.1, ema_decay=0.5, amsgrad=True)
    state = tx.init(PARAMS)
    _, state = tx.step(GRADS, state, PARAMS)
    params, after = wrap(tx.step)(with_bias(leaf, GRADS), state, PARAMS)
    for name in ("mu", "nu", "nu_max", "ema"):
        old, new = getattr(state, name), getattr(after, name)
        assert bits(old["encoder"]["b"]) == bits(new["encoder"]["b"]), name
        assert bits(old["encoder"]["w"]) != bits(new["encoder"]["w"]), name
    assert bits(params["encoder"]["b"]) == bits(PARAMS["encoder"]["b"])
    assert int(after.step) == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_another_precision_are_legal(dtype):
    params, state = CALLS["jit(step)"](tree(0.5, dtype), STATE, PARAMS)
    types = jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
    assert types == jax.tree.map(lambda x: (x.shape, x.dtype), (PARAMS, STATE))


def test_numpy_gradients_states_and_parameters_are_legal():
    host = jax.tree.map(np.asarray, (GRADS, STATE, PARAMS))
    assert bits(CALLS["jit(step)"](*host)) == AFTER


def test_the_paths_of_many_leaves_are_made_once(monkeypatch):
    """Made anew for each leaf, they took half of the time to trace 1,000 leaves."""
    made, whole = [], Leaves.paths.func
    counted = lambda leaves: made.append(leaves) or whole(leaves)  # noqa: E731
    monkeypatch.setattr(Leaves.paths, "func", counted)
    tx = optadamw.adamw(0.1)
    params = {f"w{i}": jax.ShapeDtypeStruct((2,), jnp.float32) for i in range(60)}
    state = jax.eval_shape(tx.init, params)
    made.clear()
    jax.eval_shape(tx.step, params, state, params)
    assert 0 < len(made) < 20
