"""Keras's callback `SwapEMAWeights` with an average of this library.

Run with the real Keras, in the lane of the peers.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
import pytest

import optadamw
from optadamw import adamw
from optadamw.dialects import keras as dialect

keras = pytest.importorskip("keras", reason="Keras is not installed")
from optadamw.integrations.keras import Optimizer  # noqa: E402

X = np.random.default_rng(0).normal(size=(48, 5)).astype("float32")
Y = np.tanh(X[:, :2]) ** 2
SWAPS = {"while it evaluates": {}, "between epochs": {"swap_on_epoch": True}}
each_swap = pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)


def trained(optimizer, callbacks=(), dtype=None, epochs=3, **options):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(7, activation="tanh", dtype=dtype),
            keras.layers.Dense(2, dtype=dtype),
        ]
    )
    model.compile(optimizer=optimizer, loss="mse", **options)
    history = model.fit(
        *(X, Y),
        **{"epochs": epochs, "batch_size": 12, "verbose": 0, "shuffle": False},
        validation_data=(X, Y),
        callbacks=list(callbacks),
    )
    return model, history.history


@each_swap
def test_the_history_is_that_of_keras(swap):
    """Losses of training and of evaluation, and the weights at the end."""
    found = []
    for optimizer in (
        Optimizer(dialect.AdamW(0.01, use_ema=True, ema_momentum=0.9)),
        keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9),
    ):
        callback = keras.callbacks.SwapEMAWeights(**swap)
        model, history = trained(optimizer, [callback])
        found.append((history, model.get_weights()))
    (ours, weights), (theirs, wanted) = found
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5)
    for one, other in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


FORMS = {
    "float32": ({}, None),
    "average in 16 bits": ({"ema_dtype": optadamw.stochastic("bfloat16")}, None),
    "everything compact": ({"precision": "compact"}, "bfloat16"),
    "without the first parameters": ({"ema_debias": True}, None),
    "a window": ({"accumulate_steps": 2, "skip_nonfinite": True}, None),
    "a frozen group": ({"groups": {"*/bias": {"freeze": True}}}, None),
}


@each_swap
@pytest.mark.parametrize(("options", "dtype"), FORMS.values(), ids=FORMS)
def test_a_training_has_the_bits_of_one_without_it(swap, options, dtype):
    """Parameters and average come back unrounded, whatever their forms."""
    tx = adamw(0.01, ema_decay=0.9, **options)
    plain, _ = trained(Optimizer(tx), dtype=dtype)
    callback = keras.callbacks.SwapEMAWeights(**swap)
    model, history = trained(Optimizer(tx), [callback], dtype=dtype)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    _, evaluated = trained(Optimizer(tx), dtype=dtype)
    assert history["loss"] == evaluated["loss"]
    assert history["val_loss"] != evaluated["val_loss"]


def test_evaluation_sees_the_average_and_training_the_parameters():
    optimizer = Optimizer(adamw(0.01, ema_decay=0.9))
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen["evaluated"] = self.model.layers[0].kernel.numpy()
            seen["average"] = optadamw.ema_of(optimizer.state)

        def on_test_end(self, logs=None):
            seen["after"] = self.model.layers[0].kernel.numpy()

        def on_train_batch_end(self, batch, logs=None):
            seen["before"] = self.model.layers[0].kernel.numpy()

    swap = keras.callbacks.SwapEMAWeights()
    model, _ = trained(optimizer, [swap, Look()], epochs=1, run_eagerly=True)
    average = seen["average"][model.layers[0].kernel.path]
    np.testing.assert_array_equal(seen["evaluated"], average)
    np.testing.assert_array_equal(seen["after"], seen["before"])
    assert (seen["evaluated"] != seen["after"]).any()
    # A model that is not trained yet is evaluated as it is.
    model.compile(optimizer=Optimizer(adamw(0.01, ema_decay=0.9)), loss="mse")
    weights = model.get_weights()
    model.evaluate(X, Y, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_interrupted_evaluation_is_forgotten():
    """The model keeps the average then, as with Keras's own, and trains on from it."""
    optimizer = Optimizer(adamw(0.01, ema_decay=0.9))

    class Interrupt(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            raise KeyboardInterrupt

    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            average = optadamw.ema_of(optimizer.state)
            kernel = self.model.layers[0].kernel
            seen.append(np.array_equal(kernel.numpy(), average[kernel.path]))

        def on_test_end(self, logs=None):
            value = self.model.layers[0].kernel.numpy()
            seen.append(np.array_equal(value, self.trained))

        def on_train_batch_end(self, batch, logs=None):
            self.trained = self.model.layers[0].kernel.numpy()

    swap = keras.callbacks.SwapEMAWeights
    model, _ = trained(optimizer, [], epochs=1, run_eagerly=True)
    data = {"batch_size": 12, "verbose": 0, "validation_data": (X, Y)}
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[swap(), Interrupt()], **data)
    model.fit(X, Y, callbacks=[swap(), Look()], epochs=2, **data)
    assert seen == [True] * 4


def test_a_checkpoint_between_epochs_has_the_average(tmp_path):
    path = str(tmp_path / "model.keras")
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(path),
    ]
    model, _ = trained(Optimizer(adamw(0.01, ema_decay=0.9)), callbacks)
    loaded = keras.models.load_model(path)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_under_the_loss_scale_of_keras():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        swap = keras.callbacks.SwapEMAWeights()
        _, history = trained(Optimizer(adamw(0.01, ema_decay=0.9)), [swap])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(history["val_loss"]).all()


def test_a_transformation_without_average_is_refused():
    swap = keras.callbacks.SwapEMAWeights()
    with pytest.raises(ValueError, match=r"SwapEMAWeights needs .*ema_decay"):
        trained(Optimizer(adamw(0.01)), [swap])


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}], ids=["plain", "average"])
def test_an_error_in_a_second_fit_is_not_hidden(options):
    """Keras frees the values of its variables before it traces an epoch."""
    model, _ = trained(Optimizer(adamw(0.01, **options)))
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have"):
        model.fit(X[:, :3], Y, verbose=0)
