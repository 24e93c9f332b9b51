"""A schedule is a value: equal, hashed, copied, pickled and printed by its call."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import schedules
from tests.schedules.calls import OURS
from tests.support import trees
from tests.support.compilations import Compilations

PARAMS = trees.normal(trees.FLOATS, seed=0)
GRADS = trees.normal(trees.FLOATS, seed=1)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", OURS)
def test_equal_calls_are_equal_and_others_are_not(case):
    first, second = OURS[case](), OURS[case]()
    assert first == second
    assert hash(first) == hash(second)
    others = [make() for name, make in OURS.items() if name != case]
    assert not any(first == other for other in others)
    assert first != repr(first)


@pytest.mark.parametrize("case", OURS)
def test_copies_are_equal(case):
    schedule = OURS[case]()
    for other in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert repr(other) == repr(schedule)
        assert np.array_equal(other(7), schedule(7))


@pytest.mark.parametrize("case", OURS)
def test_it_prints_as_its_call(case):
    schedule = OURS[case]()
    names = {name: getattr(schedules, name) for name in schedules.__all__}
    assert eval(repr(schedule), names) == schedule
    schedule(3)  # the closure of Optax changes an argument when it is first called
    assert repr(schedule) == repr(OURS[case]())


def test_defaults_are_not_printed():
    assert repr(schedules.cosine_decay_schedule(init_value=0.1, decay_steps=1e2)) == (
        "cosine_decay_schedule(0.1, 100)"
    )
    assert repr(schedules.sgdr_schedule([{**CYCLE}])) == (
        "sgdr_schedule([{'init_value': 0.0, 'peak_value': 0.1, 'warmup_steps': 2, "
        "'decay_steps': 9}])"
    )
    stable = schedules.warmup_stable_decay_schedule(0.0, 0.1, 2, 5, 3, decay="linear")
    assert repr(stable) == (
        "warmup_stable_decay_schedule(0.0, 0.1, 2, 5, 3, decay='linear')"
    )


CYCLE = {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 2, "decay_steps": 9}


def test_a_number_of_another_type_is_another_value():
    """Optax computes x**2 and x**2.0 in two ways."""
    whole, real = (schedules.cosine_decay_schedule(1.0, 9, 0.0, x) for x in (2, 2.0))
    assert whole != real
    assert repr(whole) != repr(real)


def test_arrays_compare_by_value():
    first, second, other = (
        schedules.linear_schedule(jnp.float32(x), 0.0, 9) for x in (0.1, 0.1, 0.2)
    )
    assert first == second != other
    assert hash(first) == hash(second)
    assert schedules.linear_schedule(np.float64(0.1), 0.0, 9) == (
        schedules.linear_schedule(0.1, 0.0, 9)
    )


def test_the_order_of_boundaries_does_not_matter():
    first = schedules.piecewise_constant_schedule(1.0, {5: 0.1, 9: 0.2})
    assert first == schedules.piecewise_constant_schedule(1.0, {9: 0.2, 5: 0.1})


def test_a_caller_cannot_change_it_later():
    scales, parts = {5: 0.1}, [schedules.constant_schedule(1.0)]
    jumps = schedules.piecewise_constant_schedule(1.0, scales)
    joined = schedules.join_schedules(parts, [])
    scales[7] = 0.1
    parts.clear()
    assert jumps == schedules.piecewise_constant_schedule(1.0, {5: 0.1})
    assert joined(0) == 1.0


def test_a_join_of_functions_is_equal_only_with_the_same_functions():
    def half(step):
        return 0.5

    def joined(function):
        return schedules.join_schedules([function, function], [5])

    assert joined(half) == joined(half)
    assert joined(half) != joined(lambda step: 0.5)


@pytest.mark.parametrize("case", OURS)
def test_a_transformation_that_is_built_again_is_not_compiled_again(case):
    def stepped():
        tx = optadamw.adamw(OURS[case](), weight_decay=0.01)
        return jax.block_until_ready(jax.jit(tx.step)(GRADS, tx.init(PARAMS), PARAMS))

    expected = stepped()
    with Compilations() as compilations:
        trees.assert_same_bits(stepped(), expected)
    assert compilations.count == 0


def test_a_transformation_is_a_value_with_a_schedule():
    def build(steps):
        rate = schedules.warmup_cosine_decay_schedule(0.0, 0.1, 2, steps)
        return optadamw.adamw(rate, weight_decay=schedules.constant_schedule(0.1))

    tx = build(9)
    assert tx == build(9) != build(8)
    assert hash(tx) == hash(build(9))
    for other in (pickle.loads(pickle.dumps(tx)), copy.deepcopy(tx)):
        assert other == tx
    assert repr(tx) == (
        "adamw(warmup_cosine_decay_schedule(0.0, 0.1, 2, 9), "
        "weight_decay=constant_schedule(0.1))"
    )


def test_a_pickle_is_read_in_another_process():
    tx = optadamw.adamw(schedules.sgdr_schedule([CYCLE, CYCLE]))
    program = (
        "import pickle, sys; tx = pickle.loads(sys.stdin.buffer.read()); "
        "print(repr(tx), hash(tx) == hash(pickle.loads(pickle.dumps(tx))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(tx),
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == f"{tx!r} True"


def test_a_step_takes_the_rate_of_the_schedule():
    rate = schedules.warmup_stable_decay_schedule(0.0, 0.1, 2, 2, 4)
    tx = optadamw.adamw(rate, stats=True)
    params, state = PARAMS, tx.init(PARAMS)
    step = jax.jit(tx.step)
    for taken in range(9):
        params, state = step(GRADS, state, params)
        found = optadamw.stats_of(state).learning_rate
        # Two programs: XLA divides in one and multiplies by the inverse in the other.
        assert float(found) == pytest.approx(float(rate(taken)), rel=2e-7, abs=0)


def test_a_schedule_may_count_the_gradients_of_a_step():
    every = schedules.join_schedules(
        [schedules.constant_schedule(1), schedules.constant_schedule(2)], [1]
    )
    tx = optadamw.adamw(0.1, accumulate_steps=every)
    params, state = PARAMS, tx.init(PARAMS)
    taken = []
    for _ in range(5):
        params, state = tx.step(GRADS, state, params)
        taken.append(int(state.step))
    assert taken == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("name", ["optadamw", "optax"])
def test_optax_injects_them(name):
    """`inject_hyperparams` calls a schedule with its own count, for any optimizer."""
    factory = {"optadamw": optadamw.adamw, "optax": optax.adamw}[name]
    rate = schedules.cosine_decay_schedule(0.1, 10)
    tx = optax.inject_hyperparams(factory, static_args=("mask",))(learning_rate=rate)
    state = tx.init(PARAMS)
    for taken in range(3):
        _, state = jax.jit(tx.update)(GRADS, state, PARAMS)
        assert state.hyperparams["learning_rate"] == rate(taken)


def test_optax_takes_them_itself():
    mine, theirs = (
        optax.adamw(module.cosine_decay_schedule(0.1, 10))
        for module in (schedules, optax.schedules)
    )
    found, expected = (
        jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)[0] for tx in (mine, theirs)
    )
    trees.assert_same_bits(found, expected)
