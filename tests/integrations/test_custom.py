"""Buffers of a user's rules in the training loops of Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import trees
from tests.support.lookahead import lookahead
from tests.support.momentum import scale_by_momentum

pytest.importorskip("flax")

from flax import nnx, serialization

from optadamw.integrations.flax_linen import TrainState
from optadamw.integrations.flax_nnx import Optimizer

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)


def chain(form=None):
    return optadamw.skip_nonfinite(
        optadamw.chain(
            scale_by_momentum(0.9, form),
            optadamw.scale_by_learning_rate(0.1),
            lookahead(2),
        )
    )


EIGHT = optadamw.blockwise(min_size=0)
each_form = pytest.mark.parametrize("form", [None, EIGHT], ids=["float32", "8-bit"])


def _loss(model):
    return jnp.mean(model(X) ** 2)


@each_form
def test_nnx_keeps_them_in_variables(form):
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    optimizer = Optimizer(model, chain(form), wrt=nnx.Param)
    plain = _pure(model)
    state = chain(form).init(plain)

    @nnx.jit
    def train(model, optimizer):
        grads = nnx.grad(_loss)(model)
        optimizer.update(model, grads)
        return nnx.as_pure(grads)

    step = jax.jit(chain(form).step)
    for _ in range(4):
        grads = train(model, optimizer)
        plain, state = step(grads, state, plain)
    kept = nnx.as_pure(optimizer.opt_state)
    assert isinstance(kept, optadamw.State) and list(kept.custom) == list(state.custom)
    if form is None:
        pairs = (kept.custom, state.custom), (_pure(model), plain)
        for found, wanted in pairs:
            assert trees.largest_difference(found, wanted) <= 1e-5


def test_nnx_keeps_the_sharding_of_their_parameters():
    with jax.set_mesh(jax.make_mesh((1,), ("model",))):
        init = nnx.with_partitioning(
            nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=True
        )
        model = nnx.Linear(3, 4, kernel_init=init, rngs=nnx.Rngs(0))
        optimizer = Optimizer(model, chain(), wrt=nnx.Param)
        for _ in range(2):
            for name in ("slow", "velocity"):
                kernel = optimizer.opt_state.custom[name]["kernel"]
                assert kernel.get_metadata() == model.kernel.get_metadata(), name
                assert kernel[...].sharding == model.kernel[...].sharding, name
            optimizer.update(model, nnx.grad(_loss)(model))


def _pure(model):
    return nnx.as_pure(nnx.state(model, nnx.Param))


@each_form
def test_linen_steps_and_serializes_them(form):
    params = trees.normal({"kernel": (jnp.float32, (4, 64))}, seed=0)
    state = TrainState.create(apply_fn=None, params=params, tx=chain(form))
    for i in range(3):
        grads = trees.normal({"kernel": (jnp.float32, (4, 64))}, seed=1 + i)
        state = state.apply_gradients(grads=grads)
    blank = TrainState.create(apply_fn=None, params=params, tx=chain(form))
    restored = serialization.from_bytes(blank, serialization.to_bytes(state))
    trees.assert_same_bits(
        jax.tree.map(jnp.asarray, restored.opt_state.custom), state.opt_state.custom
    )


def test_optax_inject_hyperparams_changes_their_numbers():
    def make(rate, size):
        return optadamw.chain(optadamw.scale_by_learning_rate(rate), lookahead(1, size))

    params = {"w": jnp.ones(3)}
    tx = optax.inject_hyperparams(make)(rate=0.1, size=0.5)
    state = tx.init(params)
    state.hyperparams["size"] = jnp.asarray(0.0)
    updates, state = jax.jit(tx.update)(params, state, params)
    moved = optax.apply_updates(params, updates)
    trees.assert_same_bits(moved, params)
    trees.assert_same_bits(state.inner_state.custom["slow"], params)
