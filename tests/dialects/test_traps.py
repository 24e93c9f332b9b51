"""Traps of the peers, which the calls of the same names avoid."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import flux, keras, mlx, tensorflow, tensorflow_addons, torch
from optadamw.dialects import optax as optax_peer
from tests.dialects.training import PARAMS, moved, same_trees


@pytest.mark.parametrize(
    "case", ["keras", "tensorflow", "torch", "mlx", "optax", "tfa"]
)
def test_bfloat16_parameters_train(case):
    calls = {
        "keras": keras.AdamW(0.1), "tensorflow": tensorflow.AdamW(0.1),
        "torch": torch.AdamW(lr=0.1), "mlx": mlx.AdamW(0.1),
        "optax": optax_peer.adamw(0.1), "tfa": tensorflow_addons.AdamW(0.01, 0.1),
    }  # fmt: skip
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    tx = calls[case]
    after, state = jax.jit(tx.step)({"w": jnp.ones(4)}, tx.init(params), params)
    assert after["w"].dtype == jnp.bfloat16
    assert float(after["w"][0]) < 0.95
    assert state.mu["w"].dtype == jnp.float32


def test_float16_does_not_divide_by_zero():
    params = {"w": jnp.ones(4, jnp.float16)}
    for tx in (torch.AdamW(lr=0.1), flux.AdamW(0.1)):
        grads = {"w": jnp.full(4, 1e-3, jnp.float16)}
        after, _ = tx.step(grads, tx.init(params), params)
        assert np.isfinite(after["w"]).all()


def test_a_parameter_without_a_gradient_is_left_alone_and_a_zero_decays():
    tx = torch.AdamW(lr=0.1, weight_decay=0.5)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    grads = {"a": None, "b": jnp.zeros(2)}
    after, _ = tx.step(grads, tx.init(params), params)
    np.testing.assert_array_equal(after["a"], params["a"])
    np.testing.assert_allclose(after["b"], 0.95, rtol=1e-6)


def test_a_gradient_that_is_not_finite_leaves_other_parameters_alone():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    grads = {"a": jnp.array([jnp.inf, 1.0]), "b": jnp.ones(2)}
    for tx in (keras.AdamW(0.1, global_clipnorm=1.0), tensorflow.AdamW(0.1)):
        after, _ = tx.step(grads, tx.init(params), params)
        assert np.isfinite(after["b"]).all()


def test_the_first_step_of_mlx_has_no_correction():
    tx = mlx.AdamW(0.1, weight_decay=0.0)
    params = {"w": jnp.array([8.0])}
    after, _ = tx.step({"w": jnp.ones(1)}, tx.init(params), params)
    assert moved(params, after) == pytest.approx(0.1 * 0.1 / math.sqrt(0.001), rel=1e-5)


def test_the_epsilon_of_keras_is_epsilon_hat():
    params = {"w": jnp.zeros(1)}
    for tx, root in (
        (keras.AdamW(0.1, 0.0, epsilon=0.5), math.sqrt(0.001)),
        (torch.AdamW(lr=0.1, weight_decay=0.0, eps=0.5), 1.0),
    ):
        after, _ = tx.step({"w": jnp.ones(1)}, tx.init(params), params)
        assert moved(params, after) == pytest.approx(
            0.1 * root / (root + 0.5), rel=1e-5
        )


def test_the_decay_of_flux_is_none_unless_asked_for():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    tx = flux.AdamW(0.5)
    same_trees(tx.step(zeros, tx.init(PARAMS), PARAMS)[0], PARAMS)
    for couple, left in ((True, 0.875), (False, 0.75)):
        tx = flux.AdamW(0.5, lambda_=0.25, couple=couple)
        after, _ = tx.step(zeros, tx.init(PARAMS), PARAMS)
        same_trees(after, jax.tree.map(lambda p, x=left: x * p, PARAMS))
