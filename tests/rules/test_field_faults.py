"""Faults that AdamW has in the field do not occur here: rows N1 to N15."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.rules.runs import BF16, trees
from tests.support import comparison, floats, oracle


def train(
    tx: Any, params: Any, gradients: list[float], state: Any = None
) -> tuple[Any, Any]:
    """Take a compiled step for each gradient, given as one number for all elements."""
    state = tx.init(params) if state is None else state
    step = jax.jit(tx.step)
    for g in gradients:
        grads = jax.tree.map(lambda p, g=g: jnp.full_like(p, g), params)
        params, state = step(grads, state, params)
    return params, state


def assert_finite(*trees: Any) -> None:
    for leaf in jax.tree.leaves(trees):
        assert np.all(np.isfinite(np.asarray(floats.as_reals(leaf), np.float64)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"eps_mode": "hat"},
        {"amsgrad": "raw"},
        {"amsgrad": "raw", "eps_mode": "hat", "nesterov": True},
        {"amsgrad": "corrected"},
        {"amsgrad": "corrected", "nesterov": True},
        {"bias_correction": False, "caution": True},
        {"clip_norm": 1.0, "clip_global_norm": 1.0},
    ],
)
@pytest.mark.parametrize("eps", [0.0, 1e-30, 1e-8])
def test_n1_a_zero_gradient_moves_nothing(eps, options):
    rng = np.random.default_rng(0)
    params = {
        str(np.dtype(dtype)): jnp.asarray(rng.normal(size=3).astype(dtype))
        for dtype in (np.float16, BF16, np.float32, np.complex64)
    }
    tx = optadamw.adamw(0.1, eps=eps, weight_decay=0.0, **options)
    after, state = train(tx, params, [0.0, 0.0])
    assert_finite(state)
    for name, p in params.items():
        np.testing.assert_array_equal(after[name], p)


def test_n2_a_float16_parameter_moves_after_a_large_gradient():
    # 300 squared is not a float16. Started at 0, where the parameter's own ULPs are
    # small enough to see 1 % of its way: at 1.0 rounding alone takes 4.5 %.
    params = {"p": jnp.zeros([], jnp.float16)}
    tx = optadamw.adamw(1e-2, weight_decay=0.0)
    after, state = train(tx, params, [300.0] + [1.0] * 50)
    assert_finite(after, state)
    assert abs(float(after["p"])) == pytest.approx(0.0678, rel=0.01)


@pytest.mark.parametrize("amsgrad", [None, "raw", "corrected"])
@pytest.mark.parametrize("huge", [1e20, -3e38])
def test_n3_a_huge_finite_gradient_destroys_nothing(huge, amsgrad):
    params = {"p": jnp.ones(3)}
    tx = optadamw.adamw(1e-2, b2=0.9, amsgrad=amsgrad, weight_decay=0.0)
    after, state = train(tx, params, [huge])
    assert_finite(after, state)
    # The first step of Adam is the learning rate whatever the gradient's size.
    np.testing.assert_allclose(after["p"], 1 - np.sign(huge) * 1e-2, rtol=1e-6)
    moved, state = train(tx, after, [1.0] * 200, state)
    assert_finite(moved, state)
    # The moments forget at their rates: all steps together are not a hundred times one.
    assert np.max(np.abs(np.asarray(moved["p"]) - 1)) < 2.0
    if amsgrad is None:
        later, _ = train(tx, moved, [1.0] * 1000, state)
        # 0.9**1200 * 3.4e37 < 1e-17: nothing is left of it, and each step is whole.
        assert np.all(np.asarray(later["p"]) < np.asarray(moved["p"]) - 0.5)


@pytest.mark.parametrize("clip", ["clip_norm", "clip_global_norm", "clip_value"])
@pytest.mark.parametrize("g", [1e20, 1e37, 1e38, 3e38])
def test_n3_a_clip_sees_the_true_size_of_a_huge_gradient(clip, g):
    params = {"p": jnp.ones(4)}
    tx = optadamw.adamw(1e-2, weight_decay=0.0, **{clip: 1.0})
    after, state = train(tx, params, [g])
    assert_finite(after, state)
    mu = np.asarray(state.mu["p"])
    # Four equal elements: each is half the norm. (1 - b1) of it is kept.
    expected = 0.1 if clip == "clip_value" else 0.05
    if clip == "clip_value" or g <= 1e37:
        np.testing.assert_allclose(mu, expected, rtol=1e-6)
    elif g < 1.7e38:
        # The factor 1 / norm is subnormal, which XLA may flush to zero.
        assert np.all((mu == 0) | (np.abs(mu / expected - 1) < 1e-2))

    # Above, the norm itself is infinite in float32 and limits nothing.


@pytest.mark.parametrize("g", [1e-17, 3.5e-18, 1e-18, 1e-20, 1e-30, 1e-38])
def test_n4_without_eps_a_tiny_gradient_moves_by_its_rate_or_not_at_all(g):
    # Below 3.5e-18 the second moment is subnormal, which XLA flushes to zero on a CPU.
    params = {"p": jnp.ones(3)}
    tx = optadamw.adamw(1e-2, eps=0.0, weight_decay=0.0)
    after, state = train(tx, params, [g])
    assert_finite(after, state)
    step = 1 - np.asarray(after["p"], np.float64)
    if g >= 3.5e-18:
        np.testing.assert_allclose(step, 1e-2, rtol=1e-5)
    else:
        assert np.all((step == 0) | (np.abs(step / 1e-2 - 1) < 1e-5))


@pytest.mark.parametrize("eps_mode", ["outside", "hat"])
@pytest.mark.parametrize("eps", [1e-19, 1e-20, 1e-30, 1e-38, 1e-45])
@pytest.mark.parametrize("g", [3e-18, 1e-18, 1e-20, 1e-30, -1e-37])
def test_n4_a_second_moment_that_is_flushed_to_zero_leaves_no_eps_alone(
    g, eps, eps_mode
):
    # g / eps would be a direction of up to 1e27. None is above 1 / sqrt(1 - b2).
    params = {"p": jnp.zeros(3)}
    tx = optadamw.adamw(1e-2, eps=eps, weight_decay=0.0, eps_mode=eps_mode)
    after, state = train(tx, params, [g] * 3)
    assert_finite(after, state)
    assert np.all(np.abs(np.asarray(after["p"])) <= 3 * 1e-2 * 32)


def test_n4_in_float64_a_small_eps_counts():
    with jax.enable_x64(True):
        params = {"p": jnp.zeros(3, jnp.float64)}
        tx = optadamw.adamw(1e-2, eps=1e-30, weight_decay=0.0)
        after, _ = train(tx, params, [1e-30])
        np.testing.assert_allclose(after["p"], -0.5e-2, rtol=1e-9)


@pytest.mark.parametrize("dtype", [BF16, np.float16])
def test_n6_the_second_moment_of_a_16_bit_parameter_decays(dtype):
    # In bfloat16 0.999 * nu rounds back to nu: 0.00099945 for ever. In float16 it is
    # subnormal by then. float64: 1e-3 * 0.999**2000.
    tx = optadamw.adamw(1e-3)
    params, state = train(tx, {"p": jnp.ones(3, dtype)}, [1.0])

    def advance(carry: Any, _: None) -> Any:
        params, state = carry
        return tx.step(jax.tree.map(jnp.zeros_like, params), state, params), None

    @jax.jit
    def rest(carry: Any) -> Any:
        return jax.lax.scan(advance, carry, length=2000)[0][1]

    nu = np.asarray(rest((params, state)).nu["p"], np.float64)
    np.testing.assert_allclose(nu, 1e-3 * 0.999**2000, rtol=1e-4)


def finite_at_any_count(step: jax.Array) -> jax.Array:
    return jnp.where(step < 0, jnp.nan, 0.01)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"eps_mode": "hat", "amsgrad": "raw"},
        {"amsgrad": "corrected"},
        {"ema_decay": 0.9},
        {"ema_decay": 0.9, "ema_debias": True},
        {"ema_decay": 0.9, "ema_warmup": True},
    ],
)
def test_n9_counters_saturate(options):
    params, gradients = trees(steps=6)
    tx = optadamw.adamw(finite_at_any_count, **options)
    adamw = oracle.AdamW(0.01, **options)
    step, state = jax.jit(tx.step), tx.init(params)
    state = state._replace(step=jnp.asarray(2**31 - 3, jnp.int32))
    params = jax.tree.map(jnp.asarray, params)
    for grads in gradients:
        after = step(grads, state, params)
        assert_finite(after)
        comparison.check_step(adamw, grads, (params, state), after)
        params, state = after
    assert int(state.step) == 2**31 - 1 and state.step.dtype == jnp.int32


def test_n9_a_saturated_count_still_overwrites_at_most_as_asked():
    params, gradients = trees(steps=6)
    tx = optadamw.adamw(finite_at_any_count, ema_decay=0.9, ema_overwrite_every=3)
    state = tx.init(params)._replace(step=jnp.asarray(2**31 - 3, jnp.int32))
    step = jax.jit(tx.step)
    for grads in gradients:
        params, state = step(grads, state, params)
        assert_finite(params, state)


@pytest.mark.parametrize(
    ("dtype", "x64"),
    [(dtype, x64) for dtype in (np.float16, BF16, np.float32) for x64 in (False, True)]
    + [(np.float64, True)],
)
def test_n10_the_counter_is_int32_and_passes_256(dtype, x64):
    with jax.enable_x64(x64):
        tx = optadamw.adamw(1e-3)
        params = {"p": jnp.ones(3, dtype)}
        state = tx.init(params)
        assert state.step.dtype == jnp.int32
        state = state._replace(step=jnp.asarray(255, jnp.int32))
        _, state = train(tx, params, [1.0] * 4, state)
        assert state.step.dtype == jnp.int32
        assert int(state.step) == 259


@pytest.mark.parametrize(
    ("route", "options"),
    [
        ("step", {}),
        ("step", {"amsgrad": "raw", "clip_global_norm": 1.0, "caution": True}),
        ("update", {}),
        ("update", {"eps": 0.0}),
        ("update", {"eps_mode": "hat"}),
        ("update", {"nesterov": True}),
        ("update", {"amsgrad": "raw"}),
        ("update", {"amsgrad": "corrected"}),
        ("update", {"caution": True}),
        ("update", {"clip_norm": 1.0}),
        ("update", {"clip_global_norm": 1.0}),
        ("update", {"ema_decay": 0.9, "ema_overwrite_every": 2}),
    ],
)
def test_n15_the_derivative_of_an_update_at_a_zero_gradient_is_finite(route, options):
    tx = optadamw.adamw(0.1, **options)

    def outer(grads: Any, params: Any) -> Any:
        state = tx.init(params)
        for _ in range(2):
            if route == "step":
                params, state = tx.step(grads, state, params)
            else:
                updates, state = tx.update(grads, state, params)
                params = optax.apply_updates(params, updates)
        return sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

    params = {"p": jnp.arange(1.0, 4.0), "q": jnp.asarray(2.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert_finite(jax.jit(jax.grad(outer, argnums=(0, 1)))(zeros, params))
