"""Schedules are called ahead of a training, and an illegal value is refused."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw


def _late(usual, bad, at=70_000):
    return lambda step: jnp.where(step == at, bad, usual)


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("learning_rate", {"learning_rate": _late(1e-3, jnp.nan)}, "finite and >= 0"),
        ("b1", {"b1": _late(0.9, 1 - 1e-9)}, r"in \[0, 1\)"),
        ("weight_decay", {"weight_decay": _late(0.1, -0.1)}, "finite and >= 0"),
        ("clip_norm", {"clip_norm": _late(1.0, 0.0)}, "finite and > 0"),
        ("b2", {"groups": {"w": {"b2": _late(0.99, 2.0)}}}, r"in \[0, 1\)"),
        (
            "clip_norm",
            {"groups": {"w": {"clip_norm": _late(1.0, -1.0)}}},
            "finite and > 0",
        ),
        ("ema_decay", {"ema_decay": _late(0.99, 1.5)}, r"in \[0, 1\]"),
        (
            "limit",
            {"clip_norm": optadamw.adjustable(1.0, name="limit") * _late(1.0, 0.0)},
            "finite and > 0",
        ),
    ],
)
def test_the_first_illegal_value_is_named_with_its_step(name, options, rule):
    tx = optadamw.adamw(**{"learning_rate": 1e-3} | options)
    optadamw.check_schedules(tx, 70_000)
    text = f"`{name}` must be {rule}; got .*schedule in .* returns this at step 70000"
    with pytest.raises(ValueError, match=text):
        optadamw.check_schedules(tx, 70_001)


@pytest.mark.parametrize("power", [1, 0.5])
def test_a_schedule_is_called_as_a_step_calls_it(power):
    """Compiled, Optax's line ends at -4e-11, and its root in NaN; without jit at 0."""
    rate = optax.polynomial_schedule(1e-3, 0.0, power, 10)
    tx = optadamw.adamw(rate)
    optadamw.check_schedules(tx, 10)
    text = "`learning_rate` must be .* returns this at step 10 in compiled code, where"
    with pytest.raises(ValueError, match=text):
        optadamw.check_schedules(tx, 12)
    ours = optadamw.schedules.polynomial_schedule(1e-3, 0.0, power, 10)
    optadamw.check_schedules(optadamw.adamw(ours), 12)


def test_legal_schedules_and_numbers_pass():
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)
    optadamw.check_schedules(optadamw.adamw(rate, b2=jnp.float32(0.9)), 200)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, jnp.inf])
def test_a_number_of_steps_that_is_none_is_refused(steps):
    with pytest.raises((ValueError, TypeError), match="`steps` must be"):
        optadamw.check_schedules(optadamw.adamw(1e-3), steps)


def test_a_foreign_transformation_is_refused():
    with pytest.raises(TypeError, match="`tx` must be a transformation of optadamw"):
        optadamw.check_schedules(optax.adam(1e-3), 10)


def test_a_schedule_times_an_adjustable_number():
    bad = optadamw.adjustable(1.0, name="peak") * (lambda step: 2.0 - step)
    with pytest.raises(ValueError, match=r"`learning_rate` must be .*; got -1\.0\..*3"):
        optadamw.check_schedules(optadamw.adamw(bad), 10)
    optadamw.check_schedules(optadamw.adamw(bad), 3)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda step: 1e-3 if step < 10 else 1e-4,
        lambda step: np.exp(-step),
        lambda step: [1e-3, 2e-3][step],
    ],
    ids=["if", "NumPy", "a list"],
)
def test_a_schedule_that_cannot_be_traced_is_named(schedule):
    tx = optadamw.adamw(schedule)
    with pytest.raises(TypeError, match="`learning_rate`: the schedule in scale_by_le"):
        optadamw.check_schedules(tx, 2)
    atom = optadamw.clip_by_norm(schedule)
    with pytest.raises(TypeError, match="`limit`: the schedule in clip_by_norm"):
        optadamw.check_schedules(atom, 2)
