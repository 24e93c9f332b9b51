"""Steps and flushes of every integration take the memory that they are donated."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import optadamw
from optadamw.integrations import equinox as ours
from optadamw.integrations.flax_linen import TrainState
from optadamw.integrations.flax_nnx import Optimizer
from tests.integrations.loops import (
    OPTIONS,
    SIZE,
    SQUARE,
    Model,
    Net,
    Square,
    assert_in_place,
    linen_state,
    trained,
)


def test_the_check_of_memory_sees_copies():
    """In another order of the results jit pairs the buffers wrongly."""
    layer = eqx.nn.Linear(SIZE, SIZE, use_bias=False, key=jax.random.key(0))
    tx = optadamw.adamw(0.1)

    @eqx.filter_jit(donate="all-except-first")
    def update(grads: Any, state: Any, model: Any) -> Any:
        return ours.step(tx, grads, state, model)

    state = ours.init(tx, layer)
    compiled = update.lower(trained(layer), state, layer).compile()
    with pytest.raises(AssertionError, match="temp_size_in_bytes"):
        assert_in_place(compiled, (trained(layer), state))


def test_flushes_take_what_they_are_donated():
    tx = optadamw.adamw(**OPTIONS["all"])
    model = Square(nnx.Rngs(0))
    optimizer = Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def flush(model: Any, optimizer: Any) -> None:
        optimizer.flush(model)

    compiled = flush.lower(model, optimizer).compile()
    assert_in_place(compiled, nnx.state((model, optimizer)), spare=64 * SQUARE)

    params = {name: jnp.ones((SIZE, SIZE)) for name in ("one", "two")}
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.replace(step=jnp.int32(0))
    compiled = jax.jit(TrainState.flush, donate_argnums=0).lower(state).compile()
    assert_in_place(compiled, state, spare=64 * SQUARE)


@pytest.mark.parametrize("library", ["nnx", "linen", "equinox"])
def test_only_transformations_of_this_library_flush(library):
    tx = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    with pytest.raises(TypeError, match=r"`tx` must be .* flushed.*multi_steps"):
        if library == "nnx":
            model = Model(nnx.Rngs(0))
            Optimizer(model, tx, wrt=nnx.Param).flush(model)
        elif library == "linen":
            linen_state(tx).flush()
        else:
            net = Net(jax.random.key(0))
            ours.flush(tx, ours.init(tx, net), net)
