"""Keras 3 on JAX: `compile` and `fit` with a transformation of this library.

Run with the real Keras, in the lane of the peers.
"""

import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import optax
import pytest

import optadamw
from optadamw import adamw, schedules
from optadamw.dialects import keras as dialect

keras = pytest.importorskip("keras", reason="Keras is not installed")
from optadamw.integrations.keras import Optimizer  # noqa: E402

X = np.random.default_rng(0).normal(size=(48, 5)).astype("float32")
Y = np.tanh(X[:, :2]) ** 2


@pytest.fixture(autouse=True)
def policy():
    keras.utils.clear_session()
    yield
    keras.mixed_precision.set_global_policy("float32")


def model(dtype=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(7, activation="tanh", dtype=dtype),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2, dtype=dtype),
        ]
    )


def fitted(optimizer, epochs=2, made=None, callbacks=(), **options):
    made = model() if made is None else made
    made.compile(optimizer=optimizer, loss="mse", **options)
    history = made.fit(
        *(X, Y),
        epochs=epochs,
        batch_size=12,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
    )
    return made, history.history


def again(made, epochs=1):
    made.fit(X, Y, epochs=epochs, batch_size=12, verbose=0, shuffle=False)
    return made


def assert_same(one, two):
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- The numbers of Keras's AdamW ----------------------------------------------------

ROWS = {
    "default": {},
    "decay": {"weight_decay": 0.1, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-5},
    "amsgrad": {"amsgrad": True},
    "clipnorm": {"clipnorm": 0.1},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.05},
    "ema": {"use_ema": True, "ema_momentum": 0.7},
    "overwrite": {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3},
    "accumulation": {"gradient_accumulation_steps": 2},
}


def moved_by(optimizer, calls=12):
    """Weights after some calls with gradients that do not depend on the weights."""
    rng = np.random.default_rng(1)
    shapes = ((4, 3), (3,))
    variables = [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=f"v{i}")
        for i, shape in enumerate(shapes)
    ]
    optimizer.build(variables)
    for _ in range(calls):
        scale = 10.0 ** rng.integers(-3, 1)
        optimizer.apply([scale * rng.normal(size=s).astype("float32") for s in shapes])
    optimizer.finalize_variable_values(variables)
    return np.concatenate([v.numpy().ravel() for v in variables])


@pytest.mark.parametrize("row", ROWS)
def test_a_step_has_the_numbers_of_the_adamw_of_keras(row):
    options = {"learning_rate": 0.01, **ROWS[row]}
    theirs = moved_by(keras.optimizers.AdamW(**options))
    ours = moved_by(Optimizer(dialect.AdamW(**options)))
    # The bound of the dialect's rows: 4 units in the last place, and 0.3 a call.
    unit = np.spacing(np.abs(theirs).max())
    assert np.abs(ours - theirs).max() <= (4 + 0.3 * 12) * unit


@pytest.mark.parametrize("row", ["default", "global_clipnorm", "accumulation"])
def test_fit_goes_as_with_the_adamw_of_keras(row):
    options = {"learning_rate": 0.01, **ROWS[row]}
    theirs, their_losses = fitted(keras.optimizers.AdamW(**options))
    ours, losses = fitted(Optimizer(dialect.AdamW(**options)))
    # Gradients that depend on the weights amplify what the steps round differently.
    np.testing.assert_allclose(losses["loss"], their_losses["loss"], rtol=1e-5)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_weights_without_decay_are_those_of_keras():
    theirs = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    theirs.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    tx = adamw(
        *(0.01, 0.9, 0.999, 1e-7),
        weight_decay=0.5,
        mask="*/kernel",
        eps_mode="hat",
    )
    for a, b in zip(
        fitted(Optimizer(tx))[0].get_weights(),
        fitted(theirs)[0].get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
    "how", [{"jit_compile": False}, {"run_eagerly": True}, {"steps_per_execution": 2}]
)
def test_every_way_of_running_a_step_gives_the_same(how):
    tx = adamw(0.01, ema_decay=0.9, accumulate_steps=2)
    plain, _ = fitted(Optimizer(tx))
    other, _ = fitted(Optimizer(tx), **how)
    for a, b in zip(plain.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)


# --- What Keras's optimizers do not have ---------------------------------------------


def test_a_loop_with_everything_on():
    tx = adamw(
        0.01,
        precision="full",
        mu_dtype=optadamw.blockwise(min_size=0),
        nu_dtype=optadamw.blockwise(min_size=0),
        accumulate_steps=2,
        ema_decay=0.9,
        loss_scale=optadamw.DynamicLossScale(initial=8.0),
        skip_spikes=True,
        stats=True,
        mask="*/kernel",
        groups={"*/bias": {"learning_rate": 0.001}},
    )
    made, history = fitted(Optimizer(tx), epochs=6)
    assert history["loss"][-1] < history["loss"][0]
    state = made.optimizer.state
    assert int(state.step) == 12 == int(made.optimizer.iterations)
    assert state.mu["sequential/dense/kernel"].dtype == np.uint8
    assert float(optadamw.stats_of(state).grad_norm) > 0
    assert "sequential/dense_1/bias" in optadamw.describe(tx, state.ema)


def test_a_batch_that_is_not_finite_is_skipped_and_counted():
    made, _ = fitted(Optimizer(adamw(0.01, skip_nonfinite=True)), epochs=1)
    before = [w.copy() for w in made.get_weights()]
    broken = model()
    broken.compile(optimizer=Optimizer(adamw(0.01, skip_nonfinite=True)), loss="mse")
    targets = Y.copy()
    targets[-12:] = np.nan
    broken.fit(X, targets, batch_size=12, epochs=1, verbose=0, shuffle=False)
    stats = optadamw.stats_of(broken.optimizer.state)
    assert int(stats.skipped) == 1 and int(stats.step) == 3
    assert all(np.isfinite(w).all() for w in broken.get_weights())
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(before, broken.get_weights(), strict=True)
    )


def test_the_average_is_in_the_model_at_the_end_of_fit():
    made, _ = fitted(Optimizer(adamw(0.05, ema_decay=0.9)))
    averages = optadamw.ema_of(made.optimizer.state)
    for variable in made.trainable_variables:
        np.testing.assert_array_equal(variable.value, averages[variable.path])
    fitted(Optimizer(adamw(0.05, ema_decay=0.9, accumulate_steps=100)))  # no step


def test_the_rest_of_a_window_is_kept_and_can_be_flushed():
    made, _ = fitted(Optimizer(adamw(0.05, accumulate_steps=3)), epochs=1)
    assert int(made.optimizer.state.step) == 1
    assert int(made.optimizer.state.micro_step) == 1
    before = made.get_weights()[0].copy()
    made.optimizer.flush()
    assert int(made.optimizer.state.step) == 2
    assert not np.array_equal(before, made.get_weights()[0])


def test_a_loss_scale_of_tx_divides_what_it_multiplied():
    plain, _ = fitted(Optimizer(adamw(0.01)))
    scaled, _ = fitted(Optimizer(adamw(0.01, loss_scale=1024.0)))
    for a, b in zip(plain.get_weights(), scaled.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_constraint_holds_after_every_step():
    made = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(2, kernel_constraint=keras.constraints.NonNeg()),
        ]
    )
    fitted(Optimizer(adamw(0.1)), made=made)
    assert (made.get_weights()[0] >= 0).all()


# --- The learning rate ---------------------------------------------------------------


def test_the_rate_is_shown_and_set_by_callbacks():
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    made, history = fitted(Optimizer(adamw(0.08)), epochs=3, callbacks=[halve])
    np.testing.assert_allclose(history["learning_rate"], [0.04, 0.02, 0.01], rtol=1e-6)
    assert float(made.optimizer.learning_rate) == pytest.approx(0.01)
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.1, patience=0, min_delta=100.0
    )
    made, history = fitted(Optimizer(adamw(0.08)), epochs=3, callbacks=[plateau])
    np.testing.assert_allclose(history["learning_rate"][-1], 0.008, rtol=1e-6)


def test_a_rate_that_is_set_is_used_and_compiles_nothing():
    by_callback = keras.callbacks.LearningRateScheduler(
        lambda epoch: 0.02 / (epoch + 1)
    )
    ours, _ = fitted(Optimizer(dialect.AdamW(0.02)), epochs=3, callbacks=[by_callback])
    theirs, _ = fitted(keras.optimizers.AdamW(0.02), epochs=3, callbacks=[by_callback])
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6, rtol=3e-6)
    traces = []
    ours.train_step = lambda *arguments: (
        traces.append(1) or type(ours).train_step(ours, *arguments)
    )
    ours.make_train_function(force=True)
    for rate in (0.1, 0.2):
        ours.optimizer.learning_rate = rate
        again(ours)
    assert len(traces) == 1


def test_the_rate_of_a_schedule_is_shown_and_cannot_be_set():
    rate = schedules.linear_schedule(0.1, 0.0, 10)
    made, _ = fitted(Optimizer(adamw(rate)))
    assert float(made.optimizer.learning_rate) == pytest.approx(0.02)  # after 8 steps
    with pytest.raises(TypeError, match=r"cannot be set: it is the schedule linear_s"):
        made.optimizer.learning_rate = 0.1
    with pytest.raises(TypeError, match="cannot be set"):
        fitted(
            Optimizer(adamw(rate)),
            callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)],
        )


@pytest.mark.parametrize(
    ("rate", "error"),
    [(x, ValueError) for x in (-0.1, float("nan"), 1e39)] + [(lambda: 0.1, TypeError)],
)
def test_a_rate_that_is_none_is_refused(rate, error):
    optimizer = Optimizer(adamw(0.1))
    with pytest.raises(error, match="`learning_rate` must be"):
        optimizer.learning_rate = rate
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


# --- Mixed precision -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(name):
    keras.mixed_precision.set_global_policy(name)
    made, history = fitted(Optimizer(adamw(0.01)), epochs=4)
    is_wrapped = hasattr(made.optimizer, "inner_optimizer")
    assert is_wrapped == (name == "mixed_float16")
    assert history["loss"][-1] < history["loss"][0]


def test_a_loss_scale_of_tx_and_of_keras_are_refused_together():
    keras.mixed_precision.set_global_policy("mixed_float16")
    tx = adamw(0.01, loss_scale=optadamw.DynamicLossScale())
    with pytest.raises(ValueError, match="auto_scale_loss=False"):
        fitted(Optimizer(tx))
    made, history = fitted(Optimizer(tx), epochs=4, auto_scale_loss=False)
    assert history["loss"][-1] < history["loss"][0]
    assert float(made.optimizer.state.loss_scale) > 0


def test_bfloat16_weights_are_warned_of_and_train_with_the_remedy():
    def loss_of(tx):
        return fitted(Optimizer(tx), made=model("bfloat16"), epochs=1)[1]["loss"]

    with pytest.warns(UserWarning, match=r"kernel' is bfloat16.*commit='stochastic'"):
        loss_of(adamw(1e-4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of(adamw(1e-4, commit="stochastic"))


# --- Files ---------------------------------------------------------------------------

SAVED = {
    "plain": adamw(0.02, weight_decay=0.1),
    "schedule": adamw(schedules.cosine_decay_schedule(0.02, 20)),
    "everything": adamw(
        0.02,
        mu_dtype=optadamw.stochastic("bfloat16"),
        nu_dtype=optadamw.blockwise(min_size=0),
        ema_decay=0.9,
        accumulate_steps=3,
        stats=True,
        mask="*/kernel",
    ),
    "dialect": dialect.AdamW(0.02, amsgrad=True),
}


@pytest.mark.parametrize("row", SAVED)
def test_a_saved_model_goes_on_with_the_same_bits(row, tmp_path):
    made, _ = fitted(Optimizer(SAVED[row]))
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.tx == SAVED[row]
    assert_same(made, loaded)
    for a, b in zip(
        jax.tree.leaves(made.optimizer.state),
        jax.tree.leaves(loaded.optimizer.state),
        strict=True,
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert_same(again(made), again(loaded))


def test_saved_weights_go_on_with_the_same_bits(tmp_path):
    tx = adamw(0.02, ema_decay=0.9)
    made, _ = fitted(Optimizer(tx))
    made.optimizer.learning_rate = 0.005
    made.save_weights(tmp_path / "some.weights.h5")
    other = model()
    other.compile(optimizer=Optimizer(tx), loss="mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "some.weights.h5")
    assert float(other.optimizer.learning_rate) == pytest.approx(0.005)
    assert_same(again(made), again(other))


def test_the_config_has_the_call_as_text_and_the_rate_that_was_set():
    optimizer = Optimizer(adamw(0.1, mask="*/kernel"), name="mine")
    optimizer.learning_rate = 0.25
    config = optimizer.get_config()
    assert config == {
        "name": "mine",
        "tx": "adamw(0.1, mask='*/kernel')",
        "learning_rate": 0.25,
    }
    made = Optimizer.from_config(config)
    assert made.tx == optimizer.tx and float(made.learning_rate) == 0.25
    same = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert same.get_config() == config


def test_a_function_cannot_be_saved_and_the_error_says_what_can(tmp_path):
    made, _ = fitted(Optimizer(adamw(0.1, mask=lambda path, array: array.ndim > 1)))
    with pytest.raises(ValueError, match=r"cannot be saved.*Use a pattern"):
        made.save(tmp_path / "model.keras")
    made.save_weights(tmp_path / "some.weights.h5")


# --- A loop of one's own -------------------------------------------------------------


def test_a_loop_with_apply():
    made = model()
    optimizer = Optimizer(adamw(0.1))
    with pytest.raises(ValueError, match="has no state yet"):
        optimizer.state  # noqa: B018
    variables = made.trainable_variables
    grads = [np.ones(v.shape, "float32") for v in variables]
    before = [np.asarray(v.value) for v in variables]
    optimizer.apply(grads, variables)
    for old, new in zip(before, variables, strict=True):
        np.testing.assert_allclose(old - new.numpy(), 0.1, rtol=1e-3)
    kept = variables[0].numpy()
    with pytest.warns(UserWarning, match=r"kernel'\] when minimizing"):
        optimizer.apply([None, *grads[1:]])
    np.testing.assert_array_equal(variables[0].numpy(), kept)
    assert int(optimizer.iterations) == 2
    with pytest.raises(ValueError, match="No gradients"):
        optimizer.apply([None] * len(grads))
    with pytest.raises(ValueError, match=f"each of {len(grads)} variables; got 1"):
        optimizer.apply(grads[:1])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply(grads[:1], [keras.Variable(np.ones(2))])


def test_variables_of_one_path_are_told_apart():
    variables = [keras.Variable(np.ones(2, "float32"), name="same") for _ in range(2)]
    optimizer = Optimizer(adamw(0.1))
    optimizer.build(variables)
    assert list(optimizer.state.mu) == ["same", "same_2"]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((keras.optimizers.AdamW(),), TypeError, "a transformation of optadamw"),
        ((1e-3,), TypeError, r"got 0.001 of type float\.$"),
        ((optax.adamw(0.1),), TypeError, "state of several parts: use it in a loop"),
        ((optadamw.scale_by_adam(),), ValueError, "has no learning rate"),
        (
            (adamw(schedules.constant_schedule(0.1)), 0.1),
            TypeError,
            "cannot be set: it is the schedule",
        ),
    ],
)
def test_what_is_no_optimizer_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        Optimizer(*arguments)


def test_parameters_without_decay_are_chosen_in_tx():
    with pytest.raises(NotImplementedError, match=r"mask=optadamw\.exclude"):
        Optimizer(adamw(0.1)).exclude_from_weight_decay(var_names=["bias"])
