"""The schedules of Optax give its numbers, bit for bit, in every mode of JAX."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optadamw import schedules
from tests.schedules.calls import CYCLE, OF_OPTAX, OURS

STEPS = [*range(75), 1000, 2**24 + 1, 2**31 - 1]
POLYNOMIALS = {
    "linear": 7,
    "linear late": 12,
    "polynomial": 30,
    "polynomial integer": 30,
    "polynomial late": 34,
    "warmup constant": 9,
}
"""Calls that Optax does not end exactly when compiled, and the steps of their ends."""

FACTORIES = [name for name in schedules.__all__ if hasattr(optax.schedules, name)]


def values(schedule, dtype=jnp.int32):
    """The value at each step, compiled as in a training loop."""
    jitted = jax.jit(lambda step: jnp.asarray(schedule(step)))
    return [np.asarray(jitted(jnp.asarray(step, dtype))) for step in STEPS]


def assert_same(found, expected):
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    assert np.array_equal(np.stack(found), np.stack(expected))
    assert np.isfinite(np.stack(found)).all()


def values_of_optax(case):
    """The values of Optax; of a polynomial's end those that it gives without jit."""
    theirs, end = OF_OPTAX[case](optax.schedules), POLYNOMIALS.get(case, 2**31)
    return [
        value if step < end else np.asarray(theirs(step), value.dtype)
        for step, value in zip(STEPS, values(theirs), strict=True)
    ]


@pytest.mark.parametrize("case", OF_OPTAX)
def test_numbers_are_those_of_optax(case):
    assert_same(values(OURS[case]()), values_of_optax(case))


@pytest.mark.parametrize("case", OF_OPTAX)
def test_numbers_are_those_of_optax_without_jit(case):
    ours, theirs = OURS[case](), OF_OPTAX[case](optax.schedules)
    for step in (0, 5, 17, 40, 1000):
        assert np.array_equal(ours(step), theirs(step))
        assert np.array_equal(ours(jnp.int32(step)), theirs(jnp.int32(step)))


@pytest.mark.parametrize("case", OF_OPTAX)
def test_numbers_are_those_of_optax_in_float64(case):
    with jax.enable_x64(True):
        assert_same(values(OURS[case]()), values_of_optax(case))


@pytest.mark.parametrize("case", OURS)
def test_strict_promotion_changes_nothing(case):
    expected = values(OURS[case]())
    with jax.numpy_dtype_promotion("strict"):
        assert_same(values(OURS[case]()), expected)


def test_some_schedules_of_optax_do_not_take_strict_promotion():
    """If this fails, `OptaxSchedule` need not change the mode any more."""
    rate = optax.schedules.cosine_decay_schedule(0.1, 10)
    with (
        jax.numpy_dtype_promotion("strict"),
        pytest.raises(Exception, match="no available implicit dtype promo"),
    ):
        jax.jit(rate)(jnp.int32(1))


@pytest.mark.parametrize("name", FACTORIES)
def test_arguments_have_the_names_order_and_defaults_of_optax(name):
    ours = inspect.signature(getattr(schedules, name)).parameters.values()
    theirs = inspect.signature(getattr(optax.schedules, name)).parameters.values()
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.name, mine.default, mine.kind) == (
            other.name,
            other.default,
            other.kind,
        )


def test_every_schedule_of_optax_is_there():
    theirs = {
        name
        for name, found in vars(optax.schedules).items()
        if inspect.isfunction(found) and not name.startswith(("_", "inject_"))
    }
    assert theirs == set(FACTORIES)
    called = {getattr(make(), "name", None) for make in OURS.values()}
    assert theirs <= called


@pytest.mark.parametrize("steps", range(1, 60))
def test_a_compiled_schedule_ends_exactly(steps):
    """XLA multiplies by a rounded 1 / steps, which Optax feels as -5e-8, or NaN."""
    made = {
        "root": schedules.polynomial_schedule(0.3, 0.02, 0.5, steps),
        "line": schedules.linear_schedule(0.3, 0.0, steps),
        "1-sqrt": schedules.warmup_stable_decay_schedule(0.0, 0.3, 0, 0, steps),
    }
    for name, last in {"root": 0.02, "line": 0.0, "1-sqrt": 0.0}.items():
        found = jax.jit(made[name])(jnp.int32(steps))
        assert found == np.float32(last), name
        assert not np.signbit(found), name


def test_the_end_of_a_polynomial_of_optax_needs_care():
    """If this fails, `Polynomial` need not mend the end any more."""
    root = optax.schedules.polynomial_schedule(0.3, 0.02, 0.5, 30)
    assert np.isnan(jax.jit(root)(jnp.int32(30)))
    assert root(30) == np.float32(0.02)
    line = optax.schedules.linear_schedule(0.3, 0.0, 30)
    assert jax.jit(line)(jnp.int32(30)) < 0


@pytest.mark.parametrize("steps", [41, 61])
def test_a_warmup_to_zero_ends_there(steps):
    rate = schedules.warmup_constant_schedule(1.0, 0.0, steps)
    assert jax.jit(rate)(jnp.int32(steps)) == 0


@pytest.mark.parametrize("length", [41, 61, 123_457, 2**30])
def test_a_staircase_falls_at_its_steps(length):
    """Optax's falls one step late for 23 of the first 199 lengths, if compiled."""
    for warmup, begin in ((0, 0), (3, 5)):
        given = (length, 0.5, begin, True)
        stairs = schedules.warmup_exponential_decay_schedule(0.0, 1.0, warmup, *given)
        if not warmup:
            stairs = schedules.exponential_decay(1.0, *given)
        jumps = [k * length for k in range(1, 8) if k * length < 2**30 + 1]
        since = [t + late for t in jumps for late in (-1, 0, 1)]
        steps = jnp.asarray(since, jnp.int32) + warmup + begin
        expected = [0.5 ** (t // length) for t in since]
        assert jax.jit(jax.vmap(stairs))(steps).tolist() == expected
        assert [float(stairs(step)) for step in steps.tolist()[:3]] == expected[:3]


@pytest.mark.parametrize("step", [40, 41, 2**31 - 1])
def test_a_slow_moment_stays_at_its_end(step):
    """The count of steps stays at 2**31 - 1, to which 1 cannot be added."""
    for first, last in ((0.9, 0.9), (0.9, 0.999)):
        rate = schedules.slow_moment_schedule(first, last, 41)
        assert jax.jit(rate)(jnp.int32(step)) == np.float32(last)


def test_the_jumps_of_optax_need_care():
    """If this fails, `Staircase` need not divide whole numbers any more."""
    stairs = optax.schedules.exponential_decay(1.0, 41, 0.5, staircase=True)
    assert jax.jit(stairs)(jnp.int32(41)) == 1
    assert stairs(41) == 0.5


@pytest.mark.parametrize("peak", [0, jnp.float32(0)])
def test_a_cosine_leaves_a_peak_of_zero_for_its_end(peak):
    """Optax multiplies the peak, and stays at 0."""
    cycle = {"warmup_steps": 10, "decay_steps": 20, "end_value": 0.5, "exponent": 2}
    rate = schedules.warmup_cosine_decay_schedule(1.0, peak, **cycle)
    twice = schedules.sgdr_schedule([cycle | {"init_value": 1, "peak_value": peak}] * 2)
    expected = [1.0, 0.5, 0.0, 0.375, 0.5, 0.5]
    steps = jnp.asarray([0, 5, 10, 15, 20, 30])
    for schedule, start in ((rate, 0), (twice, 20)):
        found = jax.jit(jax.vmap(schedule))(steps + start)
        np.testing.assert_allclose(found, expected, rtol=3e-7)
    assert rate(20) == 0.5


def test_an_array_may_be_the_peak_of_a_compiled_cosine():
    """Optax asks whether the array is 0, which JAX refuses in a compiled step."""
    cycle = CYCLE | {"peak_value": jnp.float32(0.3), "end_value": 0.1}
    rate = schedules.warmup_cosine_decay_schedule(**cycle)
    plain = schedules.warmup_cosine_decay_schedule(**cycle | {"peak_value": 0.3})
    ulp = np.spacing(np.float32(0.3))
    np.testing.assert_allclose(values(rate), values(plain), rtol=3e-7, atol=ulp)


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("stable", [0, 20])
def test_warmup_stable_decay_follows_its_formula(decay, warmup, stable):
    first, peak, last, falling = 0.01, 0.3, 0.02, 13
    rate = schedules.warmup_stable_decay_schedule(
        first, peak, warmup, stable, falling, last, decay
    )
    with jax.enable_x64(True):
        found = np.stack(values(rate))
    assert found.dtype == np.float64
    for step, value in zip(STEPS, found, strict=True):
        u = min(max(step - warmup - stable, 0), falling) / falling
        left = {
            "linear": 1 - u,
            "cosine": (1 + np.cos(np.pi * u)) / 2,
            "1-sqrt": 1 - np.sqrt(u),
        }[decay]
        expected = last + (peak - last) * left
        if step < warmup:
            expected = first + (peak - first) * step / warmup
        assert value == pytest.approx(expected, rel=1e-14, abs=1e-16)


def test_warmup_stable_decay_is_the_join_of_its_parts():
    ours = schedules.warmup_stable_decay_schedule(0.0, 0.3, 7, 20, 13, 0.03, "linear")
    parts = [
        schedules.linear_schedule(0.0, 0.3, 7),
        schedules.constant_schedule(0.3),
        schedules.linear_schedule(0.3, 0.03, 13),
    ]
    joined = schedules.join_schedules(parts, [7, 27])
    np.testing.assert_allclose(values(ours), values(joined), rtol=3e-7)


@pytest.mark.parametrize("step", [27, 30, 40])
def test_a_longer_constant_delays_the_decay_and_changes_nothing_before(step):
    short = schedules.warmup_stable_decay_schedule(0.0, 0.3, 7, 20, 13)
    longer = schedules.warmup_stable_decay_schedule(0.0, 0.3, 7, 1020, 13)
    assert longer(step) == short(27) == np.float32(0.3)
    assert longer(step + 1000) == short(step)


def test_an_array_may_be_traced_where_optax_takes_one():
    peaks = jnp.asarray([0.1, 0.2])

    def rate(peak):
        return schedules.cosine_decay_schedule(peak, 10)(jnp.int32(5))

    np.testing.assert_allclose(jax.vmap(rate)(peaks), peaks / 2, rtol=1e-6)

    def stable(peak):
        made = schedules.warmup_stable_decay_schedule(0.0, peak, 2, 2, 2)
        return made(jnp.int32(1))

    np.testing.assert_allclose(jax.vmap(stable)(peaks), peaks / 2, rtol=1e-6)


def test_a_traced_peak_of_a_warmup_cosine_is_refused():
    def rate(peak):
        return schedules.warmup_cosine_decay_schedule(**CYCLE | {"peak_value": peak})(1)

    with pytest.raises(TypeError, match=r"`peak_value` must be known .* Join linear"):
        jax.jit(rate)(0.1)
