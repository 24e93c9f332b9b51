"""Loops of Flax linen that step in place, as their users write them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core, serialization
from flax.training import train_state

import optadamw
from optadamw.integrations.flax_linen import TrainState
from tests.integrations.loops import (
    ACCUMULATING,
    OPTIONS,
    SIZE,
    X,
    assert_in_place,
    each_options,
    foreign,
    linen_state,
    plain_step,
    recorder,
)
from tests.support import trees


class WithBatches(TrainState):
    """A TrainState with a field of its own, as users derive it."""

    batches: Any = 0


class WithLoss(TrainState):
    """A field with the name of an argument of the transformation."""

    loss: Any = 0.0


@functools.partial(jax.jit, donate_argnums=0)
def linen_train(state: Any, x: Any) -> Any:
    """The loop as it is written."""

    def loss(params: Any) -> Any:
        return jnp.mean(state.apply_fn({"params": params}, x) ** 2)

    loss, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads, loss=loss, weight=len(x)), loss


@each_options
def test_linen_takes_the_plain_step(options):
    tx = optadamw.adamw(**options)
    state = linen_state(tx)
    params, kept = state.params, state.opt_state
    take = jax.jit(lambda state, grads: state.apply_gradients(grads=grads))
    for number in range(4):
        grads = jax.tree.map(lambda p, n=number: p + 0.1 * n, params)
        state = take(state, grads)
        params, kept = plain_step(tx, grads, kept, params)
        trees.assert_same_bits((state.params, state.opt_state), (params, kept))
        assert int(state.step) == number + 1


def test_linen_trains_in_place_of_its_own_state():
    losses = {}
    for kind in (train_state.TrainState, TrainState):
        state = linen_state(optadamw.adamw(**OPTIONS["numbers"]), kind)
        assert isinstance(state, train_state.TrainState) and type(state) is kind
        step = linen_train if kind is TrainState else _linen_train_of_flax
        losses[kind] = []
        for _ in range(5):
            state, loss = step(state, X)
            losses[kind].append(float(loss))
    one, other = losses.values()
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert one[-1] < one[0]


@jax.jit
def _linen_train_of_flax(state: Any, x: Any) -> Any:
    def loss(params: Any) -> Any:
        return jnp.mean(state.apply_fn({"params": params}, x) ** 2)

    loss, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), loss


@each_options
def test_linen_updates_in_place(options):
    params = {name: jnp.ones((SIZE, SIZE)) for name in ("one", "two")}
    tx = optadamw.adamw(**options)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.replace(step=jnp.int32(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, grads: Any) -> Any:
        return state.apply_gradients(grads=grads), jnp.float32(0.0)

    assert_in_place(update.lower(state, params).compile(), state)


def test_linen_counts_calls_and_the_optimizer_its_steps():
    state = linen_state(ACCUMULATING())
    assert state.step == 0 and isinstance(state.step, int)
    for _ in range(7):
        state, _ = linen_train(state, X)
    assert int(state.step) == 7
    assert int(state.opt_state.step) == 2
    assert int(state.opt_state.micro_step) == 1


def test_linen_flushes_a_partial_window():
    tx = ACCUMULATING()
    state = linen_state(tx)
    for _ in range(4):
        state, _ = linen_train(state, X)
    expected = tx.flush(state.opt_state, state.params)
    flushed = state.flush()
    trees.assert_same_bits((flushed.params, flushed.opt_state), expected)
    assert int(flushed.opt_state.step) == 2 and int(flushed.step) == 4


def test_linen_passes_the_loss_and_the_weight_and_replaces_fields():
    seen: list[dict[str, Any]] = []
    state = linen_state(recorder(seen), WithBatches, batches=5)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    after = state.apply_gradients(grads=zeros, loss=2.0, weight=3.0, batches=6)
    assert (after.batches, after.step) == (6, 1)
    assert state.apply_gradients(grads=zeros).batches == 5
    assert seen == [{"loss": 2.0, "weight": 3.0}, {}]


def test_linen_refuses_a_keyword_that_would_be_lost():
    state = linen_state(optadamw.adamw(0.1), WithLoss)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    assert state.apply_gradients(grads=zeros).loss == 0.0
    with pytest.raises(TypeError, match=r"WithLoss has a field of that name.*Rename"):
        state.apply_gradients(grads=zeros, loss=1.0)
    with pytest.raises(TypeError, match="wieght"):
        state.apply_gradients(grads=zeros, wieght=1.0)
    with pytest.raises(ValueError, match="structure of the gradients is not that"):
        state.apply_gradients(grads=0.5)
    zeros["Dense_0"]["bias"] = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"Dense_0/bias.*shape \(3,\)"):
        state.apply_gradients(grads=zeros)


def test_linen_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match=r"`tx` must be an Optax gradient .*got 5 of"):
        linen_state(5)


def test_linen_takes_any_transformation_of_optax():
    states = []
    for kind in (train_state.TrainState, TrainState):
        state = linen_state(foreign(), kind)
        for _ in range(3):
            grads = jax.tree.map(lambda p: p + 0.25, state.params)
            state = state.apply_gradients(grads=grads)
        states.append((state.params, state.opt_state))
    trees.assert_same_bits(states[1], states[0])


def test_linen_overwrites_what_fp8_layers_keep_in_their_gradients():
    name = "_overwrite_with_gradient"
    params = {"params": {"kernel": jnp.ones(3)}, name: {"scale": jnp.ones(2)}}
    grads = {"params": {"kernel": jnp.ones(3)}, name: {"scale": jnp.full(2, 7.0)}}
    after = []
    for kind in (train_state.TrainState, TrainState):
        tx = optadamw.adamw(0.5, weight_decay=0.1)
        state = kind.create(apply_fn=None, params=params, tx=tx)
        state = state.apply_gradients(grads=grads)
        after.append((state.params, state.opt_state))
    assert trees.largest_difference(after[1], after[0]) <= 1e-6
    assert after[1][0][name]["scale"].tolist() == [7.0, 7.0]
    tx = ACCUMULATING()
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.apply_gradients(grads=grads).flush()
    assert state.params[name]["scale"].tolist() == [7.0, 7.0]
    assert state.params["params"]["kernel"][0] < 1.0


def test_linen_trains_frozen_dicts_and_bfloat16():
    params = core.freeze({"kernel": jnp.ones((2, 3), jnp.bfloat16)})
    tx = optadamw.adamw(1e-2)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    grads = jax.tree.map(jnp.ones_like, params)
    after = state.apply_gradients(grads=grads)
    expected = tx.step(grads, tx.init(params), params)
    trees.assert_same_bits((after.params, after.opt_state), expected)
    assert isinstance(after.params, core.FrozenDict)
    assert after.opt_state.mu["kernel"].dtype == jnp.float32


def test_linen_continues_from_what_flax_serialized():
    tx = optadamw.adamw(**OPTIONS["all"])
    state = linen_state(tx)
    for _ in range(3):  # in the middle of a window
        state, _ = linen_train(state, X)
    data = serialization.to_bytes(state)
    again = serialization.from_bytes(linen_state(tx), data)
    assert type(again) is TrainState
    for _ in range(2):
        (state, _), (again, _) = linen_train(state, X), linen_train(again, X)
    trees.assert_same_bits(_of(again), _of(state))


def _of(state: Any) -> Any:
    return state.params, state.opt_state
