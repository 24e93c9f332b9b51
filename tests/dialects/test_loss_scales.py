"""The dynamic loss scales of Keras and PyTorch, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import keras, r_keras3, torch
from tests.dialects.training import PARAMS, gradients, same_trees, trained


def scales(tx, finite):
    """The scale after every call, finite or not; and the parameters."""
    params = {"w": jnp.array([1.0, 2.0])}
    state, step, found = tx.init(params), jax.jit(tx.step), []
    for is_finite in finite:
        good = jnp.ones(2) * state.loss_scale
        given = good if is_finite else good.at[0].set(jnp.inf)
        before = params
        params, state = step({"w": given}, state, params)
        if not is_finite:
            same_trees(params, before)
        found.append(float(state.loss_scale))
    return found, state


def as_keras(initial, growth, finite):
    """semantics.md 2.7."""
    scale, counter, found = initial, 0, []
    for is_finite in finite:
        if not is_finite:
            counter, scale = 0, scale * 0.5
        elif counter == growth - 1:
            counter, scale = 0, scale * 2
        else:
            counter += 1
        found.append(scale)
    return found


def as_torch(initial, growth, factor, backoff, finite):
    """`torch._amp_update_scale_`."""
    scale, counter, found = initial, 0, []
    for is_finite in finite:
        if not is_finite:
            counter, scale = 0, scale * backoff
        else:
            counter += 1
            if counter == growth:
                counter, scale = 0, scale * factor
        found.append(scale)
    return found


SEQUENCES = [
    [True] * 9,
    [False] * 5,
    [True, True, False, True, True, True, True, False, False, True] * 3,
    [bool(x) for x in np.random.default_rng(5).uniform(size=40) < 0.8],
]


@pytest.mark.parametrize("finite", SEQUENCES)
@pytest.mark.parametrize("growth", [1, 2, 5])
def test_the_scales_of_keras(finite, growth):
    expected = as_keras(1024.0, growth, finite)
    for tx in (
        keras.LossScaleOptimizer(keras.AdamW(0.1), 1024.0, growth),
        r_keras3.optimizer_loss_scale(
            r_keras3.optimizer_adam_w(0.1), 1024.0, float(growth)
        ),
    ):
        found, state = scales(tx, finite)
        assert found == expected
        assert int(state.step) == sum(finite)


@pytest.mark.parametrize("finite", SEQUENCES)
@pytest.mark.parametrize(("growth", "factor", "back"), [(1, 4.0, 0.25), (3, 2.0, 0.5)])
def test_the_scales_of_torch(finite, growth, factor, back):
    scaler = torch.GradScaler(
        "cpu", 512.0, growth_factor=factor, backoff_factor=back, growth_interval=growth
    )
    found, state = scales(torch.AdamW(lr=0.1, grad_scaler=scaler), finite)
    assert found == as_torch(512.0, growth, factor, back, finite)
    assert int(state.step) == sum(finite)


def test_the_first_scales():
    assert float(
        keras.LossScaleOptimizer(keras.AdamW()).init(PARAMS).loss_scale
    ) == float(2**15)
    tx = torch.AdamW(grad_scaler=torch.GradScaler())
    assert float(tx.init(PARAMS).loss_scale) == float(2**16)


def test_a_scaled_loss_is_unscaled_before_the_clip():
    plain, _ = trained(keras.AdamW(0.1, clipvalue=0.25))
    scaled, _ = trained(
        keras.AdamW(0.1, clipvalue=0.25, loss_scale_factor=8.0),
        grads=lambda i: jax.tree.map(lambda g: g * 8, gradients(i)),
    )
    same_trees(plain, scaled)


def test_a_bad_micro_batch_leaves_its_window_waiting():
    """semantics.md 2.7: it is dropped and the inner counter waits."""
    inner = keras.AdamW(0.1, gradient_accumulation_steps=2)
    tx = keras.LossScaleOptimizer(inner, 8.0, 100)
    params, state = {"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)})
    moves = []
    for value in (1.0, np.inf, 1.0, 1.0, np.nan, np.inf, 1.0):
        given = {"w": jnp.full(1, value) * state.loss_scale}
        new, state = jax.jit(tx.step)(given, state, params)
        moves.append(bool(new["w"][0] != params["w"][0]))
        params = new
    assert moves == [False, False, True, False, False, False, True]
    assert float(state.loss_scale) == 1.0


def test_the_bounds_of_the_peers_scale_have_normal_reciprocals():
    scale = torch.GradScaler()
    assert scale.minimum == float(np.finfo(np.float32).tiny) == 1 / scale.maximum
