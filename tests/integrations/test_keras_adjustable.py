"""Callbacks set an adjustable learning rate, and no other option, of Keras's optimizer.

Run with the real Keras, in the lane of the peers.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
import pytest

import optadamw
from optadamw import adamw

keras = pytest.importorskip("keras", reason="Keras is not installed")
from optadamw.integrations.keras import Optimizer  # noqa: E402
from optadamw.integrations.keras_options import IN_TX  # noqa: E402
from tests.integrations.test_keras import fitted  # noqa: E402


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
    setattr(made, name, getattr(made, name))


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
