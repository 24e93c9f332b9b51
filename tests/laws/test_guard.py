"""The guard: what is refused leaves no trace but a count (B7, F6, N14).

The strongest way to say so: a run with a bad gradient in it has, to the bit, the
parameters and buffers of the run without that gradient.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.support import trees
from tests.support.control_cases import BAD

OPTIONS = {
    "learning_rate": 0.05,
    "weight_decay": 0.1,
    "amsgrad": True,
    "clip_global_norm": 0.8,
    "ema_decay": 0.7,
    "ema_debias": True,
}
KINDS: trees.Kinds = {
    "kernel": (jnp.float32, (4, 5)),
    "bias": (jnp.bfloat16, (6,)),
    "scale": (jnp.float16, ()),
    "phase": (jnp.complex64, (2,)),
}
INNER = ("step", "mu", "nu", "nu_max", "ema")
COUNTED = ("events", "history", "loss_scale", "growth")
"""What a bad gradient may change."""


class Policy(NamedTuple):
    """A guarded optimizer, and the runs of it that must be equal."""

    options: dict[str, Any]
    spoiled: Sequence[str]
    """Gradients a, b, c and the bad one, x."""
    clean: Sequence[str]
    """The same without it; "-" is a micro-batch of weight 0."""
    nonfinite: int
    skipped: int


POLICIES = {
    "whole": Policy({}, "axbxxc", "abc", 3, 3),
    "drop": Policy({"accumulate_steps": 3}, "axbcxxxxxcba", "a-bc-----cba", 6, 1),
    "wait": Policy(
        {"accumulate_steps": 3, "on_bad_micro_step": "wait"},
        *("axbxxcxaabxx", "abcaab", 6, 0),
    ),
    "abort": Policy(
        {"accumulate_steps": 2, "on_bad_micro_step": "abort"}, "abxcbxcb", "abcb", 2, 2
    ),
}
each_policy = pytest.mark.parametrize("name", POLICIES)


def bad_gradients(value: float) -> list[dict[str, Any]]:
    """F6: a bad value in one element of each leaf, and in the whole of each."""
    good, made = trees.normal(KINDS, 7), []
    for leaf in KINDS:
        for place in (-1, ...):
            bad = np.array(good[leaf])
            with np.errstate(over="ignore", invalid="ignore"):
                bad.reshape(-1)[place] = np.asarray(value).astype(bad.dtype)
            made.append(good | {leaf: jnp.asarray(bad)})
    return made


BAD_ONE = bad_gradients(np.nan)[0]


def optimizer(name: str) -> Any:
    options = OPTIONS | POLICIES[name].options
    return optadamw.adamw(**options, skip_nonfinite=True, max_consecutive=3)


@functools.cache
def runner(name: str) -> Any:
    """Initial parameters and state, and the compiled step."""
    tx = optimizer(name)
    params = trees.normal(KINDS, 0)
    return params, tx.init(params), jax.jit(tx.step)


GOOD = {name: trees.normal(KINDS, 1 + i) for i, name in enumerate("abc")}


def run(name: str, calls: Sequence[str], bad: Any) -> list[Any]:
    """The parameters and state after each call."""
    params, state, step = runner(name)
    pairs = []
    for call in calls:
        grads = GOOD.get(call, bad)
        params, state = step(
            grads, state, params, weight=jnp.float32(0.0 if call == "-" else 1.0)
        )
        pairs.append((params, state))
    return pairs


@functools.cache
def clean(name: str) -> Any:
    return inner_of(run(name, POLICIES[name].clean, GOOD["a"])[-1])


def inner_of(pair: Any) -> Any:
    params, state = pair
    return params, {field: getattr(state, field) for field in INNER}


# --- F6, N14 -------------------------------------------------------------------------


@each_policy
@pytest.mark.parametrize("value", BAD)
def test_a_run_with_bad_gradients_is_the_run_without(name, value):
    policy = POLICIES[name]
    for bad in bad_gradients(value):
        last = run(name, policy.spoiled, bad)[-1]
        trees.assert_same_bits(inner_of(last), clean(name))
        stats = optadamw.stats_of(last[1])
        assert int(stats.nonfinite) == policy.nonfinite
        assert int(stats.skipped) == policy.skipped


@each_policy
def test_a_bad_gradient_leaves_every_bit(name):
    """B7; of zeros their sign, of subnormal numbers what they are."""
    params, state, step = runner(name)
    odd = jnp.array([-0.0, 1e-42, -1e-45, 0.0, 1.0], jnp.float32)
    params = params | {"kernel": params["kernel"].at[0].set(odd)}
    params, state = step(GOOD["a"], state, params, weight=jnp.float32(1))
    params = params | {"kernel": params["kernel"].at[0].set(odd)}
    ema = state.ema | {"kernel": state.ema["kernel"].at[0].set(odd)}
    state = state._replace(ema=ema)
    after, following = step(BAD_ONE, state, params, weight=jnp.float32(1))
    trees.assert_same_bits(after, params)
    for field in state._fields:
        old, new = getattr(state, field), getattr(following, field)
        if field == "accumulator" and name == "abort":
            continue  # the window is lost, and its sum is of no use
        if field in COUNTED or (name != "whole" and field in ("micro_step", "weight")):
            continue
        trees.assert_same_bits(new, old)
    assert int(optadamw.stats_of(following).nonfinite) == 1


def test_nothing_is_let_through_at_the_limit():
    params, state, step = runner("whole")
    pairs, stalls = [], []
    for grads in (*[BAD_ONE] * 5, GOOD["a"]):
        params, state = step(grads, state, params, weight=jnp.float32(1))
        pairs.append(params)
        stalls.append(bool(optadamw.stats_of(state).stalled))
    trees.assert_same_bits(pairs[4], runner("whole")[0])
    assert stalls == [False, False, True, True, True, False]
    assert int(state.step) == 1


def test_a_flush_is_no_good_gradient():
    """A flush brings no gradient: a run of bad ones, and a stall, go on."""
    params, state = run("drop", "axxxxx", BAD_ONE)[-1]
    assert int(state.micro_step) == 0
    flush = jax.jit(optimizer("drop").flush)
    trees.assert_same_bits(flush(state, params), (params, state))
    params, state = run("drop", "axxxxxax", BAD_ONE)[-1]
    _, flushed = flush(state, params)
    assert int(flushed.step) == int(state.step) + 1
    assert int(optadamw.stats_of(flushed).consecutive) == 1


OVERFLOWS = {
    # A kept gradient is finite, and its square, and its sum with others is not.
    "weight": ({"accumulate_steps": 2}, 1e10, 1e30),
    "weight, abort": (
        {"accumulate_steps": 2, "on_bad_micro_step": "abort"},
        1e10,
        1e30,
    ),
    "loss scale": ({"loss_scale": 2.0**-10}, 1e18, 1.0),
    "loss scale in a window": (
        {"accumulate_steps": 2, "loss_scale": 2.0**-10},
        1e18,
        1.0,
    ),
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_no_way_leads_past_the_guard(name):
    """No weight or scale puts an infinity into a moment or freezes a parameter."""
    options, size, weight = OVERFLOWS[name]
    tx = optadamw.adamw(0.1, skip_nonfinite=True, **options)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for _ in range(2):
        grads = {"w": jnp.array([size, 1.0, 1.0])}
        params, state = tx.step(grads, state, params, weight=jnp.float32(weight))
    assert np.isfinite(params["w"]).all()
    assert np.max(state.nu["w"]) < 1e30


def test_a_sum_of_good_gradients_may_be_a_bad_one():
    """Each has a norm below 1.8e19, their sum has not: nu would never forget it."""
    tx = optadamw.skip_nonfinite(
        optadamw.multi_steps(optadamw.adamw(0.1), 3, use_grad_mean=False)
    )
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for _ in range(3):
        grads = {"w": jnp.array([1.5e19, 1.0, 1.0])}
        params, state = tx.step(grads, state, params)
    assert int(state.step) == 0 and np.max(state.nu["w"]) < 1e30


# --- Without faults ------------------------------------------------------------------

GUARDS = {
    "skip_nonfinite": (None, {"skip_nonfinite": True}),
    "skip_spikes": (None, {"skip_spikes": {"window": 4}, "stats": True}),
    "drop": (2, {"skip_nonfinite": True}),
    "abort": (2, {"skip_nonfinite": True, "on_bad_micro_step": "abort"}),
}


@functools.cache
def faultless(every: int | None, guard: str | None) -> Any:
    """The end of a run without faults."""
    options = {} if guard is None else GUARDS[guard][1]
    tx = optadamw.adamw(**OPTIONS, accumulate_steps=every, **options)
    params = trees.normal(trees.PAIR, 0)
    step, pair = jax.jit(tx.step), (params, tx.init(params))
    for i in range(4):
        pair = step(trees.normal(trees.PAIR, 20 + i), pair[1], pair[0])
    return inner_of(pair)


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_finds_nothing_changes_no_bit(guard):
    every, _ = GUARDS[guard]
    trees.assert_same_bits(faultless(every, guard), faultless(every, None))


# --- Spikes --------------------------------------------------------------------------


def spiky(sizes: Sequence[float], **options: Any) -> tuple[list[int], Any]:
    """The steps taken after each gradient of such a size, and the last state."""
    tx = optadamw.skip_spikes(optadamw.scale_by_learning_rate(1.0), **options)
    params = {"w": jnp.zeros(2)}
    state, step, taken = tx.init(params), jax.jit(tx.step), []
    for size in sizes:
        grads = {"w": jnp.array([size, 0.0])}
        params, state = step(grads, state, params, loss=jnp.float32(size))
        taken.append(int(state.step))
    return taken, state


USUAL = [1.0, 1.2, 0.9, 1.1]


@pytest.mark.parametrize("of", ["grad_norm", "loss"])
def test_a_spike_is_refused_and_the_next_usual_value_is_not(of):
    taken, state = spiky([*USUAL, 1000.0, 1.0], window=8, min_history=4, of=of)
    assert taken == [1, 2, 3, 4, 4, 5]
    assert int(optadamw.stats_of(state).spikes) == 1


def test_nothing_is_judged_before_there_is_enough_history():
    taken, _ = spiky([1.0, 1.1, 1000.0], window=8, min_history=4)
    assert taken == [1, 2, 3]


def test_one_huge_value_does_not_widen_the_limit():
    taken, _ = spiky([*USUAL, 1e6, 30.0, 30.0], window=8, min_history=4)
    assert taken == [1, 2, 3, 4, 4, 4, 4]


def test_a_lasting_change_of_level_gets_through():
    taken, _ = spiky([*USUAL, *[10.0] * 30], window=8, min_history=4)
    assert taken[-1] > 10


def test_a_constant_signal_is_no_spike():
    taken, state = spiky([0.1] * 20, window=4)
    assert taken[-1] == 20 and int(optadamw.stats_of(state).spikes) == 0


@pytest.mark.parametrize("level", [1e-30, 1e-18, 1e30])
def test_tiny_and_huge_losses_have_a_deviation(level):
    """The squares of such deviations are 0 or infinite in float32."""
    tx = optadamw.skip_spikes(optadamw.adamw(1e-3), window=8, min_history=4, of="loss")
    params, taken, step = jnp.ones(2), [], jax.jit(tx.step)
    state = tx.init(params)
    for size in (*USUAL, *USUAL, 1.3, 100.0, 1.0):
        loss = jnp.float32(level * size)
        params, state = step(jnp.ones(2), state, params, loss=loss)
        taken.append(int(state.step))
    assert taken == [*range(1, 10), 9, 10]


def test_a_loss_that_is_not_finite_is_refused_by_every_guard():
    tx = optadamw.skip_nonfinite(optadamw.scale_by_learning_rate(1.0))
    params = {"w": jnp.zeros(2)}
    state = tx.init(params)
    for loss in (jnp.nan, jnp.inf, -jnp.inf):
        params, state = tx.step({"w": jnp.ones(2)}, state, params, loss=loss)
    assert int(state.step) == 0 and params["w"].tolist() == [0, 0]
    assert int(optadamw.stats_of(state).nonfinite) == 3


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.1])
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
def test_a_schedule_that_goes_astray_skips_its_step(name, wrong):
    """A constant of this value is refused at construction."""

    def schedule(step: Any) -> Any:
        return jnp.where(step == 1, wrong, 0.1)

    tx = optadamw.adamw(
        **{"learning_rate": 0.1} | {name: schedule}, skip_nonfinite=True
    )
    pair = {"w": jnp.ones(3)}, tx.init({"w": jnp.ones(3)})
    first = tx.step({"w": jnp.ones(3)}, pair[1], pair[0])
    params, state = tx.step({"w": jnp.ones(3)}, first[1], first[0])
    trees.assert_same_bits(params, first[0])
    assert int(state.step) == 1 and int(optadamw.stats_of(state).skipped) == 1
