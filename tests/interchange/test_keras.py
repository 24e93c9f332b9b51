"""Keras's saved variables, which it finds by position."""

import math

import jax.numpy as jnp
import numpy as np

import optadamw
from optadamw import interchange
from tests.interchange import cases
from tests.interchange.saving import refused, saved_by, torch_state
from tests.support import trees


def test_averages_are_not_taken_for_maxima():
    """The counts agree; that a maximum is never below tells them apart."""
    tx = cases.adamw(ema_decay=0.5)
    params, state = cases.trained(tx, [cases.tree()["dense"]["kernel"]], 3)
    saved = interchange.to_keras(state, params, tx=tx)
    right = cases.adamw(amsgrad=True)
    refused(
        ValueError, "mean of squares|above", interchange.from_keras, saved, params,
        tx=right,
    )  # fmt: skip
    call = interchange.from_keras
    refused(ValueError, "would be that of 1 or 2 of the three", call, saved, params)


def test_names_contradict_an_option():
    params, tx, state = torch_state(cases.normal({"w": (2,)}, jnp.float32, 0))
    store = interchange.to_keras(state, params, tx=tx)
    named = ["a/iteration", "a/learning_rate", "a/w_momentum", "a/w_velocity"]
    saved = dict(zip(named, store.values(), strict=True))
    refused(
        ValueError, "`amsgrad` is True", interchange.from_keras, saved, params,
        amsgrad=True,
    )  # fmt: skip
    for option in ("amsgrad", "use_ema"):
        for call in (interchange.from_keras, interchange.from_tensorflow):
            refused(TypeError, f"`{option}` must", call, saved, params, **{option: 1})


def test_stores_with_gaps():
    saved, params, tx = saved_by("keras")
    missing = {key: x for key, x in saved.items() if key != "3"}
    refused(
        ValueError, "the keys '0' to", interchange.from_keras, missing, params, tx=tx
    )
    moved = dict(
        zip(saved, [saved["1"], saved["0"], *list(saved.values())[2:]], strict=True)
    )
    refused(
        ValueError, "must be an integer", interchange.from_keras, moved, params, tx=tx
    )


def test_a_broken_loss_scale():
    scale = optadamw.DynamicLossScale(initial=8.0)
    saved, params, tx = saved_by("keras", loss_scale=scale)
    for value in (0.0, math.inf, math.nan):
        broken = saved | {"3": np.float32(value)}
        refused(ValueError, r"2\*\*126", interchange.from_keras, broken, params, tx=tx)


def test_the_learning_rate_of_keras_and_mlx():
    params, tx, state = torch_state(cases.tree())
    keras, mlx = interchange.to_keras, interchange.to_mlx
    refused(ValueError, "learning rate among its", keras, state, params)
    refused(TypeError, "'learning_rate'", keras, state, params, learning_rate="x")
    assert len(keras(state, params, learning_rate="schedule")) == 13
    assert keras(state, params, learning_rate=0.5)["1"] == np.float32(0.5)
    scheduled = optadamw.adamw(lambda t: 1.0 / (1 + t))
    assert len(keras(state, params, tx=scheduled)) == 13
    without = interchange.from_keras(keras(state, params, tx=scheduled), params, tx=tx)
    trees.assert_same_bits(without, state)
    refused(ValueError, "learning rate in its state", mlx, state, params)
    assert mlx(state, params, tx=scheduled)["learning_rate"] == np.float32(1 / 3)
    assert mlx(state, params, learning_rate=0.5)["learning_rate"] == np.float32(0.5)
