"""Cases of the tests of timm and optimi."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import optimi, timm
from tests.dialects.peer_cases.steps import steps

LIKE_TORCH = {
    "timm adamw": timm.AdamWLegacy,
    "timm nadamw": timm.NAdamW,
    "timm cautious": functools.partial(timm.AdamWLegacy, caution=True),
    "timm nadamw cautious": functools.partial(timm.NAdamW, caution=True),
    "optimi": optimi.AdamW,
    "optimi decoupled": functools.partial(
        optimi.AdamW, decouple_lr=True, weight_decay=1e-5
    ),
}


@pytest.mark.parametrize("rate", [1e-3, jnp.float32(1e-3)])
@pytest.mark.parametrize("case", LIKE_TORCH)
def test_timm_and_optimi_basic_cases(case, rate):
    """A weight of (10, 5), a bias of 10, one input: 200 steps make the loss smaller."""
    tx = LIKE_TORCH[case](lr=rate)
    generator = np.random.default_rng(1)
    params = {
        "weight": jnp.asarray(generator.normal(size=(10, 5)), jnp.float32),
        "bias": jnp.asarray(generator.normal(size=10), jnp.float32),
    }
    given = jnp.asarray(generator.normal(size=5), jnp.float32)

    def loss(params):
        return jnp.sum((params["weight"] @ given + params["bias"]) ** 2)

    step, state = jax.jit(tx.step), tx.init(params)
    first = float(loss(params))
    for _ in range(200):
        params, state = step(jax.grad(loss)(params), state, params)
    assert float(loss(params)) < first


@pytest.mark.parametrize("case", LIKE_TORCH)
def test_timm_and_optimi_rosenbrock(case):
    """From (1.5, 1.5), 2000 steps do not end further from (1, 1)."""
    tx = LIKE_TORCH[case](lr=5e-3)

    def objective(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    def turn(carry, _):
        params, state = carry
        return tx.step(jax.grad(objective)(params), state, params), None

    start = jnp.array([1.5, 1.5])
    (last, _), _ = jax.jit(lambda c: jax.lax.scan(turn, c, None, length=2000))(
        (start, tx.init(start))
    )
    assert float(jnp.linalg.norm(last - 1)) <= math.sqrt(0.5)


@pytest.mark.parametrize("case", ["timm adamw", "timm nadamw", "optimi"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "-1.0"),
        ({"eps": -1.0}, "`eps`"),
        ({"betas": (1.0, 0.9)}, "1.0"),
        ({"betas": (0.9, 1.0)}, "1.0"),
        ({"betas": (-0.1, 0.9)}, "-0.1"),
        ({"weight_decay": -1.0}, "`weight_decay`"),
    ],
)
def test_timm_and_optimi_errors(case, options, text):
    with pytest.raises(ValueError, match=text):
        LIKE_TORCH[case](**({"lr": 1e-3} | options))


def decoupled(param, grad, count, rate, peak, decay, b1=0.9, b2=0.99, eps=1e-6):
    """Composer's DecoupledAdamW, by which optimi tests: decay by the rate's share."""
    m = v = np.zeros_like(param)
    for t in range(1, count + 1):
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
        param = param * (1 - rate(t - 1) / peak * decay)
        corrected = m / (1 - b1**t), v / (1 - b2**t)
        param = param - rate(t - 1) * corrected[0] / (np.sqrt(corrected[1]) + eps)
    return param


@pytest.mark.parametrize("peak", [None, 0.5])
def test_optimi_decay_is_decoupled_from_the_rate(peak):
    start, grads = np.array([1.0, -2.0, 0.5]), np.array([0.1, -0.3, 2.0])
    tx = optimi.AdamW(lr=0.1, decouple_lr=True, weight_decay=9e-4, max_lr=peak)
    found, _ = steps(tx, jnp.asarray(start, jnp.float32), jnp.asarray(grads), 8)[-1]
    expected = decoupled(start, grads, 8, lambda t: 0.1, peak or 0.1, 9e-4)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    falling = optimi.AdamW(
        lr=lambda t: 0.1 * 0.5**t, decouple_lr=True, weight_decay=9e-4, max_lr=0.1
    )
    found, _ = steps(falling, jnp.asarray(start, jnp.float32), jnp.asarray(grads), 8)[
        -1
    ]
    expected = decoupled(start, grads, 8, lambda t: 0.1 * 0.5**t, 0.1, 9e-4)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
