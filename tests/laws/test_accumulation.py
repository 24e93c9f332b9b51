"""Accumulation: micro-batches are one batch, whatever their number, weights and order.

B6 of the goals: an accumulator in float32 has the bits of a mean in a fixed order that
is fed once, and is within 2 ULP of the mean in float64.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.support import floats, trees

OPTIONS = {
    "learning_rate": 0.05,
    "weight_decay": 0.1,
    "amsgrad": True,
    "clip_value": 0.7,
    "ema_decay": 0.7,
    "ema_warmup": True,
}
"""Of element-wise rules, so that bits do not depend on the order of a sum."""

PLAIN = optadamw.adamw(**OPTIONS)
INNER = ("step", "mu", "nu", "nu_max", "ema")

SUM_OF_WEIGHTS = 12


@functools.partial(jax.jit, static_argnums=0)
def _call(factory: Any, every: Any, grads: Any, state: Any, params: Any, weight: Any):
    return factory(every).step(grads, state, params, weight=weight)


def accumulating(every: Any) -> Any:
    return optadamw.adamw(**OPTIONS, accumulate_steps=every)


def mean_of(every: Any) -> Any:
    """Its parameter is minus the mean, without any rounding after it."""
    rate = optadamw.scale_by_learning_rate(1.0)
    return optadamw.multi_steps(rate, every)


def accumulate(
    factory: Any,
    every: int,
    grads: Sequence[Any],
    params: Any,
    weights: Sequence[float] | None = None,
    state: Any = None,
) -> Any:
    """Feed micro-batches to one compiled program, whatever `every` is."""
    every = jnp.int32(every)
    state = factory(every).init(params) if state is None else state
    for i, g in enumerate(grads):
        weight = None if weights is None else jnp.float32(weights[i])
        params, state = _call(factory, every, g, state, params, weight)
    return params, state


def inner_of(carry: Any) -> Any:
    """Parameters and what the rules keep: what an optimizer without windows has."""
    params, state = carry
    return params, {name: getattr(state, name) for name in INNER}


def micro_batches(count: int, kinds: trees.Kinds = trees.FLOATS) -> list[Any]:
    return [trees.normal(kinds, seed=10 + i) for i in range(count)]


def fixed_order_mean(grads: Sequence[Any], weight: float) -> Any:
    """The float32 sum from the first on, times the reciprocal."""

    def mean(*leaves: Any) -> Any:
        total = np.asarray(leaves[0], np.float32)
        for leaf in leaves[1:]:
            total = total + np.asarray(leaf, np.float32)
        return jnp.asarray(total * np.float32(1 / weight))

    return jax.tree.map(mean, *grads)


def ulps_from_mean(
    params: Any, grads: Sequence[Any], weights: Sequence[float]
) -> float:
    """The largest error of `-params` as a weighted mean, in ULPs of its terms."""
    worst = 0.0
    for name, p in params.items():
        terms = [
            w * np.asarray(g[name], np.float64)
            for w, g in zip(weights, grads, strict=True)
        ]
        mean = sum(terms) / sum(weights)
        size = sum(np.abs(t) for t in terms) / sum(weights)
        error = np.abs(-np.asarray(p, np.float64) - mean) / floats.ulp(size, np.float32)
        worst = max(worst, float(error.max()))
    return worst


def zeros(kinds: trees.Kinds = trees.FLOATS) -> Any:
    return jax.tree.map(jnp.zeros_like, trees.normal(kinds, 0))


# --- One batch -----------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4])
def test_two_or_four_equal_micro_batches_have_the_bits_of_one(k):
    """Their float32 sum is exact; that of eight is not (5 g has 2 bits more than g)."""
    params, (grads,) = trees.normal(trees.PAIR, 0), micro_batches(1, trees.PAIR)
    once = jax.jit(PLAIN.step)(grads, PLAIN.init(params), params)
    many = accumulate(accumulating, k, [grads] * k, params)
    trees.assert_same_bits(inner_of(many), inner_of(once))


@pytest.mark.parametrize("k", [8, 32])
def test_a_power_of_two_of_equal_16_bit_gradients_has_the_bits_of_one(k):
    params, (grads,) = trees.normal(trees.PAIR, 0), micro_batches(1, trees.PAIR)
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), grads)
    once = jax.jit(PLAIN.step)(grads, PLAIN.init(params), params)
    many = accumulate(accumulating, k, [grads] * k, params)
    trees.assert_same_bits(inner_of(many), inner_of(once))


@pytest.mark.parametrize("k", [3, 5, 6, 7, 8])
def test_equal_micro_batches_are_one_within_two_ulp(k):
    (grads,) = micro_batches(1)
    params, state = accumulate(mean_of, k, [grads] * k, zeros())
    assert int(state.step) == 1
    assert ulps_from_mean(params, [grads], [1.0]) <= 2


@pytest.mark.parametrize("k", [2, 4, 8])
def test_it_has_the_bits_of_a_mean_in_a_fixed_order_fed_once(k):
    """B6."""
    params, grads = trees.normal(trees.FLOATS, 0), micro_batches(k)
    mean = fixed_order_mean(grads, k)
    once = jax.jit(PLAIN.step)(mean, PLAIN.init(params), params)
    many = accumulate(accumulating, k, grads, params)
    trees.assert_same_bits(inner_of(many), inner_of(once))


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_it_is_within_two_ulp_of_the_mean_in_float64(k):
    """B6; in ULPs of the terms, as no float32 sum is accurate in its own."""
    grads = micro_batches(k)
    params, _ = accumulate(mean_of, k, grads, zeros())
    assert ulps_from_mean(params, grads, [1.0] * k) <= 2


def test_every_one_costs_nothing():
    assert optadamw.multi_steps(PLAIN, 1) == PLAIN
    assert accumulating(1) == PLAIN
    summed = optadamw.multi_steps(PLAIN, 1, use_grad_mean=False)
    assert summed.init(zeros()).accumulator is not None


def test_a_sum_is_k_times_the_mean():
    def sum_of(every: Any) -> Any:
        rate = optadamw.scale_by_learning_rate(1.0)
        return optadamw.multi_steps(rate, every, use_grad_mean=False)

    grads = micro_batches(4)
    summed, _ = accumulate(sum_of, 4, grads, zeros())
    mean, _ = accumulate(mean_of, 4, grads, zeros())
    trees.assert_same_bits(summed, jax.tree.map(lambda x: 4 * x, mean))


# --- Weights -------------------------------------------------------------------------


def test_any_split_of_a_batch_is_the_batch():
    """Gradients of tokens, cut anywhere: each micro-batch is the mean of its own."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(SUM_OF_WEIGHTS, 16, 25))
    batch = {"kernel": tokens.mean(0)}
    for _ in range(20):
        inside = range(1, SUM_OF_WEIGHTS)
        cuts = sorted(rng.choice(inside, rng.integers(1, 6), replace=False))
        parts = np.split(tokens, cuts)
        grads = [{"kernel": jnp.asarray(p.mean(0), jnp.float32)} for p in parts]
        weights = [len(part) for part in parts]
        start = {"kernel": jnp.zeros((16, 25))}
        params, state = accumulate(mean_of, len(parts), grads, start, weights)
        assert int(state.step) == 1
        assert ulps_from_mean(params, grads, weights) <= 2
        np.testing.assert_allclose(params["kernel"], -batch["kernel"], atol=2e-7)


def test_weights_of_one_are_none_and_their_unit_does_not_matter():
    params, grads = trees.normal(trees.FLOATS, 0), micro_batches(3)
    unweighted = accumulate(accumulating, 3, grads, params)
    for unit in (1.0, 2.0**-20, 2.0**20):
        weighted = accumulate(accumulating, 3, grads, params, [unit] * 3)
        trees.assert_same_bits(inner_of(weighted), inner_of(unweighted))


def test_a_weight_of_zero_leaves_its_micro_batch_out():
    """A micro-batch of weight 0 is left out, even if it is NaN (0 * NaN is NaN)."""
    params, grads = trees.normal(trees.FLOATS, 0), micro_batches(3)
    empty = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), grads[1])
    without = accumulate(accumulating, 2, [grads[0], grads[2]], params, [2.0, 1.0])
    with_it = accumulate(
        accumulating, 3, [grads[0], empty, grads[2]], params, [2.0, 0.0, 1.0]
    )
    trees.assert_same_bits(inner_of(with_it), inner_of(without))


# --- Windows -------------------------------------------------------------------------


@jax.jit
def _flush(every: Any, state: Any, params: Any) -> Any:
    return accumulating(every).flush(state, params)


def test_a_flush_is_the_step_of_what_there_is():
    """And the next window starts anew."""
    params, grads = trees.normal(trees.FLOATS, 0), micro_batches(6)
    half = accumulate(accumulating, 4, grads[:2], params)
    flushed, state = _flush(jnp.int32(4), half[1], half[0])
    assert int(state.micro_step) == 0 and float(state.weight) == 0
    many = accumulate(accumulating, 4, grads[2:], flushed, state=state)
    step = jax.jit(PLAIN.step)
    once = step(fixed_order_mean(grads[:2], 2), PLAIN.init(params), params)
    trees.assert_same_bits(inner_of((flushed, state)), inner_of(once))
    once = step(fixed_order_mean(grads[2:], 4), once[1], once[0])
    trees.assert_same_bits(inner_of(many), inner_of(once))


def test_a_flush_of_weighted_micro_batches_divides_by_their_weight():
    grads, weights = micro_batches(3), [5.0, 1.0, 3.0]
    params, state = accumulate(mean_of, 8, grads, zeros(), weights)
    params, state = mean_of(8).flush(state, params)
    assert int(state.step) == 1
    assert ulps_from_mean(params, grads, weights) <= 2


def test_a_flush_ends_a_window_of_which_nothing_was_kept():
    params, tx = trees.normal(trees.PAIR, 0), accumulating(4)
    grads = micro_batches(1, trees.PAIR)
    before = accumulate(accumulating, 4, grads, params, [0.0])
    assert int(before[1].micro_step) == 1
    after, state = tx.flush(before[1], before[0])
    trees.assert_same_bits(after, params)
    trees.assert_same_bits(trees.buffers_of(state), trees.buffers_of(before[1]))
    assert int(state.micro_step) == int(state.step) == 0
    assert int(optadamw.stats_of(state).skipped) == 1


def test_a_flush_leaves_alone_what_had_no_gradient():
    tx = optadamw.adamw(0.1, weight_decay=0.1, accumulate_steps=3, ema_decay=0.5)
    params = {"trained": jnp.ones(2), "frozen": jnp.ones(2)}
    state = tx.init(params)
    for _ in range(5):  # a window before it leaves nothing either
        grads = {"trained": jnp.ones(2), "frozen": None}
        params, state = tx.step(grads, state, params)
    for like in (None, {"trained": params["trained"], "frozen": None}):
        after, flushed = jax.jit(tx.flush)(state, params, like)
        assert int(flushed.step) == 2 and np.all(after["trained"] < params["trained"])
        trees.assert_same_bits(after["frozen"], params["frozen"])
        for name, before in trees.buffers_of(state).items():
            trees.assert_same_bits(getattr(flushed, name)["frozen"], before["frozen"])


def test_a_flush_finds_gradients_without_an_infinity():
    """Under jax_debug_infs every result of eager mode is looked at."""
    tiny = np.float32(1e-45)  # subnormal, which counts as a gradient
    for value in (1.0, 0.0, -tiny, np.float32(-np.nan)):
        params = {"w": jnp.ones(3), "frozen": jnp.ones(2)}
        tx = optadamw.adamw(0.1, accumulate_steps=2)
        grads = {"w": jnp.full(3, value), "frozen": None}
        params, state = tx.step(grads, tx.init(params), params)
        with jax.debug_infs(True):
            after, _ = tx.flush(state, params)
        assert not np.any(np.asarray(after["w"]) == 1.0), value
        assert float(after["frozen"][0]) == 1.0


def test_a_flush_that_is_told_takes_no_memory():
    tx = optadamw.adamw(0.1, accumulate_steps=3, skip_nonfinite=True, ema_decay=0.5)
    params = {name: jnp.ones((256, 256)) for name in "ab"}
    state = tx.init(params)
    flush = jax.jit(lambda p, s: tx.flush(s, p, like=p), donate_argnums=(0, 1))
    memory = flush.lower(params, state).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.01 * 2 * 4 * 256 * 256


@pytest.mark.parametrize("fill", ["empty", "plain"])
def test_a_flush_of_nothing_changes_nothing(fill):
    params, tx = trees.normal(trees.PAIR, 0), accumulating(4)
    before = params, tx.init(params)
    if fill == "plain":
        tx, before = PLAIN, (params, PLAIN.init(params))
    trees.assert_same_bits(tx.flush(before[1], before[0]), before)


def test_a_schedule_of_windows_sees_optimizer_steps():
    """Windows of 1, 4 and 2 micro-batches."""

    def sizes(step: Any) -> Any:
        return jnp.asarray([1, 4, 2])[step]

    params, grads = trees.normal(trees.FLOATS, 0), micro_batches(7)
    tx, step = accumulating(sizes), jax.jit(PLAIN.step)
    many, once, fed = (params, tx.init(params)), (params, PLAIN.init(params)), 0
    advance = jax.jit(tx.step)
    for size in (1, 4, 2):
        window = grads[fed : fed + size]
        fed += size
        for g in window:
            many = advance(g, many[1], many[0])
        once = step(fixed_order_mean(window, size), once[1], once[0])
        trees.assert_same_bits(inner_of(many), inner_of(once))


def test_a_call_that_only_accumulates_does_nothing_else():
    """Nor does the average move (N17), nor a negative zero become a positive one."""
    params = {"kernel": -zeros()["kernel"], "bias": trees.normal(trees.PAIR, 0)["bias"]}
    tx = accumulating(3)
    state = tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, updated = tx.update(grads, state, params)
    trees.assert_same_bits(jax.tree.map(jnp.add, params, updates), params)
    after, stepped = accumulate(accumulating, 3, [grads], params)
    trees.assert_same_bits(after, params)
    for following in (updated, stepped):
        kept = [name for name in state._fields if getattr(state, name) is not None]
        for name in set(kept) - {"accumulator", "micro_step", "weight"}:
            trees.assert_same_bits(getattr(following, name), getattr(state, name))
        trees.assert_same_bits(following.accumulator["kernel"], grads["kernel"])


def test_what_an_earlier_window_left_is_gone():
    """A NaN without a guard, and a leaf whose gradient was None in between."""
    start = {"w": jnp.zeros(3), "v": jnp.zeros(3)}
    one = jnp.ones(3)
    params, state = accumulate(mean_of, 2, [{"w": one, "v": one * jnp.nan}] * 2, start)
    tx = mean_of(2)
    for v in (None, None, one, one):
        params, state = tx.step({"w": one, "v": v}, state, params)
    assert np.asarray(state.accumulator["v"]).tolist() == [2, 2, 2]
    assert params["w"].tolist() == [-3, -3, -3]


@pytest.mark.parametrize("policy", ["drop", "abort"])
def test_a_float16_sum_beyond_its_range_is_skipped_and_counted(policy):
    """Held at 65,504 it would be 0.4 of the mean, which is -10 here."""
    inner = optadamw.skip_nonfinite(mean_of(1), on_bad_micro_step=policy)
    tx = optadamw.multi_steps(inner, 2, dtype="float16")
    params, grads = jnp.zeros(2), jnp.asarray([-10.0, 0.0])
    state = tx.init(params)
    for weight in (8192.0, 8192.0):
        params, state = tx.step(grads, state, params, weight=weight)
    stats = optadamw.stats_of(state)
    assert (int(stats.step), int(stats.skipped)) == (0, 1)
    for weight in (1.0, 1.0):
        params, state = tx.step(grads, state, params, weight=weight)
    assert params.tolist() == [10.0, 0.0]


def test_the_sum_of_16_bit_gradients_does_not_stand_still():
    """In bfloat16 256 + 1 is 256."""
    start = {"w": jnp.zeros(2, jnp.bfloat16)}
    grads = [{"w": jnp.ones(2, jnp.bfloat16)}] * 300
    params, state = accumulate(mean_of, 300, grads, start)
    assert state.accumulator["w"].dtype == jnp.float32
    assert params["w"].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(("dtype", "count"), [("bfloat16", 256), ("float16", 2048)])
def test_a_sum_in_16_bits_does_not_stand_still(dtype, count):
    """docs/guides/precision.md: off by up to 22 % for the longest window."""
    one = jnp.arange(1, 2, 1 / 128).astype(dtype)
    tx = optadamw.multi_steps(optadamw.scale_by_learning_rate(1.0), count, dtype=dtype)

    def step(carry, _):
        return tx.step(one, carry[1], carry[0]), None

    params = jnp.zeros(one.shape)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=count)
    worst = float(jnp.abs(-params / one - 1).max())
    assert 0.2 < worst < 0.23
