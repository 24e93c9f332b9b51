"""The oracle itself: against numbers worked by hand, Optax and PyTorch in float64."""

import decimal
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from tests.support import floats, oracle

try:
    import torch
except ImportError:
    torch = None

# --- Floating point ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_round_to_agrees_with_numpy(dtype):
    bits = np.random.default_rng(0).integers(-320, 320, 20_000)
    x = np.random.default_rng(1).normal(size=20_000) * 2.0 ** (bits % 180 - 155)
    with np.errstate(over="ignore"):
        expected = x.astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(floats.round_to(x, dtype), expected)


def test_round_to_bfloat16_rounds_once_at_every_midpoint():
    patterns = np.arange(0x7F7F, dtype=np.uint16)  # all finite values but the largest
    below = patterns.view(ml_dtypes.bfloat16).astype(np.float64)
    above = (patterns + 1).astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    middle, hair = (below + above) / 2, (above - below) * 2.0**-30
    even = np.where(patterns % 2 == 0, below, above)
    np.testing.assert_array_equal(
        floats.round_to(middle - hair, ml_dtypes.bfloat16), below
    )
    np.testing.assert_array_equal(
        floats.round_to(middle + hair, ml_dtypes.bfloat16), above
    )
    np.testing.assert_array_equal(floats.round_to(middle, ml_dtypes.bfloat16), even)


def test_round_to_overflows_to_infinity_and_keeps_nan():
    rounded = floats.round_to([65519.9, 65520.0, -1e6, np.nan, np.inf], np.float16)
    np.testing.assert_array_equal(rounded, [65504.0, np.inf, -np.inf, np.nan, np.inf])


@pytest.mark.parametrize(
    ("x", "dtype", "expected"),
    [
        (1.0, np.float32, 2.0**-23),
        (1.999, np.float32, 2.0**-23),
        (2.0, np.float32, 2.0**-22),
        (-1.0, ml_dtypes.bfloat16, 2.0**-7),
        (1.0, np.float16, 2.0**-10),
        (0.0, np.float16, 2.0**-24),
        (1e-40, np.float32, 2.0**-149),
        (3.0, np.float64, 2.0**-51),
        (1.0, np.complex64, 2.0**-23),
    ],
)
def test_ulp(x, dtype, expected):
    assert floats.ulp(x, dtype) == expected


def test_ulps_counts_spacings_and_treats_nan_and_infinity_as_values():
    actual = np.array([1 + 2**-22, np.nan, np.inf, -np.inf, 1.0, np.nan, 0.0])
    expected = np.array([1.0, np.nan, np.inf, np.inf, np.inf, 1.0, 0.0])
    np.testing.assert_array_equal(
        floats.ulps(actual, expected, np.float32),
        [2.0, 0.0, 0.0, np.inf, np.inf, np.inf, 0.0],
    )


def test_ulps_sees_both_parts_of_a_complex_number():
    assert floats.ulps(
        np.complex64(1 + 1j), np.complex128(1 + (1 + 2**-22) * 1j), np.complex64
    ).tolist() == [0.0, 2.0]


def test_moment_condition():
    # 0.5 * 3 - 0.5 * 1: magnitudes 2, sum 1. Equal signs: 1. Exact cancellation: inf.
    mu, g = [3.0, 1.0, 1.0, 0.0], [-1.0, 2.0, -1.0, 0.0]
    condition = oracle.moment_condition(mu, g, 0.5)
    np.testing.assert_array_equal(condition, [2.0, 1.0, np.inf, 1.0])


@pytest.mark.parametrize("t", [1, 2, 10, 1000, 10**5, 10**7])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.95, 0.999, 0.99999, 0.9999999])
def test_one_minus_power_agrees_with_fifty_digits(beta, t):
    with decimal.localcontext(prec=50):
        exact = 1 - decimal.Decimal(beta) ** t
        error = abs(decimal.Decimal(oracle.one_minus_power(beta, t)) / exact - 1)
    assert error < 1e-15


# --- Numbers worked by hand ----------------------------------------------------------

# All constants are dyadic, so that each expected number is exact in float64.
# p = 4, g = 2, b1 = 1/2, b2 = 3/4 at the first step: m = 1, v = 1, bc1 = 1/2,
# bc2 = 1/4, m / bc1 = 2, sqrt(v / bc2) = 2, so d = 1 when eps = 0.
FIRST = dict(learning_rate=0.5, b1=0.5, b2=0.75, eps=0.0, weight_decay=0.0)
BY_HAND = [
    # options, gradient, parameter after one step from p = 4
    ({}, 2.0, 3.5),
    ({"maximize": True}, 2.0, 4.5),
    ({}, 0.0, 4.0),
    ({"eps": 2.0}, 2.0, 3.75),  # d = 2 / (2 + 2)
    ({"eps": 1.0, "eps_mode": "hat"}, 2.0, 3.75),  # 2 * (1/2) / (1 + 1)
    ({"eps_root": 12.0}, 2.0, 3.75),  # 2 / sqrt(4 + 12)
    ({"eps_root": 3.0, "eps_mode": "hat"}, 2.0, 3.75),  # 2 * (1/2) / sqrt(1 + 3)
    ({"bias_correction": False}, 2.0, 3.5),  # 1 / sqrt(1)
    ({"bias_correction": False, "eps": 3.0}, 2.0, 3.875),  # 1 / (1 + 3)
    ({"weight_decay": 0.25}, 2.0, 3.0),  # 4 - 0.5 - 0.5 * 0.25 * 4
    ({"weight_decay": 0.25, "decayed": frozenset()}, 2.0, 3.5),
    ({"weight_decay": 0.25, "weight_decay_mode": "independent"}, 2.0, 2.5),
    (
        {
            "weight_decay": 0.25,
            "weight_decay_mode": "schedule",
            "max_learning_rate": 2.0,
        },
        2.0,
        3.25,  # 4 - 0.5 - (0.5 / 2) * 0.25 * 4
    ),
    (
        {
            "weight_decay": 0.25,
            "weight_decay_mode": "corrected",
            "max_learning_rate": 2.0,
        },
        2.0,
        3.375,  # 4 - 0.5 - 0.5 * 0.5 / 2 * 0.25 * 4
    ),
    # b1 * m / (1 - b1**2) + (1 - b1) * g / (1 - b1) = 2/3 + 2, over 2.
    ({"nesterov": True}, 2.0, 4 - 0.5 * (2 / 3 + 2) / 2),
    ({"nesterov": True, "bias_correction": False}, 2.0, 4 - 0.5 * (0.5 + 1)),
    # Clipped to 1: m = 1/2, v = 1/4, d = 1 whatever the size; eps = 1 shows it.
    ({"eps": 1.0, "clip_value": 1.0}, 2.0, 4 - 0.5 * 1 / (1 + 1)),
    ({"eps": 1.0, "clip_norm": 1.0}, 2.0, 4 - 0.5 * 1 / (1 + 1)),
    ({"eps": 1.0, "clip_global_norm": 1.0}, -2.0, 4 + 0.5 * 1 / (1 + 1)),
    ({"eps": 1.0, "clip_global_norm": 8.0}, 2.0, 4 - 0.5 * 2 / (2 + 1)),
]


@pytest.mark.parametrize(("options", "g", "expected"), BY_HAND)
def test_one_step_by_hand(options, g, expected):
    adamw = oracle.AdamW(**(FIRST | options))
    params = {"p": np.array(4.0)}
    outcome = adamw.step({"p": np.array(g)}, adamw.init(params), params)
    assert outcome.params["p"] == pytest.approx(expected, rel=1e-15)


def test_amsgrad_kinds_differ_in_what_the_maximum_is_taken_of():
    # Gradients 4, 0: v = 4, 3; bc2 = 1/4, 7/16; v / bc2 = 16, 48/7; m = 2, 1.
    # raw: max(4, 3) / (7/16) = 64/7. corrected: max(16, 48/7) = 16.
    gradients = [{"p": np.array(4.0)}, {"p": np.array(0.0)}]
    m_hat = 1 / (3 / 4)
    for kind, v_hat in [("raw", 64 / 7), ("corrected", 16.0), (None, 48 / 7)]:
        adamw = oracle.AdamW(**FIRST, amsgrad=kind)
        params, state = adamw.run(gradients, {"p": np.array(4.0)})
        expected = 4 - 0.5 - 0.5 * m_hat / math.sqrt(v_hat)
        assert params["p"] == pytest.approx(expected, rel=1e-15)
        assert state.step == 2


def test_average_by_hand():
    # The parameter goes 4, 3.5, 3, 2.5 (each step is 0.5 under a constant gradient).
    gradients = [{"p": np.array(2.0)}] * 3
    for options, expected in [
        ({"ema_decay": 0.5}, ((4 + 3.5) / 2 / 2 + 3 / 2) / 2 + 2.5 / 2),
        (
            {"ema_decay": 0.5, "ema_debias": True},
            (0.5 * 2.5 + 0.25 * 3 + 0.125 * 3.5) / 0.875,
        ),
        # min(0.5, (1 + t) / (10 + t)) = 2/11, 3/12, 4/13.
        (
            {"ema_decay": 0.5, "ema_warmup": True},
            4 / 13 * (3 / 12 * (2 / 11 * 4 + 9 / 11 * 3.5) + 9 / 12 * 3) + 9 / 13 * 2.5,
        ),
    ]:
        adamw = oracle.AdamW(**FIRST, **options)
        params, state = adamw.run(gradients, {"p": np.array(4.0)})
        assert params["p"] == 2.5
        assert state.ema["p"] == pytest.approx(expected, rel=1e-15)


def test_average_overwrites_the_parameter_after_it_moved():
    adamw = oracle.AdamW(**FIRST, ema_decay=0.5, ema_overwrite_every=2)
    gradients = [{"p": np.array(2.0)}] * 3
    params, state = adamw.run(gradients, {"p": np.array(4.0)})
    # Step 1: 3.5, average 3.75. Step 2: 3, average 3.375, overwritten. Step 3: 2.875.
    assert params["p"] == 2.875
    assert state.ema["p"] == (3.375 + 2.875) / 2


def test_caution_masks_and_rescales():
    # From m = (2, 2), the gradient (1, -1) agrees in the first element only.
    adamw = oracle.AdamW(**FIRST, caution=True)
    params = {"p": np.array([4.0, 4.0])}
    state = oracle.State(0, {"p": np.array([2.0, 2.0])}, {"p": np.zeros(2)})
    outcome = adamw.step({"p": np.array([1.0, -1.0])}, state, params)
    # m = 1.5, bc1 = 1/2, v / bc2 = 1: d = 3, times 2 because half of them agree.
    np.testing.assert_array_equal(outcome.params["p"], [4 - 0.5 * 3 * 2, 4.0])


def test_caution_divides_by_no_less_than_a_thousandth():
    adamw = oracle.AdamW(**FIRST, caution=True)
    g = np.where(np.arange(2000) == 0, 1.0, -1.0)
    state = oracle.State(0, {"p": np.full(2000, 2.0)}, {"p": np.zeros(2000)})
    outcome = adamw.step({"p": g}, state, {"p": np.full(2000, 4.0)})
    assert outcome.params["p"][0] == 4 - 0.5 * 3 / 1e-3
    np.testing.assert_array_equal(outcome.params["p"][1:], 4.0)


def test_clips_apply_in_order_and_to_the_right_set():
    # By value 4: (4, 0), (4,). Per parameter to 3: (3, 0), (3,): norm 3 * sqrt(2).
    grads = {"a": np.array([8.0, 0.0]), "b": np.array([-4.0])}
    adamw = oracle.AdamW(
        **FIRST, clip_value=4.0, clip_norm=3.0, clip_global_norm=math.sqrt(2.0)
    )
    params = {name: np.zeros_like(g) for name, g in grads.items()}
    outcome = adamw.step(grads, adamw.init(params), params)
    np.testing.assert_allclose(outcome.state.mu["a"], [0.5, 0.0], rtol=1e-15)
    np.testing.assert_allclose(outcome.state.mu["b"], [-0.5], rtol=1e-15)


def test_a_norm_that_is_not_finite_limits_nothing():
    grads = {"a": np.array([np.inf, 1.0]), "b": np.array([8.0])}
    adamw = oracle.AdamW(**FIRST, clip_global_norm=1.0)
    params = {name: np.zeros_like(g) for name, g in grads.items()}
    outcome = adamw.step(grads, adamw.init(params), params)
    assert outcome.state.mu["b"] == 4.0


def test_no_gradient_touches_nothing_and_is_not_in_the_norm():
    params = {"a": np.array([3.0, 1.0]), "b": np.array([8.0])}
    adamw = oracle.AdamW(
        **(FIRST | {"weight_decay": 0.5}),
        clip_global_norm=1.0,
        ema_decay=0.5,
        ema_overwrite_every=1,
        amsgrad="raw",
    )
    state = adamw.init(params)
    outcome = adamw.step({"a": np.array([3.0, 4.0]), "b": None}, state, params)
    for before, after in [
        (params, outcome.params),
        (state.mu, outcome.state.mu),
        (state.nu, outcome.state.nu),
        (state.nu_max, outcome.state.nu_max),
        (state.ema, outcome.state.ema),
    ]:
        np.testing.assert_array_equal(before["b"], after["b"])
    np.testing.assert_allclose(outcome.state.mu["a"], [0.3, 0.4], rtol=1e-15)


def test_schedules_see_the_number_of_finished_steps():
    adamw = oracle.AdamW(**(FIRST | {"learning_rate": oracle.Table((0.5, 0.25, 2.0))}))
    gradients = [{"p": np.array(2.0)}] * 4
    params, _ = adamw.run(gradients, {"p": np.array(4.0)})
    assert params["p"] == 4 - 0.5 - 0.25 - 2.0 - 2.0


def test_a_complex_parameter_is_two_reals():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3))
    gradients = [
        rng.normal(size=z.shape) + 1j * rng.normal(size=z.shape) for _ in range(4)
    ]
    adamw = oracle.AdamW(0.1, caution=True, clip_norm=0.5, ema_decay=0.9, nesterov=True)
    as_complex, state = adamw.run([{"p": g} for g in gradients], {"p": z})
    as_pairs, pair_state = adamw.run(
        [{"p": floats.as_reals(g)} for g in gradients], {"p": floats.as_reals(z)}
    )
    np.testing.assert_array_equal(floats.as_reals(as_complex["p"]), as_pairs["p"])
    np.testing.assert_array_equal(floats.as_reals(state.ema["p"]), pair_state.ema["p"])


def test_a_parameter_is_rounded_once_and_its_average_sees_it_rounded():
    adamw = oracle.AdamW(0.01, ema_decay=0.5)
    p = np.asarray([1.0], ml_dtypes.bfloat16)
    outcome = adamw.step({"p": np.array([1.0])}, adamw.init({"p": p}), {"p": p})
    assert outcome.target["p"] == pytest.approx(0.99, abs=2e-6)
    assert outcome.params["p"] == 0.98828125  # the bfloat16 nearest to 0.99
    assert outcome.state.ema["p"] == (1 + 0.98828125) / 2


def test_only_the_stored_first_moment_is_rounded_to_mu_dtype():
    plain, stored = (
        oracle.AdamW(0.1, mu_dtype=dtype) for dtype in (None, ml_dtypes.bfloat16)
    )
    params, grads = {"p": np.array([1.0])}, {"p": np.array([0.3])}
    a = plain.step(grads, plain.init(params), params)
    b = stored.step(grads, stored.init(params), params)
    assert a.params["p"] == b.params["p"]
    assert b.state.mu["p"] == floats.round_to(a.state.mu["p"], ml_dtypes.bfloat16)
    assert b.state.mu["p"] != a.state.mu["p"]


def test_epsilon_hat_is_epsilon_over_the_root_of_the_correction():
    # [KB] before section 2.1: at step t, eps_hat = eps * sqrt(1 - b2**t).
    rng = np.random.default_rng(0)
    params = {"p": rng.normal(size=8)}
    state = oracle.State(6, {"p": rng.normal(size=8)}, {"p": rng.normal(size=8) ** 2})
    grads = {"p": rng.normal(size=8)}
    for options in ({}, {"nesterov": True}, {"amsgrad": "raw"}):
        state = state._replace(nu_max={"p": state.nu["p"] * 1.5})
        outside = oracle.AdamW(0.1, eps=0.01, **options)
        hat = oracle.AdamW(
            0.1, eps=0.01 * math.sqrt(1 - 0.999**7), eps_mode="hat", **options
        )
        np.testing.assert_allclose(
            outside.step(grads, state, params).params["p"],
            hat.step(grads, state, params).params["p"],
            rtol=1e-14,
        )


# --- Against the real packages, in float64 -------------------------------------------

SHAPES = {"w": (5, 3), "b": (7,), "s": ()}


def trees(steps, dtype=np.float64, seed=0):
    """Return parameters and a list of gradients that change size from step to step."""
    rng = np.random.default_rng(seed)

    def normal(shape, size):
        x = np.asarray(rng.normal(size=shape) * size)
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.normal(size=shape) * size
        return np.asarray(x, dtype)

    params = {name: normal(shape, 1.0) for name, shape in SHAPES.items()}
    gradients = [
        {name: normal(shape, 10.0 ** (t % 3 - 1)) for name, shape in SHAPES.items()}
        for t in range(steps)
    ]
    return params, gradients


def chained(*transformations):
    return optax.chain(*transformations, optax.scale(-1.0))


LEARNING_RATES = oracle.Table((0.1, 0.3, 0.02, 0.2, 0.05))
DECAYS = oracle.Table((0.1, 0.0, 0.5, 0.2, 0.3))


def traced(table):
    return lambda step: jnp.asarray(table.values)[step]


OPTAX = {
    "defaults": (lambda: optax.adamw(0.1), oracle.AdamW(0.1)),
    "every number": (
        lambda: optax.adamw(0.2, 0.8, 0.95, 1e-2, 1e-3, weight_decay=0.3),
        oracle.AdamW(0.2, 0.8, 0.95, 1e-2, 1e-3, weight_decay=0.3),
    ),
    "b1 = b2 = 0": (
        lambda: optax.adamw(0.1, 0.0, 0.0, eps=0.1),
        oracle.AdamW(0.1, 0.0, 0.0, eps=0.1),
    ),
    "nesterov": (
        lambda: optax.adamw(0.1, 0.8, 0.9, nesterov=True, weight_decay=0.1),
        oracle.AdamW(0.1, 0.8, 0.9, nesterov=True, weight_decay=0.1),
    ),
    "mask": (
        lambda: optax.adamw(
            0.1, weight_decay=0.3, mask={"w": True, "b": False, "s": False}
        ),
        oracle.AdamW(0.1, weight_decay=0.3, decayed=frozenset({"w"})),
    ),
    "schedules": (
        lambda: optax.adamw(traced(LEARNING_RATES), weight_decay=traced(DECAYS)),
        oracle.AdamW(LEARNING_RATES, weight_decay=DECAYS),
    ),
    "amsgrad": (
        lambda: chained(
            optax.scale_by_amsgrad(0.8, 0.9),
            optax.add_decayed_weights(0.2),
            optax.scale(0.1),
        ),
        oracle.AdamW(0.1, 0.8, 0.9, amsgrad="corrected", weight_decay=0.2),
    ),
    "independent decay": (
        lambda: chained(
            optax.scale_by_adam(), optax.scale(0.1), optax.add_decayed_weights(0.02)
        ),
        oracle.AdamW(0.1, weight_decay=0.02, weight_decay_mode="independent"),
    ),
    "no bias correction": (
        lambda: optax.chain(
            optax.scale_by_amsgrad(
                0.8, 0.0, bias_correction_mu=False, bias_correction_nu=False
            ),
            optax.scale(-0.1),
        ),
        oracle.AdamW(
            0.1, 0.8, 0.0, amsgrad="raw", bias_correction=False, weight_decay=0.0
        ),
    ),
    "clip by value": (
        lambda: optax.chain(optax.clip(0.3), optax.adamw(0.1)),
        oracle.AdamW(0.1, clip_value=0.3),
    ),
    "clip by norm": (
        lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1)),
        oracle.AdamW(0.1, clip_global_norm=0.5),
    ),
    # No row for mu_dtype: Optax multiplies b1 * mu in bfloat16, the library in float32.
    "maximize": (
        lambda: optax.chain(optax.scale(-1.0), optax.adamw(0.1)),
        oracle.AdamW(0.1, maximize=True),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_equals_optax(name):
    make, adamw = OPTAX[name]
    start, gradients = trees(5)
    expected, _ = adamw.run(gradients, start)
    with jax.enable_x64(True):
        tx, params = make(), jax.tree.map(jnp.asarray, start)
        state, update = tx.init(params), jax.jit(tx.update)
        for grads in gradients:
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        params = jax.tree.map(np.asarray, params)
    for leaf in SHAPES:
        assert params[leaf].dtype == np.float64
        np.testing.assert_allclose(params[leaf], expected[leaf], rtol=1e-12, atol=1e-14)


TORCH = {
    "defaults": ({}, {"weight_decay": 0.01}),
    "every number": (
        {"betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3},
        {"b1": 0.8, "b2": 0.95, "eps": 1e-2, "weight_decay": 0.3},
    ),
    "amsgrad": (
        {"amsgrad": True, "betas": (0.9, 0.5)},
        {"amsgrad": "raw", "b2": 0.5, "weight_decay": 0.01},
    ),
    "maximize": ({"maximize": True}, {"maximize": True, "weight_decay": 0.01}),
}


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("name", TORCH)
def test_equals_pytorch(name, dtype):
    theirs, ours = TORCH[name]
    start, gradients = trees(5, dtype)
    gradients[2]["b"] = None
    expected, _ = oracle.AdamW(0.1, **ours).run(gradients, start)
    params = {leaf: torch.tensor(p, requires_grad=True) for leaf, p in start.items()}
    optimizer = torch.optim.AdamW(list(params.values()), lr=0.1, **theirs)
    counts = dict.fromkeys(SHAPES, 0)
    for grads in gradients:
        for leaf, p in params.items():
            p.grad = None if grads[leaf] is None else torch.tensor(grads[leaf])
            counts[leaf] += grads[leaf] is not None
        optimizer.step()
    for leaf, p in params.items():
        if counts[leaf] < len(gradients):
            continue  # PyTorch counts steps for each parameter, Optax and we for all
        np.testing.assert_allclose(
            p.detach().numpy(), expected[leaf], rtol=1e-12, atol=1e-14
        )
