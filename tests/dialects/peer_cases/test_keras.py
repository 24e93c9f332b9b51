"""Cases of Keras's own tests.

They are in `adamw_test.py`, `optimizer_test.py` and `loss_scale_optimizer_test.py`.
"""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.dialects import keras, r_keras3, tensorflow
from tests.dialects.peer_cases.steps import ONES, START, steps

KERAS = [keras.AdamW, r_keras3.optimizer_adam_w, tensorflow.AdamW]


@pytest.mark.parametrize("call", KERAS)
def test_keras_single_step(call):
    params, grads = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 6.0, 7.0, 2.0])
    ((after, _),) = steps(call(learning_rate=0.5), params, grads)
    np.testing.assert_allclose(
        after, [0.4980, 1.4960, 2.494, 3.492], rtol=1e-4, atol=1e-4
    )


GOLDEN = [
    [0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998],
    [0.2486, 0.2475, 0.2463, 0.2451, 0.244, 0.2428, 0.2417, 0.2405, 0.2394, 0.2382],
    [0.1223, 0.1198, 0.1174, 0.1149, 0.1124, 0.11, 0.1075, 0.1051, 0.1027, 0.1003],
    [0.0586, 0.0549, 0.0512, 0.0475, 0.0439, 0.0402, 0.0366, 0.033, 0.0294, 0.0258],
    [0.0263, 0.0215, 0.0167, 0.012, 0.0073, 0.0026, -0.0021, -0.0067, -0.0113, -0.0159],
]


@pytest.mark.parametrize("call", KERAS)
def test_keras_golden(call):
    tx = call(learning_rate=1.0, weight_decay=0.5, epsilon=2)
    params, state = jnp.ones(10), tx.init(jnp.ones(10))
    grads = [jnp.full(10, 0.01), *[jnp.arange(1, 11) / 10] * 4]
    for given, expected in zip(grads, GOLDEN, strict=True):
        params, state = tx.step(given, state, params)
        np.testing.assert_allclose(params, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("module", [keras, tensorflow])
def test_keras_weight_decay(module):
    params = {"plain": jnp.array(2.0), "exclude": jnp.array(2.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = module.AdamW(learning_rate=1.0, weight_decay=0.004)
    for choice in ({"var_names": ["exclude"]}, {"var_list": ["exclude"]}):
        excluding = module.exclude_from_weight_decay(tx, **choice)
        found = steps(excluding, params, zeros, 3)
        assert float(found[2][0]["plain"]) == pytest.approx(1.9760959, abs=1e-6)
        assert float(found[2][0]["exclude"]) == 2.0


@pytest.mark.parametrize("call", KERAS)
def test_keras_weight_decay_none(call):
    with pytest.raises(ValueError, match=r"weight_decay.*must be a float"):
        call(learning_rate=1.0, weight_decay=None)


@pytest.mark.parametrize(
    ("clip", "given", "expected"),
    [
        ({"clipnorm": 1.0}, [100.0, 100.0], [2**0.5 / 2, 2**0.5 / 2]),
        ({"clipvalue": 1.0}, [100.0, 100.0], [1.0, 1.0]),
        ({"global_clipnorm": 1.0}, [50.0, 100.0], [1 / 5**0.5, 2 / 5**0.5]),
    ],
)
@pytest.mark.parametrize("call", KERAS)
def test_keras_clips(call, clip, given, expected):
    """The clipped gradient is ten times the first moment of the first step."""
    tx = call(**clip)
    ((_, state),) = steps(tx, jnp.ones(2), jnp.array(given))
    np.testing.assert_allclose(state.mu / 0.1, expected, rtol=1e-6)


@pytest.mark.parametrize("other", ["clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("call", KERAS)
def test_keras_two_clips(call, other):
    text = "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can"
    with pytest.raises(ValueError, match=text):
        call(learning_rate=1.0, clipnorm=0.1, **{other: 0.1})


# Gradients of ones move AdamW without decay by the rate, as the SGD of Keras's tests.
AS_SGD = {"learning_rate": 1.0, "weight_decay": 0.0, "epsilon": 1e-9}


def test_keras_average():
    tx = keras.AdamW(
        **AS_SGD, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
    )
    found = steps(tx, START, ONES, 3)
    for (_, state), moved in zip(found, (1.0, 1.1, 1.29), strict=True):
        average = optadamw.ema_of(state)
        np.testing.assert_allclose(average, START - moved, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][0], [[2.0, 3.0], [4.0, 5.0]], rtol=1e-4)
    np.testing.assert_allclose(found[1][0], [[1.0, 2.0], [3.0, 4.0]], rtol=1e-4)
    written = [[1.71, 2.71], [3.71, 4.71]]
    np.testing.assert_allclose(found[2][0], written, rtol=1e-4)
    np.testing.assert_allclose(optadamw.ema_of(found[2][1]), written, rtol=1e-4)


@pytest.mark.parametrize("call", KERAS[:2])
def test_keras_accumulation(call):
    start = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    tx = call(**AS_SGD, gradient_accumulation_steps=3)
    found = steps(tx, start, ONES, 4)
    after = [[0.0, 1.0], [2.0, 3.0]]
    for i, expected in enumerate((start, start, after, after)):
        np.testing.assert_allclose(found[i][0], expected, atol=1e-5)
    # What is left in the accumulator when a window ends is not part of the next one.
    for i, expected in ((0, 1.0), (1, 2.0), (3, 1.0)):
        np.testing.assert_allclose(found[i][1].accumulator, expected * ONES, atol=1e-6)
    # Keras counts calls, 1 to 4; here they are steps and what is left of a window.
    assert [3 * int(s.step) + int(s.micro_step) for _, s in found] == [1, 2, 3, 4]


@pytest.mark.parametrize("call", KERAS)
def test_keras_callable_rate(call):
    start = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    options = AS_SGD | {"learning_rate": lambda: 0.1}
    ((after, state),) = steps(call(**options), start, ONES)
    np.testing.assert_allclose(after, [[0.9, 1.9], [2.9, 3.9]], rtol=1e-5)
    assert int(state.step) == 1


def test_keras_static_loss_scale():
    tx = keras.AdamW(**AS_SGD, loss_scale_factor=1024.0)
    start = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    ((after, state),) = steps(tx, start, ONES * 1024.0)
    np.testing.assert_allclose(after, start - 1, atol=1e-5)
    assert float(optadamw.scale_loss(tx.init(start), jnp.float32(1.0))) == 1024.0
    np.testing.assert_allclose(state.mu, 0.1 * ONES, rtol=1e-6)


def test_keras_counts_its_steps():
    found = steps(keras.AdamW(learning_rate=1.0), START, ONES, 2)
    assert [int(state.step) for _, state in found] == [1, 2]


def test_keras_gradients_that_are_missing():
    params = {"a": START, "b": START}
    tx = keras.AdamW(**AS_SGD)
    ((after, _),) = steps(tx, params, {"a": None, "b": ONES})
    np.testing.assert_array_equal(after["a"], START)
    np.testing.assert_allclose(after["b"], START - 1, rtol=1e-5)


@pytest.mark.parametrize("call", KERAS)
def test_keras_pickles(call):
    tx = call(0.5, 0.008, 0.5, 0.67, 1e-5, True)
    assert pickle.loads(pickle.dumps(tx)) == tx


def test_keras_loss_scale_optimizer():
    start, grads = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 6.0, 7.0, 2.0])
    inner = keras.AdamW(learning_rate=0.5)
    tx = keras.LossScaleOptimizer(inner)
    state = tx.init(start)
    assert float(state.loss_scale) == 2.0**15
    after, state = tx.step(grads * state.loss_scale, state, start)
    np.testing.assert_allclose(
        after, [0.4980, 1.4960, 2.494, 3.492], rtol=1e-4, atol=1e-4
    )
    same, state = tx.step(grads.at[0].set(jnp.inf), state, after)
    np.testing.assert_array_equal(same, after)
    assert float(state.loss_scale) == 2.0**14


def test_keras_loss_scale_grows():
    tx = keras.LossScaleOptimizer(
        keras.AdamW(), initial_scale=400.0, dynamic_growth_steps=2
    )
    found = [float(s.loss_scale) for _, s in steps(tx, START, ONES, 4)]
    assert found == [400.0, 800.0, 800.0, 1600.0]
