"""Masks over the parameters of Flax and Equinox."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.base.masks import DECAY, LEARNING_RATE, MODEL, decayed, is_matrix, matrices


def test_frozen_dicts():
    flax_core = pytest.importorskip("flax.core")
    frozen = flax_core.freeze({k: v for k, v in MODEL.items() if k != "layers"})
    assert decayed("*/bias", frozen) == {"bias", "norm/bias"}
    prefix = {"bias": False, "embedding": True, "norm": False}
    assert decayed(flax_core.freeze(prefix), frozen) == {"embedding/table"}
    assert decayed(prefix, frozen) == {"embedding/table"}
    assert decayed(matrices, frozen) == {"embedding/table"}


def test_linen_parameters():
    linen = pytest.importorskip("flax.linen")
    params = linen.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))
    assert decayed("*/kernel", params) == {"params/kernel"}
    assert decayed(["!*/bias"], params["params"]) == {"kernel"}


@pytest.mark.parametrize("name", ["Partitioned", "LogicallyPartitioned"])
def test_boxed_linen_parameters_have_the_paths_of_unboxed_ones(name):
    """Flax boxes parameters with the names of their axes; `init` sees the boxes."""
    linen = pytest.importorskip("flax.linen")
    box = getattr(linen, name)
    boxed = {
        "dense": {
            "kernel": box(jnp.ones((2, 3)), ("embed", "mlp")),
            "bias": jnp.ones(3),
        },
        "value": box(jnp.ones(2), ("embed",)),
    }
    params = linen.meta.unbox(boxed)
    for mask in (
        "*/kernel",
        {"dense": {"kernel": True, "bias": False}, "value": False},
    ):
        assert decayed(mask, boxed) == {"dense/kernel/value"}  # as JAX names the leaf
        assert decayed(mask, params) == {"dense/kernel"}
    tx = optadamw.adamw(0.1, mask=lambda path, array: path.endswith("kernel"))
    assert optadamw.describe(tx, boxed) == optadamw.describe(tx, params)
    state = tx.init(boxed)
    assert state.mu["dense"]["kernel"].names == ("embed", "mlp")
    saved = optadamw.checkpoint.to_portable(tx, state)
    restored, report = optadamw.checkpoint.restore(tx, params, saved)
    assert report.is_whole and restored.mu["value"].shape == (2,)


def equinox_model() -> Any:
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    return eqx.filter(model, eqx.is_inexact_array)


def test_equinox_modules():
    model = equinox_model()
    weights = {"layers/0/weight", "layers/1/weight"}
    assert decayed("*/weight", model) == weights
    assert decayed(is_matrix, model) == weights
    assert decayed(matrices, model) == weights


def test_a_callable_module_of_bools_is_a_tree():
    model = equinox_model()
    mask = matrices(model)
    assert callable(mask)
    assert decayed(mask, model) == {"layers/0/weight", "layers/1/weight"}
    one, two = (optadamw.adamw(0.1, mask=matrices(model)) for _ in range(2))
    assert one == two and hash(one) == hash(two)


def nnx_model(nnx: Any) -> Any:
    class Network(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.first = nnx.Linear(2, 3, rngs=rngs)
            self.norm = nnx.LayerNorm(3, rngs=rngs)

    return Network(nnx.Rngs(0))


def test_nnx_optimizer_sees_the_same_paths_in_init_and_update():
    nnx = pytest.importorskip("flax.nnx")
    calls: list[list[str]] = []

    def looks(path: str, array: Any) -> bool:
        if path == "first/bias":
            calls.append([])
        calls[-1].append(path)
        return array.ndim > 1

    model = nnx_model(nnx)
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=looks)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = jax.tree.map(jnp.array, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert len(calls) >= 2 and all(paths == calls[0] for paths in calls)
    assert calls[0] == ["first/bias", "first/kernel", "norm/bias", "norm/scale"]
    shrunk = before["first"]["kernel"] * (1 - LEARNING_RATE * DECAY)
    np.testing.assert_allclose(after["first"]["kernel"], shrunk, rtol=2e-7)
    for name in [("first", "bias"), ("norm", "scale"), ("norm", "bias")]:
        np.testing.assert_array_equal(after[name[0]][name[1]], before[name[0]][name[1]])


@pytest.mark.parametrize(
    "form",
    ["pattern", "exclusion", "regex", "state", "pure dict", "prefix", "function"],
)
def test_nnx_optimizer_takes_every_form(form):
    nnx = pytest.importorskip("flax.nnx")
    model = nnx_model(nnx)
    state = nnx.state(model, nnx.Param)
    mask = {
        "pattern": "*/kernel",
        "exclusion": ["!*/bias", "!*/scale"],
        "regex": re.compile("kernel$"),
        "state": jax.tree.map(lambda x: x.ndim > 1, state),
        "pure dict": jax.tree.map(lambda x: x.ndim > 1, nnx.to_pure_dict(state)),
        "prefix": {"first": {"kernel": True, "bias": False}, "norm": False},
        "function": matrices,
    }[form]
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=mask)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = np.array(model.first.kernel[...]), np.array(model.norm.scale[...])

    @nnx.jit
    def train(model: Any, optimizer: Any) -> None:
        grads = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
        optimizer.update(model, grads)

    train(model, optimizer)
    shrunk = before[0] * (1 - LEARNING_RATE * DECAY)
    np.testing.assert_allclose(model.first.kernel[...], shrunk, rtol=2e-7)
    np.testing.assert_array_equal(model.norm.scale[...], before[1])
