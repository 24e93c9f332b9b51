"""Laws of company, in Flax: linen's `TrainState` and NNX's `Optimizer`."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import trees
from tests.support.transformations import EVERYTHING, NUMBERS

pytest.importorskip("flax")

from flax import linen, nnx
from flax.training import train_state

OPTIONS = {
    "plain": {"learning_rate": 0.1},
    **{row.name: row.options | {"mask": "*/kernel"} for row in EVERYTHING},
}
each_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)


class Dense(linen.Module):
    """Two layers with kernels and biases."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(1)(linen.relu(linen.Dense(4)(x)))


class Model(nnx.Module):
    """Two layers in NNX, with sharding metadata on the first kernel."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        names = nnx.with_partitioning(
            nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=False
        )
        self.first = nnx.Linear(3, 4, kernel_init=names, rngs=rngs)
        self.second = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.second(nnx.relu(self.first(x)))


def _loss(model: Any) -> Any:
    return jnp.mean(model(X) ** 2)


@each_options
def test_train_state_applies_what_step_writes(options):
    model, tx = Dense(), optadamw.adamw(**options)
    params = model.init(jax.random.key(0), X)["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    grads = jax.tree.map(lambda p: p + 0.25, params)
    after = state.apply_gradients(grads=grads)
    expected, kept = tx.step(grads, tx.init(params), params)
    assert trees.largest_difference(after.params, expected) <= 1e-6
    trees.assert_same_types(after.opt_state, state.opt_state)
    assert trees.largest_difference(after.opt_state, kept) <= 1e-6
    assert int(after.step) == int(after.opt_state.step) == 1


@pytest.mark.parametrize(
    ("mask", "decayed"),
    [
        ("*/kernel", {"first/kernel", "second/kernel"}),
        (["!*/bias"], {"first/kernel", "second/kernel"}),
        ("first/*", {"first/kernel", "first/bias"}),
        (re.compile(r"^second/k"), {"second/kernel"}),
        (optadamw.exclude("first/*"), {"second/kernel", "second/bias"}),
        (lambda path, array: array.ndim > 1, {"first/kernel", "second/kernel"}),
        (False, set()),
    ],
    ids=range(7),
)
def test_masks_choose_the_same_leaves_at_init_and_update_of_nnx(mask, decayed):
    """NNX shows Variables at `init` and arrays at `update`."""
    model = Model(nnx.Rngs(0))
    tx = optadamw.adamw(0.1, weight_decay=0.5, mask=mask)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = _arrays(model)
    zeros = jax.tree.map(jnp.zeros_like, nnx.grad(_loss)(model))
    for kernel in (model.first, model.second):
        kernel.bias[...] = jnp.ones_like(kernel.bias[...])
        before |= _arrays(model)
    optimizer.update(model, zeros)
    after = _arrays(model)
    assert {n for n in after if not np.array_equal(after[n], before[n])} == decayed


@each_options
def test_nnx_optimizer_applies_what_step_writes(options):
    model, tx = Model(nnx.Rngs(0)), optadamw.adamw(**options)
    before = _arrays(model)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = nnx.grad(_loss)(model)
    expected, kept = tx.step(_arrays(grads), tx.init(before), before)
    types = trees.types_of(nnx.as_pure(optimizer.opt_state))
    optimizer.update(model, grads)
    assert trees.largest_difference(_arrays(model), expected) <= 1e-6
    assert trees.types_of(nnx.as_pure(optimizer.opt_state)) == types
    for name in kept._fields[1:]:
        if getattr(kept, name) is not None:
            buffer = _arrays(getattr(optimizer.opt_state, name), nnx.Variable)
            assert trees.largest_difference(buffer, getattr(kept, name)) <= 1e-6


def test_nnx_trains_in_a_jitted_step_with_everything():
    model = Model(nnx.Rngs(0))
    options = NUMBERS | {"amsgrad": True, "mask": "*/kernel", "nesterov": True}
    optimizer = nnx.Optimizer(model, optadamw.adamw(**options), wrt=nnx.Param)

    @nnx.jit
    def train(model: Any, optimizer: Any) -> Any:
        loss, grads = nnx.value_and_grad(_loss)(model)
        optimizer.update(model, grads, loss=loss, grad_norm=optax.tree.norm(grads))
        return loss

    losses = [float(train(model, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert int(optimizer.opt_state.step[...]) == 5


def test_buffers_carry_the_sharding_metadata_of_their_parameters():
    model = Model(nnx.Rngs(0))
    tx = optadamw.adamw(0.1, amsgrad=True, ema_decay=0.9)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    wanted = nnx.get_partition_spec(nnx.state(model, nnx.Param))
    wanted = jax.tree.leaves(wanted, is_leaf=_is_spec)
    assert any(wanted)
    for name in ("mu", "nu", "nu_max", "ema"):
        buffer = nnx.state(getattr(optimizer.opt_state, name))
        specs = jax.tree.leaves(nnx.get_partition_spec(buffer), is_leaf=_is_spec)
        assert specs == wanted, name


def _is_spec(node: Any) -> bool:
    return isinstance(node, jax.sharding.PartitionSpec)


def _arrays(model: Any, kind: Any = nnx.Param) -> dict[str, Any]:
    """The variables of a kind by their paths, as arrays of their own."""
    flat = nnx.to_flat_state(nnx.state(model, kind))
    return {"/".join(path): jnp.copy(leaf[...]) for path, leaf in flat}
