"""The dynamic loss scale: PyTorch's and Keras's sequences, and its bounds (F8, N16)."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import DynamicLossScale

try:
    import torch
except ImportError:
    torch = None

PEERS = {"minimum": 2.0**-126, "maximum": 2.0**126}
"""Of bounds the peers have only PyTorch's: it does not grow to infinity."""

GRAD_SCALER = {"initial": 2.0**16, **PEERS}
DEFAULT_RANGE = 2.0**-14, 2.0**24


GRADIENT = 2.0**-64
"""Times a scale of 2**126 its square is finite still."""


@functools.cache
def program(scale: DynamicLossScale) -> Any:
    """The scales and counts after each of many gradients, for many runs at once."""
    tx = optadamw.with_loss_scale(optadamw.scale_by_learning_rate(1.0), scale)

    def step(carry: Any, bad: jax.Array) -> Any:
        params, state = carry
        grads = {"w": jnp.where(bad, jnp.inf, state.loss_scale * GRADIENT)}
        params, state = tx.step(grads, state, params)
        return (params, state), (state.loss_scale, state.growth, params["w"])

    def run(bad: jax.Array) -> Any:
        params = {"w": jnp.zeros(())}
        return jax.lax.scan(step, (params, tx.init(params)), bad)[1]

    return jax.jit(jax.vmap(run))


def ours(scale: DynamicLossScale, bad: Any) -> np.ndarray:
    """The scales after each gradient of the runs in the rows of `bad`."""
    return np.asarray(program(scale)(jnp.asarray(bad))[0])


def transcribed(
    bad: np.ndarray, initial: float, growth: float, backoff: float, interval: int
) -> np.ndarray:
    """`torch.amp.GradScaler` (`_amp_update_scale_`), line by line, for many runs.

    With factors 2 and 0.5 it is Keras's `LossScaleOptimizer` too, as long as the scale
    is finite: that compares its counter with the interval before it is incremented.
    """
    scale = np.full(len(bad), initial, np.float32)
    tracker = np.zeros(len(bad), int)
    scales = []
    for found_inf in bad.T:
        with np.errstate(over="ignore"):
            # The factors are doubles; the product is rounded once.
            larger = (scale.astype(np.float64) * growth).astype(np.float32)
            smaller = (scale.astype(np.float64) * backoff).astype(np.float32)
        successful = tracker + 1
        grows = ~found_inf & (successful == interval)
        scale = np.where(grows & np.isfinite(larger), larger, scale)
        scale = np.where(found_inf, smaller, scale)
        tracker = np.where(found_inf | grows, 0, successful)
        scales.append(scale)
    return np.stack(scales, 1)


def sequences(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Runs of bad and good gradients: each has its own share of bad ones."""
    rng = np.random.default_rng(seed)
    return rng.random((count, length)) < rng.random((count, 1)) ** 2


# --- F8 ------------------------------------------------------------------------------

SHORT = DynamicLossScale(growth_interval=2)


def test_the_defaults_are_as_documented():
    assert (SHORT.minimum, SHORT.maximum) == DEFAULT_RANGE
    assert DynamicLossScale() == DynamicLossScale(2.0**15, 2.0, 0.5, 2000)


def test_ten_thousand_runs_stay_in_range_and_are_pytorchs_within_it():
    bad = sequences(10_000, 100)
    scales = ours(SHORT, bad)
    low, high = DEFAULT_RANGE
    assert ((low <= scales) & (scales <= high)).all()
    assert scales.min() == low and scales.max() == high  # both bounds were met
    peers = transcribed(bad, SHORT.initial, 2.0, 0.5, 2)
    inside = np.logical_and.accumulate((low <= peers) & (peers <= high), axis=1)
    assert inside.mean() > 0.4
    np.testing.assert_array_equal(scales[inside], peers[inside])


def test_it_recovers_within_the_logarithm_of_its_range():
    """From either end to the other, whatever the gradients can bear."""
    steps = 38  # log2(2**24 / 2**-14)
    eager = DynamicLossScale(initial=2.0**24, growth_interval=1)
    bad = np.arange(2 * steps)[None] < steps
    (scales,) = ours(eager, bad)
    assert scales[steps - 1] == 2.0**-14 and scales[-1] == 2.0**24


@pytest.mark.parametrize("bad", [True, False])
def test_it_is_never_zero_infinite_or_nan(bad):
    """N16, with the widest bounds that are legal: a thousand steps one way."""
    scale = DynamicLossScale(growth_interval=1, **PEERS)
    scales = ours(scale, np.full((1, 300), bad))
    assert np.isfinite(scales).all() and (scales > 0).all()
    assert scales[0, -1] == (2.0**-126 if bad else 2.0**126)


@pytest.mark.parametrize("value", [PEERS["minimum"], PEERS["maximum"]])
def test_a_step_at_either_bound_divides_by_the_scale(value):
    """The reciprocal of 2**127 is subnormal, for XLA 0: each gradient became 0."""
    for scale in (value, DynamicLossScale(initial=value, **PEERS)):
        tx = optadamw.with_loss_scale(optadamw.scale_by_learning_rate(1.0), scale)
        state = tx.init(jnp.zeros(2))
        grads = jnp.full(2, state.loss_scale)
        np.testing.assert_array_equal(tx.jit_step(grads, state, jnp.zeros(2))[0], -1)


def test_a_scale_without_a_normal_reciprocal_is_refused():
    with pytest.raises(ValueError, match="126"):
        optadamw.with_loss_scale(optadamw.scale_by_learning_rate(1.0), 2.0**127)
    with pytest.raises(ValueError, match="126"):
        DynamicLossScale(maximum=2.0**127)


def test_a_bad_gradient_moves_no_parameter_and_restarts_the_count():
    scale, growth, w = (
        np.asarray(x)[0] for x in program(SHORT)(jnp.array([[False, True, False]]))
    )
    np.testing.assert_array_equal(scale, np.float32(2) ** [15, 14, 14])
    np.testing.assert_array_equal(growth, [1, 0, 1])
    np.testing.assert_array_equal(w / GRADIENT, [-1, -1, -2])


# --- The peers -----------------------------------------------------------------------

FACTORS = (
    pytest.param(2.0, 0.5, 3, id="defaults"),
    pytest.param(1.5, 0.75, 2, id="exact"),
)


@pytest.mark.parametrize(("growth", "backoff", "interval"), FACTORS)
def test_the_sequence_is_pytorchs(growth, backoff, interval):
    bad = sequences(100, 100, seed=1)
    scale = DynamicLossScale(
        growth_factor=growth,
        backoff_factor=backoff,
        growth_interval=interval,
        **GRAD_SCALER,
    )
    theirs = transcribed(bad, 2.0**16, growth, backoff, interval)
    inside = np.logical_and.accumulate(theirs >= scale.minimum, axis=1)
    np.testing.assert_array_equal(ours(scale, bad)[inside], theirs[inside])


def test_decimal_factors_part_by_an_ulp_at_each_change():
    """PyTorch multiplies by the double; here the factor is rounded to float32 first."""
    bad = sequences(100, 100, seed=1)
    scale = DynamicLossScale(
        growth_factor=1.1, backoff_factor=0.3, growth_interval=2, **GRAD_SCALER
    )
    theirs = transcribed(bad, 2.0**16, 1.1, 0.3, 2)
    inside = np.logical_and.accumulate(theirs >= scale.minimum, axis=1)
    changes = np.cumsum(np.diff(theirs, axis=1, prepend=2.0**16) != 0, axis=1)
    apart = np.abs(ours(scale, bad)[inside] / theirs[inside] - 1)
    assert np.all(apart <= changes[inside] * 2.0**-23)


def test_the_sequence_is_pytorchs_with_its_interval():
    bad = np.zeros((3, 4500), bool)
    bad[1, 1999] = bad[2, 2000] = True
    theirs = transcribed(bad, 2.0**16, 2.0, 0.5, 2000)
    assert set(theirs[0]) == {2.0**16, 2.0**17, 2.0**18}
    np.testing.assert_array_equal(ours(DynamicLossScale(**GRAD_SCALER), bad), theirs)


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
@pytest.mark.parametrize(("growth", "backoff", "interval"), FACTORS)
def test_the_transcription_is_grad_scaler(growth, backoff, interval):
    bad = np.concatenate([sequences(3, 60, seed=2), [[False] * 60]])
    theirs = [_of_grad_scaler(row, growth, backoff, interval) for row in bad]
    expected = transcribed(bad, 2.0**16, growth, backoff, interval)
    np.testing.assert_array_equal(theirs, expected)


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
def test_grad_scaler_does_not_grow_to_infinity_either():
    bad = np.zeros((1, 130), bool)
    scale = DynamicLossScale(growth_interval=1, **GRAD_SCALER)
    theirs = _of_grad_scaler(bad[0], 2.0, 0.5, 1)
    np.testing.assert_array_equal(ours(scale, bad)[0], np.minimum(theirs, 2.0**126))
    assert theirs[-1] == 2.0**127


def _of_grad_scaler(
    bad: Sequence[bool], growth: float, backoff: float, interval: int
) -> np.ndarray:
    scaler = torch.amp.GradScaler(
        "cpu",
        growth_factor=growth,
        backoff_factor=backoff,
        growth_interval=interval,
    )
    param = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([param], lr=1.0)
    scales = []
    for found_inf in bad:
        scaler.scale(param.sum())
        param.grad = torch.full((1,), float("inf") if found_inf else 1.0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return np.array(scales, np.float32)


def test_the_sequence_is_that_of_keras():
    """Its docstring's rule: doubled after so many finite steps, halved otherwise."""
    bad = sequences(20, 100, seed=3)
    scale = DynamicLossScale(initial=2.0**15, growth_interval=3, **PEERS)
    theirs = []
    for row in bad:
        dynamic_scale, step_counter, scales = np.float32(2.0**15), 0, []
        for not_finite in row:
            if not_finite:
                step_counter, dynamic_scale = 0, dynamic_scale * np.float32(0.5)
            elif step_counter == 3 - 1:
                step_counter, dynamic_scale = 0, dynamic_scale * np.float32(2.0)
            else:
                step_counter += 1
            scales.append(dynamic_scale)
        theirs.append(scales)
    np.testing.assert_array_equal(ours(scale, bad), theirs)


def test_the_sequence_is_that_of_keras_itself():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1.0), initial_scale=2.0**15, dynamic_growth_steps=3
    )
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer.build([variable])
    step = jax.jit(optimizer.stateless_apply)
    values = [variable.value]
    own = [v.value for v in optimizer.variables]
    bad = sequences(1, 60, seed=4)
    scales = []
    place = [v is optimizer.dynamic_scale for v in optimizer.variables].index(True)
    for not_finite in bad[0]:
        grads = [jnp.full(1, jnp.inf if not_finite else 1.0)]
        values, own = step(own, grads, values)
        scales.append(np.asarray(own[place]))
    scale = DynamicLossScale(initial=2.0**15, growth_interval=3, **PEERS)
    np.testing.assert_array_equal(ours(scale, bad)[0], scales)
    assert len(set(map(float, scales))) > 3


# --- With the other parts ------------------------------------------------------------


def scales_of(tx: Any, losses: Sequence[float], **options: Any) -> list[float]:
    """The scale after each of a few gradients; each is `losses[i]` everywhere."""
    params = {"w": jnp.zeros(2)}
    state, scales = tx.init(params), []
    for value in losses:
        grads = {"w": jnp.full(2, value) * state.loss_scale}
        params, state = tx.step(grads, state, params, **options)
        scales.append(float(state.loss_scale))
    return scales


BAD = float("nan")
FOUR = DynamicLossScale(initial=4.0, growth_interval=1)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Of each micro-batch: down at the second; up with the steps of those kept.
        ("drop", [4, 2, 4, 4, 8]),
        # Of each window: down at the end of the first, and the next is not full.
        ("abort", [4, 4, 2, 2, 2]),
    ],
)
def test_under_accumulation_it_moves_as_the_guard_judges(policy, expected):
    tx = optadamw.adamw(
        0.1,
        accumulate_steps=lambda step: jnp.where(step == 0, 3, 2),
        loss_scale=FOUR,
        on_bad_micro_step=policy,
    )
    assert scales_of(tx, [1.0, BAD, 1.0, 1.0, 1.0]) == expected


def test_a_window_may_be_scaled_in_several_ways():
    """The accumulator is unscaled, so a scale that moves within a window is no harm."""
    tx = optadamw.multi_steps(
        optadamw.with_loss_scale(optadamw.scale_by_learning_rate(1.0), FOUR), 3
    )
    params = {"w": jnp.zeros(2)}
    state = tx.init(params)
    for value in (1.0, BAD, 5.0):
        grads = {"w": jnp.full(2, value) * state.loss_scale}
        params, state = tx.step(grads, state, params)
    assert params["w"].tolist() == [-3.0, -3.0] and float(state.loss_scale) == 4.0


def test_a_static_scale_that_is_built_anew_is_for_the_next_loss():
    """The gradients of its first step were multiplied by the scale in the state."""
    rate = optadamw.scale_by_learning_rate(1.0)

    @jax.jit
    def step(params, state, scale):
        tx = optadamw.with_loss_scale(rate, scale)
        loss = functools.partial(optadamw.scale_loss, state)
        return tx.step(jax.grad(lambda p: loss(jnp.sum(p)))(params), state, params)

    params = jnp.zeros(2)
    state = optadamw.with_loss_scale(rate, 2.0).init(params)
    seen = []
    for scale in (8.0, 8.0, 4.0):
        params, state = step(params, state, jnp.float32(scale))
        seen.append((params.tolist(), float(state.loss_scale)))
    assert seen == [([-1.0] * 2, 8.0), ([-2.0] * 2, 8.0), ([-3.0] * 2, 4.0)]


def test_a_spike_does_not_move_it():
    tx = optadamw.adamw(
        0.1, skip_spikes={"window": 4, "min_history": 2}, loss_scale=FOUR
    )
    sizes = [1.0, 1.1, 1000.0]
    assert scales_of(tx, sizes) == [8, 16, 16]


@pytest.mark.parametrize("of", ["loss", ("grad_norm", "loss")])
def test_an_overflow_whose_loss_is_a_spike_lowers_it(of):
    options = {"of": of, "window": 4, "min_history": 2}
    tx = optadamw.adamw(0.1, skip_spikes=options, loss_scale=SHORT)
    params = jnp.ones(2)
    state = tx.init(params)
    for size, loss in ((1.0, 1.0), (1.1, 1.1), (jnp.nan, 50.0)):
        grads = jnp.full(2, size) * state.loss_scale
        params, state = tx.step(grads, state, params, loss=loss)
    stats = optadamw.stats_of(state)
    assert float(state.loss_scale) == SHORT.initial
    assert (int(stats.nonfinite), int(stats.spikes), int(stats.step)) == (1, 0, 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_scaled_loss_is_wide_enough(dtype):
    tx = optadamw.adamw(0.1, loss_scale=DynamicLossScale(initial=2.0**24))
    scaled = optadamw.scale_loss(tx.init(jnp.ones(2)), jnp.asarray(3, dtype))
    assert scaled.dtype == jnp.float32 and float(scaled) == 3 * 2.0**24
