"""Cases of Optax's own tests: `alias_test.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw.dialects import optax as optax_peer
from tests.dialects.peer_cases.steps import ONES, START, steps
from tests.support import trees

OPTAX = {
    "adamw": functools.partial(optax_peer.adamw, learning_rate=1e-1),
    "nadamw": functools.partial(optax_peer.nadamw, learning_rate=1e-2),
    "amsgrad": functools.partial(optax_peer.amsgrad, learning_rate=1e-1),
}


def parabola(dtype):
    final = jnp.array([1.0, -1.0, 1.0], dtype)
    if jnp.iscomplexobj(final):
        final = final * (1 + 1j)
    return (
        jnp.array([-1.0, 10.0, 1.0], dtype),
        final,
        lambda x: jnp.sum(jnp.abs(x - final) ** 2),
    )


def rosenbrock(dtype):
    a = 1.0 * (1 + 1j) if jnp.iscomplexobj(jnp.zeros((), dtype)) else 1.0
    final = jnp.array([a, a**2], dtype)
    return (
        jnp.zeros(2, dtype),
        final,
        lambda x: jnp.abs(a - x[0]) ** 2 + 100 * jnp.abs(x[1] - x[0] ** 2) ** 2,
    )


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("target", [parabola, rosenbrock])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_finds_the_minimum(case, target, dtype):
    tx = OPTAX[case]()
    start, final, objective = target(dtype)

    def turn(carry, _):
        params, state = carry
        # A gradient of a function of complex numbers is conjugated to descend.
        grads = jnp.conj(jax.grad(objective)(params))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(turn, carry, None, length=10000)[0])
    # `abs` has no gradient at 0: a hair beside it.
    params, _ = run((start + jnp.asarray(1e-6, dtype), tx.init(start)))
    np.testing.assert_allclose(params, final, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("case", OPTAX)
def test_optax_extra_arguments_are_taken(case):
    tx, start = OPTAX[case](), jnp.zeros(2)
    tx.update(jnp.ones(2), tx.init(start), start, unexpected=1)


@pytest.mark.parametrize("case", OPTAX)
def test_optax_inject_hyperparams(case):
    call = OPTAX[case]
    plain, injected = call(), optax.inject_hyperparams(call.func)(**call.keywords)
    params = [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))]
    grads = [jnp.ones((2, 3)), -jnp.ones((2, 5, 2))]
    a, state = plain.update(grads, plain.init(params), params)
    b, inside = jax.jit(injected.update)(grads, injected.init(params), params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    jax.tree.map(close, a, b)
    jax.tree.map(close, state, inside.inner_state)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float32", None])
@pytest.mark.parametrize("params_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_mu_dtype(case, params_dtype, state_dtype):
    """Differs where none is given: float32, and not the parameters' 16 bits."""
    tx = OPTAX[case](mu_dtype=state_dtype)
    state = tx.init(jnp.zeros(2, params_dtype))
    assert state.mu.dtype == jnp.dtype(state_dtype or "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_dtypes_are_preserved(case, dtype):
    tx, start = OPTAX[case](), jnp.array([1.0, 2.0], dtype)
    state = tx.init(start)
    updates, after = jax.jit(tx.update)(2 * start, state, start)
    assert updates.dtype == start.dtype
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), (state, after))
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_inside_multi_steps(case, dtype):
    tx = optax.MultiSteps(OPTAX[case](), every_k_schedule=4)
    start = jnp.array([1.0, 2.0], dtype)
    updates, _ = jax.jit(tx.update)(2 * start, tx.init(start), start)
    np.testing.assert_array_equal(updates, jnp.zeros_like(start))


def test_optax_needs_the_parameters():
    tx = optax_peer.adamw(0.1)
    with pytest.raises((TypeError, ValueError), match="param"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_optax_schedules_see_0_first():
    seen = optax_peer.adamw(lambda step: 0.5 * (step == 0), weight_decay=0.0)
    found = [float(p[0, 0]) for p, _ in steps(seen, START, ONES, 3)]
    np.testing.assert_allclose(found, [2.5, 2.5, 2.5], rtol=1e-5)


@pytest.mark.parametrize("call", [optax_peer.adamw, optax_peer.nadamw, optadamw.adamw])
def test_a_complex_dtype_of_the_first_moment(call):
    """Optax's tests of dtypes pass "complex64" with complex parameters."""
    params = {"z": jnp.array([1.0 + 2j, -0.5j]), "w": jnp.ones(3)}
    grads = {"z": jnp.array([0.5 - 1j, 2.0 + 0j]), "w": jnp.full(3, 0.5)}
    named, plain = call(1e-2, mu_dtype="complex64"), call(1e-2)
    state = named.init(params)
    assert state.mu["z"].dtype == jnp.complex64 and state.mu["w"].dtype == jnp.float32
    trees.assert_same_bits(
        named.step(grads, state, params), plain.step(grads, plain.init(params), params)
    )
