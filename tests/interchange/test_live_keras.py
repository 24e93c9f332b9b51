"""A run of Keras goes on here, and a run of ours there, where it is installed."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import interchange
from optadamw.dialects.files import files
from optadamw.dialects.files.opening import read_params
from tests.interchange import cases
from tests.interchange.files import convert
from tests.interchange.live import CLOSE

os.environ.setdefault("KERAS_BACKEND", "jax")


def keras_optimizer(params: Any, scaled: bool, grows: int = 3, **options: Any) -> Any:
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras is not installed")
    numbers = {"learning_rate": cases.RATE, "beta_1": cases.B1, "beta_2": cases.B2}
    numbers |= {"epsilon": 2.0**-20, "weight_decay": cases.DECAY}
    optimizer = keras.optimizers.AdamW(**(numbers | options))
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=8.0, dynamic_growth_steps=grows
        )
    variables = [
        keras.Variable(x, name=f"v{i}") for i, x in enumerate(cases.leaves(params))
    ]
    optimizer.build(variables)
    return variables, optimizer


def keras_steps(
    variables: Any, optimizer: Any, params: Any, first: int, calls: int, scaled: bool
) -> None:
    for i in range(first, first + calls):
        grads = jax.tree.leaves(cases.gradients(params, i))
        if not scaled:
            optimizer.apply(grads, variables)
            continue
        # `apply` of a LossScaleOptimizer leaks a tracer outside of jit.
        scale = float(next(v for v in optimizer.variables if "dynamic_scale" in v.path))
        new, kept = jax.jit(optimizer.stateless_apply)(
            [v.value for v in optimizer.variables],
            [g * scale for g in grads],
            [v.value for v in variables],
        )
        for variable, value in zip(variables, new, strict=True):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, kept, strict=True):
            variable.assign(value)


SCALE = optadamw.DynamicLossScale(
    initial=8.0, growth_interval=3, minimum=2.0**-20, maximum=2.0**20
)

KERAS = {
    "plain": ({}, {}, 4),
    "amsgrad": ({"amsgrad": True}, {"amsgrad": True}, 4),
    "ema": ({"use_ema": True, "ema_momentum": 0.75}, {"ema_decay": 0.75}, 4),
    "open window": (
        {"gradient_accumulation_steps": 3},
        {"accumulate_steps": 3},
        4,
    ),
    "everything": (
        {"gradient_accumulation_steps": 2, "amsgrad": True, "scaled": True, "grows": 6},
        {"accumulate_steps": 2, "amsgrad": True, "loss_scale": SCALE},
        5,
    ),
    "loss scale": ({"scaled": True}, {"loss_scale": SCALE}, 4),
}


@pytest.mark.parametrize(("there", "here", "calls"), KERAS.values(), ids=KERAS)
@pytest.mark.parametrize("form", ["variables", "store", "arrays"])
def test_keras(there, here, calls, form, record_property):
    params, tx = cases.tree(), cases.adamw(eps_mode="hat", **here)
    there = dict(there)
    scaled = there.pop("scaled", False)
    variables, optimizer = keras_optimizer(params, scaled, **there)
    keras_steps(variables, optimizer, params, 0, calls, scaled)

    # There, then here.
    structure = jax.tree.structure(params)
    moved = jax.tree.unflatten(structure, [jnp.array(v.value) for v in variables])
    saved: Any = optimizer.variables
    names = [f"v{i}" for i in range(len(variables))]
    mapping = dict(zip(paths_of(params), names, strict=True))
    if form == "store":
        saved = {}
        optimizer.save_own_variables(saved)
    elif form == "arrays":
        saved = [np.asarray(v.value) for v in optimizer.variables]
    state = interchange.from_keras(
        saved, params, tx=tx, names=mapping if form == "variables" else None
    )
    after, last = trained_scaled(tx, moved, calls, calls, state, scaled)
    keras_steps(variables, optimizer, params, calls, calls, scaled)
    found = [np.array(v.value) for v in variables]
    distance = cases.ulps(cases.leaves(after), found)
    record_property(f"keras {there} {scaled} -> here", distance)
    assert distance <= CLOSE
    again = interchange.from_keras(optimizer.variables, params, tx=tx, names=mapping)
    for name in ("step", "micro_step", "weight", "loss_scale", "growth"):
        np.testing.assert_array_equal(getattr(last, name), getattr(again, name))
    for name in ("mu", "nu", "nu_max", "ema"):
        if getattr(last, name) is not None:
            pair = cases.leaves(getattr(last, name)), cases.leaves(getattr(again, name))
            assert cases.ulps(*pair) <= CLOSE, name

    # Here, then there.
    begun, state = trained_scaled(tx, params, calls, 0, tx.init(params), scaled)
    variables, optimizer = keras_optimizer(begun, scaled, **there)
    store = interchange.to_keras(state, params, tx=tx)
    optimizer.load_own_variables(store)
    assert len(store) == len(optimizer.variables)
    keras_steps(variables, optimizer, params, calls, calls, scaled)
    whole, _ = trained_scaled(tx, params, 2 * calls, 0, tx.init(params), scaled)
    found = [np.array(v.value) for v in variables]
    distance = cases.ulps(found, cases.leaves(whole))
    record_property(f"here -> keras {there} {scaled}", distance)
    assert distance <= CLOSE


@pytest.mark.parametrize("name", ["x.h5", "x.weights.h5"])
def test_files_of_hdf5_that_keras_writes_are_read(name, tmp_path):
    """The names of the variables of a whole model are text of any length there."""
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    layers = [keras.layers.Dense(3, name=f"dense{'_of' * i}") for i in range(9)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(keras.optimizers.AdamW(weight_decay=0.125, amsgrad=True), "mse")
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    for i, variable in enumerate(optimizer.variables[2:]):
        variable.assign(np.full(variable.shape, i))
    write = model.save if name == "x.h5" else model.save_weights
    write(tmp_path / name)
    found = files.read(tmp_path / name)
    if name == "x.h5":
        paths = [variable.path for variable in optimizer.variables]
        assert list(found) == paths
    else:
        paths = [str(i) for i in range(len(optimizer.variables))]
        assert set(found) == set(paths)
    for path, variable in zip(paths, optimizer.variables, strict=True):
        np.testing.assert_array_equal(found[path], np.array(variable))


def paths_of(params: Any) -> list[str]:
    found = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]


def trained_scaled(
    tx: Any, params: Any, calls: int, first: int, state: Any, scaled: bool
) -> tuple[Any, Any]:
    """Return parameters and State after some calls of `tx.step` that follow each other.

    Args:
      tx: the transformation.
      params: the parameters before the first of these calls.
      calls: the number of calls.
      first: the number of the first one, which chooses its gradients.
      state: the State before the first of these calls.
      scaled: whether the gradients are multiplied by the loss scale in the State.
    """
    step = jax.jit(tx.step)
    for i in range(first, first + calls):
        grads = cases.gradients(params, i)
        if scaled:
            grads = jax.tree.map(lambda g, s=state: g * s.loss_scale, grads)
        params, state = step(grads, state, params)
    return params, state


@pytest.mark.parametrize("is_bare", [False, True], ids=["whole", "bare"])
def test_the_order_of_layers_is_that_of_trainable_variables(is_bare, tmp_path):
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras is not installed")
    layers, use = keras.layers, not is_bare
    normalization = layers.Normalization()
    normalization.adapt(cases.normal({"x": (4, 8, 4)}, jnp.float32, 0)["x"])
    model = keras.Sequential(
        [
            keras.Input((8, 4)),
            normalization,
            layers.SeparableConv1D(4, 3, use_bias=use),
            layers.GroupNormalization(2, center=use),
            layers.GroupNormalization(2, scale=use),
            layers.DepthwiseConv1D(3, use_bias=use),
            layers.RMSNormalization(),
            layers.Reshape((2, 2, 4)),
            layers.SeparableConv2D(4, 2, use_bias=use, padding="same"),
            layers.DepthwiseConv2D(2, use_bias=use),
            layers.Flatten(),
            layers.Dense(1, use_bias=use),
        ]
    )
    model.compile(optimizer=keras.optimizers.AdamW(), loss="mse")
    for i, one in enumerate(model.trainable_variables):
        one.assign(jnp.full(one.shape, i + 1.0))
    model.optimizer.build(model.trainable_variables)
    for i, one in enumerate(model.optimizer.variables[2:]):
        one.assign(jnp.full(one.shape, i // 2 + 1.0))
    model.save(tmp_path / "run.keras")
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert("keras", tmp_path / "run.keras", *out) == 0
    found = np.load(tmp_path / "out.npz")
    assert list(read_params(tmp_path / "run.keras")) == [
        "/".join(one.path.split("/")[-2:]) for one in model.trainable_variables
    ]
    for i, one in enumerate(model.trainable_variables):
        name = "/".join(one.path.split("/")[-2:])
        for buffer in ("params", "mu", "nu"):
            expected = np.full(one.shape, i + 1.0, np.float32)
            np.testing.assert_array_equal(found[f"{buffer}/{name}"], expected)
