"""Models, options and checks of memory that the integrations share."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import optadamw
from optadamw.integrations.flax_linen import TrainState
from tests.support.transformations import NUMBERS, SCHEDULES

# Two norms of one gradient take a temporary of the leaves' size: docs/ideas/design.md.
IN_PLACE = tuple(name for name in NUMBERS if name not in ("clip_value", "clip_norm"))

OPTIONS = {
    "plain": {"learning_rate": 0.1},
    "numbers": {name: NUMBERS[name] for name in IN_PLACE} | {"amsgrad": True},
    "schedules": {name: SCHEDULES[name] for name in IN_PLACE} | {"nesterov": True},
    "accumulated": {"learning_rate": 0.1, "accumulate_steps": 2, "ema_decay": 0.9},
    "guarded": {"learning_rate": 0.1, "skip_nonfinite": True, "clip_global_norm": 0.5},
    "all": {
        "learning_rate": 0.1,
        "accumulate_steps": 2,
        "skip_nonfinite": True,
        "loss_scale": 1024.0,
        "stats": True,
        "clip_global_norm": 0.5,
        "ema_decay": 0.9,
        "amsgrad": True,
    },
}

each_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
ACCUMULATING = functools.partial(optadamw.adamw, 0.1, accumulate_steps=3)
X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)
SIZE = 512
SQUARE = 4 * SIZE * SIZE
"""Bytes of one of the two kernels whose updates are looked at in memory."""


def foreign() -> optax.GradientTransformation:
    """A transformation of Optax that this library does not know."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1))


def recorder(seen: list[dict[str, Any]]) -> optax.GradientTransformation:
    """A transformation that keeps what extra arguments it was given."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        seen.append(extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


@functools.partial(jax.jit, static_argnums=0)
def plain_step(tx: Any, grads: Any, state: Any, params: Any, **extra: Any) -> Any:
    """Compute the step that every integration must reproduce."""
    return optadamw.step(tx, grads, state, params, **extra)


def assert_in_place(compiled: Any, donated: Any, spare: int = 0) -> None:
    """Assert that a program writes into what it was donated.

    It needs nothing else but `spare` bytes: a flush selects what had gradients.
    """
    while not hasattr(compiled, "memory_analysis"):
        compiled = compiled.compiled
    memory = compiled.memory_analysis()
    sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(donated)]
    assert memory.temp_size_in_bytes < 0.01 * 2 * SQUARE + spare
    # Of the counters that a flush leaves alone one may be copied.
    assert 0 <= sum(sizes) - memory.alias_size_in_bytes <= (8 if spare else 0)


# --- Flax NNX ------------------------------------------------------------------------


class Model(nnx.Module):
    """Two layers, with sharding metadata on the first kernel."""

    def __init__(self, rngs: nnx.Rngs, width: int = 4, dtype: Any = None) -> None:
        names = nnx.with_partitioning(
            nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=False
        )
        dtype = dtype or jnp.float32
        self.first = nnx.Linear(
            3, width, kernel_init=names, param_dtype=dtype, rngs=rngs
        )
        self.second = nnx.Linear(width, 1, param_dtype=dtype, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: Any) -> Any:
        self.calls[...] += 1
        return self.second(nnx.relu(self.first(x)))


class Square(nnx.Module):
    """Two kernels that a temporary of their size could not hide beside."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        for name in ("one", "two"):
            linear = nnx.Linear(SIZE, SIZE, use_bias=False, rngs=rngs)
            setattr(self, name, linear)


# --- Flax linen ----------------------------------------------------------------------


class Dense(linen.Module):
    """Two layers with kernels and biases."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(1)(linen.relu(linen.Dense(4)(x)))


def linen_state(tx: Any, kind: Any = TrainState, **fields: Any) -> Any:
    model = Dense()
    params = model.init(jax.random.key(0), X)["params"]
    return kind.create(apply_fn=model.apply, params=params, tx=tx, **fields)


# --- Equinox -------------------------------------------------------------------------


class Net(eqx.Module):
    """A model with every kind of leaf: trained, counted, named and static."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    table: jax.Array
    slope: float
    activation: Any
    width: int = eqx.field(static=True)

    def __init__(self, key: Any, dtype: Any = None) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(3, 4, dtype=dtype, key=one)
        self.second = eqx.nn.Linear(4, 1, dtype=dtype, key=two)
        self.table = jnp.arange(3)
        self.slope, self.activation, self.width = 0.5, jax.nn.relu, 4

    def __call__(self, x: Any) -> Any:
        return self.second(self.activation(self.first(x)) * self.slope)


def trained(model: Any) -> Any:
    return eqx.filter(model, eqx.is_inexact_array)
