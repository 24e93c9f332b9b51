"""Laws of leaves: any tree of numbers is a tree of parameters; None is no gradient."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw.store.state import state_replacing
from tests.support import trees
from tests.support.over import over
from tests.support.transformations import EVERYTHING, WIDE, Row

each_row = over(WIDE)
everything = over(EVERYTHING)


class Layer(NamedTuple):
    """A container that is no dict."""

    kernel: Any
    bias: Any


_TWO = np.array([1.5, -2.5], np.float32)

TREES = {
    "nothing": {},
    "empty containers": {"a": {}, "b": [], "c": (), "d": None},
    "None among leaves": {"kernel": jnp.asarray(_TWO), "frozen": None},
    "zero-size": {"kernel": jnp.zeros((0, 3)), "bias": jnp.zeros((2, 0))},
    "0-d": {"kernel": jnp.float32(0.5)},
    "NumPy": {"kernel": _TWO, "bias": np.float32(0.5), "wide": np.ones(2)},
    "Python numbers": {"kernel": 0.5, "bias": [1.0, -2.0]},
    "containers": {"kernel": (Layer(jnp.asarray(_TWO), None), [jnp.ones(()), {}])},
    "one leaf": jnp.asarray(_TWO),
    "long": {"kernel": [jnp.float32(i) for i in range(11)]},
}
each_tree = pytest.mark.parametrize("params", TREES.values(), ids=TREES)


@each_row
@pytest.mark.parametrize("kind", TREES)
def test_trees_of_all_kinds_can_be_traced(row, kind):
    """C16, and Python numbers of C17."""
    params, tx = TREES[kind], row.make()
    if kind == "one leaf" and row.is_plain and row.is_per_path:
        with pytest.raises(ValueError, match="matches no parameter"):
            tx.init(params)
        return
    state = tx.init(params)
    after = jax.eval_shape(tx.step, params, state, params)
    arrays = jax.tree.map(jnp.asarray, params)
    trees.assert_same_types(tuple(after), (arrays, state))
    is_leaf = (lambda node: node is None) if row.has_gaps else None
    structure = jax.tree.structure(params, is_leaf=is_leaf)
    for buffer in trees.buffers_of(state).values():
        assert jax.tree.structure(buffer, is_leaf=is_leaf) == structure


@each_tree
def test_updates_can_be_applied_to_trees_of_all_kinds(params):
    tx = optadamw.adamw(0.1, weight_decay=0.1, clip_global_norm=1.0, ema_decay=0.5)
    state = tx.init(params)
    for _ in range(2):
        updates, next_state = tx.update(params, state, params)
        stepped, state = tx.step(params, state, params)
        applied = optax.apply_updates(params, updates)
        assert jax.tree.structure(applied) == jax.tree.structure(stepped)
        for a, s in zip(
            jax.tree.leaves(applied), jax.tree.leaves(stepped), strict=True
        ):
            np.testing.assert_allclose(a, s, rtol=1e-6)
        trees.assert_same_bits(next_state, state)
        params = stepped
    assert int(state.step) == 2


@everything
def test_zero_size_and_0d_leaves_change_no_other(row):
    params, grads = (trees.normal(trees.FLOATS, seed=i) for i in range(2))
    odd = {"kernel_empty": jnp.zeros((0, 3)), "kernel_0d": jnp.float32(0.0)}
    tx = row.make()
    alone, _ = tx.step(grads, tx.init(params), params)
    zeros = jax.tree.map(jnp.zeros_like, odd)
    beside, _ = tx.step(grads | zeros, tx.init(params | odd), params | odd)
    for name in params:
        np.testing.assert_allclose(beside[name], alone[name], rtol=1e-6)
    assert beside["kernel_empty"].shape == (0, 3)
    assert np.isfinite(beside["kernel_0d"])


# --- No gradient ---------------------------------------------------------------------


def _float0(param: Any) -> np.ndarray:
    return np.zeros(param.shape, jax.dtypes.float0)


def _none(param: Any) -> None:
    del param


@each_row
@pytest.mark.parametrize("absent", [_none, _float0], ids=["None", "float0"])
def test_no_gradient_leaves_a_parameter_and_its_buffers_as_they_are(row, absent):
    """C17: no update, no decay, no decay of moments, no average; -0.0 stays."""
    tx, (params, state, grads) = row.make(), _in_the_middle(row)
    missing = grads | {"bias": absent(params["bias"])}
    updates, after = tx.update(missing, state, params)
    applied = optax.apply_updates(params, updates)
    for moved, kept in ((applied, after), tx.step(missing, state, params)):
        trees.assert_same_bits(moved["bias"], params["bias"])
        for name, before in trees.buffers_of(state).items():
            trees.assert_same_bits(trees.buffers_of(kept)[name]["bias"], before["bias"])
        if not row.waits:
            assert int(kept.step) == int(state.step) + 1
            assert np.any(np.asarray(moved["kernel"] != params["kernel"])) or (
                row.name == "add_decoupled_weight_decay"
            )


@each_row
def test_a_jitted_step_takes_no_gradient(row):
    tx, (params, state, grads) = row.make(), _in_the_middle(row)
    missing = grads | {"bias": None}
    after = jax.eval_shape(tx.step, missing, state, params)
    trees.assert_same_types(tuple(after), (params, state))
    none = jax.tree.map(_none, params)
    moved, kept = tx.step(none, state, params)
    trees.assert_same_bits(moved, params)
    trees.assert_same_bits(trees.buffers_of(kept), trees.buffers_of(state))


@everything
def test_a_jitted_step_leaves_them_to_the_bit(row):
    tx, (params, state, grads) = row.make(), _in_the_middle(row)
    missing = grads | {"bias": None}
    moved, kept = jax.jit(tx.step, donate_argnums=(1, 2))(
        missing, *jax.tree.map(jnp.copy, (state, params))
    )
    trees.assert_same_bits(moved["bias"], params["bias"])
    for name, before in trees.buffers_of(state).items():
        trees.assert_same_bits(trees.buffers_of(kept)[name]["bias"], before["bias"])


def test_no_gradient_counts_nothing_in_the_norm():
    tx = optadamw.clip_by_global_norm(1.0)
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    grads = {"a": jnp.full(2, 5.0), "b": None}
    updates, _ = tx.update(grads, tx.init(params), params)
    alone, _ = tx.update({"a": grads["a"]}, tx.init({"a": 1.0}), {"a": params["a"]})
    trees.assert_same_bits(updates["a"], alone["a"])


def test_gradients_of_allow_int_are_taken():
    """An index among the parameters is left out; its gradient would be float0."""
    params = {"kernel": jnp.ones(2), "index": None}
    loss = partial(lambda index, p: p["kernel"][index] ** 2, 1)
    grads = jax.grad(loss)(params)
    tx = optadamw.adamw(0.1)
    moved, _ = tx.step(grads, tx.init(params), params)
    assert moved["index"] is None


def _in_the_middle(row: Row) -> tuple[Any, Any, Any]:
    """Parameters with a -0.0, a state that is not fresh, and gradients."""
    params, grads = (trees.normal(trees.PAIR, seed=i) for i in range(2))
    params["bias"] = params["bias"].at[0].set(-0.0)
    state = row.make().init(params)
    filled = {
        name: jax.tree.map(lambda x: x + jnp.asarray(0.375, x.dtype), buffer)
        for name, buffer in trees.buffers_of(state).items()
    }
    state = state_replacing(state, filled)
    return params, state._replace(step=jnp.int32(4)), grads
