"""Loops of Equinox that step in place, as their users write them."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.integrations import equinox as ours
from tests.integrations.loops import (
    ACCUMULATING,
    OPTIONS,
    SIZE,
    Net,
    X,
    assert_in_place,
    each_options,
    foreign,
    plain_step,
    trained,
)
from tests.support import trees


def eqx_loss(model: Any, x: Any) -> Any:
    return jnp.mean(jax.vmap(model)(x) ** 2)


def eqx_train(tx: Any) -> Any:
    """The loop as it is written."""

    @eqx.filter_jit(donate="all-except-first")
    def train(x: Any, model: Any, state: Any) -> Any:
        loss, grads = eqx.filter_value_and_grad(eqx_loss)(model, x)
        extra = {"loss": loss, "weight": jnp.float32(len(x))}
        model, state = ours.step(tx, grads, state, model, **extra)
        return model, state, loss

    return train


@each_options
def test_equinox_takes_the_plain_step(options):
    model, tx = Net(jax.random.key(0)), optadamw.adamw(**options)
    params, state = trained(model), ours.init(tx, model)
    kept = state
    take = eqx.filter_jit(ours.step)
    for number in range(4):
        grads = jax.tree.map(lambda p, n=number: p + 0.1 * n, params)
        model, state = take(tx, grads, state, model)
        params, kept = plain_step(tx, grads, kept, params)
        trees.assert_same_bits((trained(model), state), (params, kept))


def test_equinox_keeps_what_is_not_trained():
    before = Net(jax.random.key(0))
    tx = optadamw.adamw(0.1, mask="*/weight")
    model, state = before, ours.init(tx, before)
    for _ in range(3):
        grads = eqx.filter_grad(eqx_loss)(model, X)
        model, state = ours.step(tx, grads, state, model)
    assert model.table is before.table
    assert model.activation is before.activation
    assert (model.slope, model.width, type(model)) == (0.5, 4, Net)
    assert state.mu.table is None and state.mu.slope is None
    assert not np.array_equal(model.first.weight, before.first.weight)


def test_equinox_trains_in_a_donated_step():
    tx = optadamw.adamw(0.1, accumulate_steps=2)
    model = Net(jax.random.key(0))
    state, train, losses = ours.init(tx, model), eqx_train(tx), []
    for _ in range(8):
        model, state, loss = train(X, model, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] == losses[1]
    assert int(state.step) == 4


@each_options
def test_equinox_updates_in_place(options):
    layer = functools.partial(eqx.nn.Linear, SIZE, SIZE, use_bias=False)
    model = [layer(key=jax.random.key(0)), layer(key=jax.random.key(1)), jax.nn.relu]
    tx = optadamw.adamw(**options)
    state = ours.init(tx, model)

    @eqx.filter_jit(donate="all-except-first")
    def update(grads: Any, model: Any, state: Any) -> Any:
        model, state = ours.step(tx, grads, state, model)
        return model, state, jnp.float32(0.0)

    compiled = update.lower(trained(model), model, state).compile()
    assert_in_place(compiled, (trained(model), state))


def test_equinox_leaves_arrays_without_a_gradient_alone():
    model = Net(jax.random.key(0))
    tx = optadamw.adamw(0.1, weight_decay=0.5)
    grads = eqx.filter_grad(eqx_loss)(model, X)
    layer = grads.first
    grads = eqx.tree_at(lambda net: net.first, grads, jax.tree.map(_none, layer))
    after, _ = ours.step(tx, grads, ours.init(tx, model), model)
    trees.assert_same_bits(trained(after.first), trained(model.first))
    assert not np.array_equal(after.second.weight, model.second.weight)


def _none(_: Any) -> None:
    return None


def test_equinox_trains_bfloat16_with_a_float32_state():
    model = Net(jax.random.key(0), jnp.bfloat16)
    tx = optadamw.adamw(1e-2)
    grads = eqx.filter_grad(eqx_loss)(model, X.astype(jnp.bfloat16))
    state = ours.init(tx, model)
    expected = tx.step(grads, state, trained(model))
    after, state = ours.step(tx, grads, state, model)
    trees.assert_same_bits((trained(after), state), expected)
    assert after.first.weight.dtype == jnp.bfloat16
    assert state.mu.first.weight.dtype == jnp.float32


def test_equinox_takes_any_transformation_of_optax():
    tx = foreign()
    model = Net(jax.random.key(0))
    state = ours.init(tx, model)
    grads = eqx.filter_grad(eqx_loss)(model, X)
    updates, kept = tx.update(grads, state, trained(model))
    expected = eqx.apply_updates(model, updates)
    after, state = ours.step(tx, grads, state, model, loss=1.0)
    trees.assert_same_bits((trained(after), state), (trained(expected), kept))


def test_equinox_continues_from_what_it_serialized(tmp_path):
    tx = optadamw.adamw(**OPTIONS["all"])
    model = Net(jax.random.key(0))
    state, train = ours.init(tx, model), eqx_train(tx)
    for _ in range(3):  # in the middle of a window
        model, state, _ = train(X, model, state)
    eqx.tree_serialise_leaves(tmp_path / "run.eqx", (model, state))
    fresh = Net(jax.random.key(1))
    like = fresh, ours.init(tx, fresh)
    again = eqx.tree_deserialise_leaves(tmp_path / "run.eqx", like)
    for _ in range(2):
        model, state, _ = train(X, model, state)
        again = train(X, *again)[:2]
    trees.assert_same_bits((trained(again[0]), again[1]), (trained(model), state))


def test_equinox_flushes_a_partial_window():
    tx = ACCUMULATING()
    model = Net(jax.random.key(0))
    state, train = ours.init(tx, model), eqx_train(tx)
    for _ in range(4):
        model, state, _ = train(X, model, state)
    expected = tx.flush(state, trained(model))
    after, state = ours.flush(tx, state, model)
    trees.assert_same_bits((trained(after), state), expected)
    assert int(state.step) == 2 and after.activation is model.activation


def test_init_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match="`tx` must be an Optax gradient transformatio"):
        ours.init(5, {"w": jnp.ones(2)})
