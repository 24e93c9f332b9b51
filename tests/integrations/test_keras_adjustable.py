"""Rates of groups, adjustable rates, and options that Keras's optimizer refuses.

Run with the real Keras, in the lane of the peers.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import adamw, schedules

keras = pytest.importorskip("keras", reason="Keras is not installed")
from optadamw.integrations.keras import Optimizer  # noqa: E402
from optadamw.integrations.keras_options import IN_TX  # noqa: E402
from tests.integrations.test_keras import again, assert_same, fitted  # noqa: E402


@pytest.mark.parametrize("factor", [1, 0.5])
def test_an_adjustable_rate_is_set_in_the_state(factor, tmp_path):
    """By callbacks, and kept in a file; the numbers are those of a plain rate."""
    rate = optadamw.adjustable(0.1 / factor)
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    tx = adamw(rate if factor == 1 else rate * factor)
    made, _ = fitted(Optimizer(tx), callbacks=[halve])
    plain, _ = fitted(Optimizer(adamw(0.1)), callbacks=[halve])
    for a, b in zip(made.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    wanted = float(np.asarray(plain.optimizer.learning_rate))
    assert float(made.optimizer.learning_rate) == pytest.approx(wanted)
    held = made.optimizer.tx.hyperparameters(made.optimizer.state)
    assert float(held["learning_rate"]) * factor == pytest.approx(wanted)
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == pytest.approx(wanted)
    for value in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="`learning_rate` must be finite and >= 0"):
            made.optimizer.learning_rate = value
    for value in (None, "fast", [0.1, 0.2]):
        with pytest.raises(TypeError, match="`learning_rate` must be a number; got"):
            made.optimizer.learning_rate = value
    with pytest.raises(ValueError, match=r"part of the state.*none yet.*build"):
        Optimizer(tx).learning_rate = 0.1


@pytest.mark.parametrize("name", IN_TX)
def test_an_option_of_tx_is_not_set_as_an_attribute(name):
    made = Optimizer(adamw(0.1))
    argument = rf"{IN_TX[name]}=\.\.\."
    with pytest.raises(TypeError, match=rf"`{name}` cannot be set.*{argument}"):
        setattr(made, name, 3)
    setattr(made, name, getattr(made, name, None))


def test_patterns_choose_parameters_of_one_path():
    """Two towers with layers of one name: Keras lets their variables share a path."""
    towers, inputs = [], []
    for _ in range(2):
        inside = keras.Input((3,))
        tower = keras.Model(inside, keras.layers.Dense(2, name="hidden")(inside))
        inputs.append(keras.Input((3,)))
        towers.append(tower(inputs[-1]))
    model = keras.Model(inputs, towers[0] + towers[1])
    made = Optimizer(adamw(0.1, groups={"*/bias": {"freeze": True}}))
    made.build(model.trainable_variables)
    held = {name for name, x in made.state.mu.items() if x is not None}
    assert held == {"hidden/kernel", "hidden_2/kernel"}


def moved(tx, rate=None):
    """Return how far each of two variables moves in one step, with gradients of 1."""
    ones = np.ones(2, "float32")
    variables = [keras.Variable(ones, name=name) for name in ("body", "head")]
    made = Optimizer(tx, learning_rate=rate)
    made.apply([ones, ones], variables)
    return [float(1 - v.numpy()[0]) for v in variables]


@pytest.mark.parametrize(
    "own",
    [
        1e-2,
        np.float64(1e-2),
        jnp.float32(1e-2),
        optadamw.adjustable(1e-2, name="own"),
        schedules.constant_schedule(1e-2),
        lambda step: 1e-2,
    ],
    ids=["number", "NumPy", "JAX", "adjustable", "schedule", "function"],
)
@pytest.mark.parametrize(
    ("base", "rate", "wanted"),
    [
        (0.1, None, (0.1, 1e-2)),
        (0.1, 0.05, (0.05, 5e-3)),
        (0.0, None, (0.0, 1e-2)),
        (0.0, 0.05, (0.05, 1e-2)),
    ],
)
def test_the_rate_of_a_group(own, base, rate, wanted):
    """A group has the rate of `tx.step` until one is set, and then new / old of it."""
    tx = adamw(base, weight_decay=0.0, groups={"head": {"learning_rate": own}})
    assert moved(tx, rate) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.array, jnp.float32])
def test_a_rate_that_is_a_scalar_is_saved(scalar, tmp_path):
    tx = adamw(scalar(0.03), groups={"*/bias": {"learning_rate": scalar(0.01)}})
    made, _ = fitted(Optimizer(tx), epochs=1)
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.tx == tx
    assert_same(again(made), again(loaded))


def test_a_constraint_without_effect_is_refused():
    made = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(2, kernel_constraint="non_neg")]
    )
    made.compile(optimizer=Optimizer(optadamw.schedule_free_adamw(0.1)), loss="mse")
    with pytest.raises(ValueError, match=r"constraint of '.*/kernel'.*no effect.*out"):
        made.fit(np.ones((8, 5)), np.ones((8, 2)), verbose=0)
