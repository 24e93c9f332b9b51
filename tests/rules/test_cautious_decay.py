"""Cautious weight decay against the line of its paper, in exact and tiny numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw

TINY = 1e-30


def after(options, params, grads, **given):
    tx = optadamw.adamw(0.125, weight_decay=0.5, **options, **given)
    return jax.jit(tx.step)(grads, tx.init(params), params)[0]


@pytest.mark.parametrize("u", [1.0, -1.0, TINY, -TINY, 0.0])
@pytest.mark.parametrize("x", [1.0, -1.0, TINY, -TINY, 0.0, -0.0])
def test_the_indicator_of_algorithm_1(u, x):
    """x - eta (u + lambda I(u x >= 0) x); products that underflow count by sign."""
    tx = optadamw.chain(
        optadamw.add_decoupled_weight_decay(0.5, cautious=True),
        optadamw.scale_by_learning_rate(0.125),
    )
    params = jnp.float32(x)
    found, _ = tx.step(jnp.float32(u), tx.init(params), params)
    decays = np.sign(u) * np.sign(x) >= 0
    expected = np.float32(x) + (
        np.float32(-0.125 * u) + np.float32(-0.0625 * x if decays else -0.0)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.signbit(found) == np.signbit(expected)


def test_elements_that_do_not_decay_have_the_bits_of_no_decay():
    params = {"w": jnp.linspace(-1.0, 1.0, 9)}
    grads = {"w": jnp.cos(jnp.arange(9.0))}
    found = after({"cautious_weight_decay": True}, params, grads)["w"]
    all_decay = after({}, params, grads)["w"]
    tx = optadamw.adamw(0.125, weight_decay=0.0)
    none = jax.jit(tx.step)(grads, tx.init(params), params)[0]["w"]
    agrees = np.sign(grads["w"]) * np.sign(params["w"]) >= 0
    assert agrees.any() and not agrees.all()
    np.testing.assert_array_equal(found, np.where(agrees, all_decay, none))


def test_a_group_may_have_it_alone():
    params = {"a": jnp.array([1.0, -1.0]), "b": jnp.array([1.0, -1.0])}
    grads = jax.tree.map(jnp.ones_like, params)
    found = after({"groups": {"a": {"cautious_weight_decay": True}}}, params, grads)
    np.testing.assert_allclose(found["a"], [1 - 0.125 - 0.0625, -1 - 0.125], rtol=1e-6)
    np.testing.assert_allclose(found["b"], [0.8125, -1.125 + 0.0625], rtol=1e-6)


def test_no_other_library_is_told_that_it_decays_so():
    params = {"w": jnp.ones(2)}
    tx = optadamw.adamw(0.1, cautious_weight_decay=True)
    _, state = tx.step(params, tx.init(params), params)
    with pytest.raises(ValueError, match="cautious_weight_decay=True"):
        optadamw.interchange.to_torch(state, params, tx=tx)


def test_it_is_a_switch():
    for value in (1, 0.5, "yes"):
        with pytest.raises(TypeError, match="`cautious_weight_decay` must be True or"):
            optadamw.adamw(0.1, cautious_weight_decay=value)
    assert optadamw.adamw(0.1, cautious_weight_decay=False) == optadamw.adamw(0.1)
