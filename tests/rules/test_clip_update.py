"""The clip of the update: StableAdamW of optimi, timm's place, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import (
    add_decoupled_weight_decay,
    chain,
    clip_by_value,
    clip_update_by_rms,
    scale_by_adam,
    scale_by_learning_rate,
)
from optadamw.base.squares import mean_of_squares
from optadamw.dialects import timm as timm_call

SHAPES = {"w": (5, 3), "b": (3,)}
RATE, DECAY, EPS = 0.03, 0.2, 1e-12


def problem(steps=6):
    """Parameters, and gradients that grow a hundredfold halfway."""
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    grads = [
        {
            k: (rng.normal(size=s) * (100.0 if i == steps // 2 else 1.0)).astype("f4")
            for k, s in SHAPES.items()
        }
        for i in range(steps)
    ]
    return params, grads


def trained(tx):
    params, grads = problem()
    params = jax.tree.map(jnp.asarray, params)
    state, seen = tx.init(params), []
    for gradient in grads:
        params, state = jax.jit(tx.step)(gradient, state, params)
        seen.append(params)
    return seen


def test_the_numbers_of_optimi():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    optimi = pytest.importorskip("optimi", reason="optimi is not installed")
    params, grads = problem()
    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    peer = optimi.StableAdamW(
        list(theirs.values()),
        lr=RATE,
        betas=(0.9, 0.98),
        eps=EPS,
        weight_decay=DECAY,
        triton=False,
        foreach=False,
    )
    tx = optadamw.adamw(RATE, b2=0.98, eps=EPS, weight_decay=DECAY, clip_update_rms=1.0)
    plain = optadamw.adamw(RATE, b2=0.98, eps=EPS, weight_decay=DECAY)
    found, unclipped = trained(tx), trained(plain)
    for gradient, ours in zip(grads, found, strict=True):
        for name, param in theirs.items():
            param.grad = torch.tensor(gradient[name])
        peer.step()
        for name, param in theirs.items():
            np.testing.assert_allclose(
                ours[name], param.detach().numpy(), rtol=2e-6, atol=1e-7
            )
    assert not np.allclose(found[-1]["w"], unclipped[-1]["w"], rtol=1e-3)


TIMM = {
    "w": [0.08947579866219182, -0.1412776581492306, 0.5825676786757987],
    "b": [-0.7348787818669931, -0.5373766769807361, -0.404717142607497],
}
"""The first numbers of each parameter after `problem()` with timm 1.0.31 in float64:
`NAdamW(betas=(0.9, 0.98), eps=1e-3, clipping_threshold=0.5)`."""


def timm(limit):
    """NAdamW of timm with `_rms_clip_denom_`, in float64."""
    params, grads = problem()
    params = {k: v.astype(np.float64) for k, v in params.items()}
    m = {k: np.zeros(s) for k, s in SHAPES.items()}
    v = {k: np.zeros(s) for k, s in SHAPES.items()}
    for t, gradient in enumerate(grads, start=1):
        for k, given in gradient.items():
            g = given.astype(np.float64)
            params[k] = params[k] * (1 - RATE * DECAY)
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.98 * v[k] + 0.02 * np.square(g)
            denom = np.sqrt(v[k] / (1 - 0.98**t)) + 1e-3
            rms = np.linalg.norm(g / denom) / g.size**0.5
            denom = denom * max(rms / limit, 1.0)
            ahead = 0.9 * m[k] + 0.1 * g
            params[k] = params[k] - RATE * ahead / (1 - 0.9**t) / denom
    return params


def test_before_the_decay_it_is_timms():
    tx = chain(
        scale_by_adam(b2=0.98, eps=1e-3, nesterov="current"),
        clip_update_by_rms(0.5),
        add_decoupled_weight_decay(DECAY),
        scale_by_learning_rate(RATE),
    )
    found, expected = trained(tx)[-1], timm(0.5)
    for name, param in expected.items():
        np.testing.assert_allclose(param.ravel()[:3], TIMM[name], rtol=1e-14)
        np.testing.assert_allclose(found[name], param, rtol=2e-6, atol=2e-7)
    call = timm_call.NAdamW(
        lr=RATE,
        betas=(0.9, 0.98),
        eps=1e-3,
        weight_decay=DECAY,
        clipping_threshold=0.5,
    )
    for name, param in trained(call)[-1].items():
        np.testing.assert_allclose(param, expected[name], rtol=2e-6, atol=2e-7)
    after = optadamw.adamw(
        RATE,
        b2=0.98,
        eps=1e-3,
        nesterov="current",
        weight_decay=DECAY,
        clip_update_rms=0.5,
    )
    assert not np.allclose(trained(after)[-1]["w"], expected["w"], rtol=1e-4)


def test_below_the_limit_nothing_changes():
    """Not a bit on jax 0.10; 0.12 contracts other products in the longer program."""
    plain = trained(optadamw.adamw(RATE, weight_decay=DECAY))
    clipped = trained(optadamw.adamw(RATE, weight_decay=DECAY, clip_update_rms=1e6))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        clipped,
        plain,
    )


def test_zeros_and_empty_parameters():
    params = {"zero": jnp.ones(3), "empty": jnp.ones((0, 2)), "one": jnp.ones(())}
    grads = jax.tree.map(jnp.zeros_like, params)
    tx = optadamw.adamw(RATE, weight_decay=0.0, clip_update_rms=1.0)
    after, _ = jax.jit(tx.step)(grads, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, after, params)


def test_groups_may_differ_in_it():
    groups = {"b": {"clip_update_rms": 0.2}}
    found = trained(optadamw.adamw(RATE, groups=groups))[-1]
    plain = trained(optadamw.adamw(RATE))[-1]
    clipped = trained(optadamw.adamw(RATE, clip_update_rms=0.2))[-1]
    np.testing.assert_array_equal(found["w"], plain["w"])
    np.testing.assert_allclose(found["b"], clipped["b"], rtol=1e-6)


def test_what_would_not_mean_what_it_says_is_refused():
    rate = scale_by_learning_rate(RATE)
    with pytest.raises(ValueError, match="no scale_by_adam stands before it"):
        chain(clip_update_by_rms(), scale_by_adam(), rate)
    with pytest.raises(ValueError, match="would change its meaning"):
        chain(scale_by_adam(), rate, clip_update_by_rms())
    with pytest.raises(ValueError, match="eps_mode='outside'"):
        optadamw.adamw(RATE, clip_update_rms=1.0, eps_mode="hat")
    hidden = chain(scale_by_adam(), clip_by_value(1.0), clip_update_by_rms(), rate)
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="such as clip_by_value, hides it"):
        hidden.step(params, hidden.init(params), params)
    for value, error in ((0.0, ValueError), (-1.0, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="`clip_update_rms` must be"):
            optadamw.adamw(RATE, clip_update_rms=value)


@pytest.mark.parametrize("shape", [(20_000_000,), (10_000_000, 2), (2, 10_000_000)])
def test_the_mean_of_many_squares_does_not_stand_still(shape):
    """Ones that are added one by one in float32 stay 2**24, 16.8 million."""
    mean = jax.jit(lambda n: mean_of_squares(jnp.full(shape, 1.0) * n))
    assert mean(jnp.float32(1)) == pytest.approx(1, rel=1e-6)
    noise = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    exact = np.mean(np.float64(noise) ** 2)
    found = jax.jit(lambda x: mean_of_squares(x * 1.0))(noise)
    assert found == pytest.approx(exact, rel=3e-7)


@pytest.mark.parametrize("shape", [(4_000_000,), (2, 2_000_000), (2_000_000, 2)])
def test_the_mean_of_many_equal_squares_loses_no_digit(shape):
    """That all were lost in one direction made 2**25 of them 2% too small."""
    mean = jax.jit(lambda n: mean_of_squares(jnp.full(shape, 1.0) * n))
    exact = float(np.float32(1.1)) ** 2
    assert mean(jnp.float32(1.1)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("count", [2**14, 2**14 + 1])
@pytest.mark.parametrize("fault", [1e30, np.inf, np.nan])
def test_a_mean_of_squares_that_overflows_is_infinite(count, fault):
    x = jnp.ones(count).at[5].set(fault)
    wanted = np.nan if np.isnan(fault) else np.inf
    np.testing.assert_equal(float(jax.jit(mean_of_squares)(x)), wanted)


@pytest.mark.parametrize("fault", [jnp.nan, jnp.inf])
def test_a_fault_spoils_its_own_element_alone(fault):
    tx, params = optadamw.adamw(0.1, clip_update_rms=1.0), jnp.ones(3)
    grads = jnp.array([1.0, fault, 1.0])
    params, _ = tx.step(grads, tx.init(params), params)
    assert jnp.isfinite(params).tolist() == [True, False, True]


def test_a_group_without_the_clip_may_have_what_the_clip_excludes():
    groups = {"b": {"clip_update_rms": None, "eps_mode": "hat"}}
    tx = optadamw.adamw(0.1, clip_update_rms=1.0, groups=groups)
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    params, _ = tx.step(params, tx.init(params), params)
    assert jnp.isfinite(params["b"]).all()
    with pytest.raises(ValueError, match="eps_mode='hat'"):
        optadamw.adamw(0.1, clip_update_rms=1.0, groups={"b": {"eps_mode": "hat"}})


def test_an_option_of_a_group_without_effect_is_refused():
    with pytest.raises(
        ValueError, match=r"`groups\['b'\]`: `slow_alpha` has no effect"
    ):
        optadamw.adamw(0.1, groups={"b": {"slow_alpha": 2.0}})
    optadamw.adamw(0.1, groups={"b": {"slow_alpha": 2.0, "b3": 0.99}})
