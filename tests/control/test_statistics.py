"""`stats_of` agrees with the oracle for the tree and for groups."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import trees

KINDS: trees.Kinds = {"kernel": (jnp.float32, (4, 5)), "bias": (jnp.bfloat16, (6,))}
PARAMS = trees.normal(KINDS, 0)
GRADS = trees.normal(KINDS, 1)


def norm(tree: Any) -> float:
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return float(np.linalg.norm(np.concatenate(leaves)))


def stats_after_a_step(tx: Any, grads: Any = GRADS) -> tuple[Any, Any]:
    params, state = tx.step(grads, tx.init(PARAMS), PARAMS)
    return params, optadamw.stats_of(state)


def test_groups_have_the_norms_of_their_parameters():
    inner = optadamw.adamw(0.1, clip_global_norm=0.5)
    groups = {"biases": "bias", "kernels": lambda path, _: path == "kernel"}
    after, stats = stats_after_a_step(
        optadamw.with_stats(inner, norms=True, groups=groups)
    )
    assert set(stats.groups) == set(groups)
    for name, leaf in (("biases", "bias"), ("kernels", "kernel")):
        group = stats.groups[name]
        np.testing.assert_allclose(group.grad_norm, norm(GRADS[leaf]), rtol=1e-6)
        np.testing.assert_allclose(group.param_norm, norm(after[leaf]), rtol=1e-6)
        # bfloat16 is rounded after the update was measured.
        moved = norm(after[leaf].astype(float) - PARAMS[leaf].astype(float))
        np.testing.assert_allclose(group.update_norm, moved, rtol=1e-2)
    np.testing.assert_allclose(stats.grad_norm, norm(GRADS), rtol=1e-6)
    np.testing.assert_allclose(stats.clipped_grad_norm, 0.5, rtol=1e-6)


def test_updates_are_measured_before_an_average_overwrites_the_parameters():
    tx = optadamw.adamw(0.1, weight_decay=0.0, stats="norms")
    average = {"ema_decay": 0.5, "ema_overwrite_every": 1}
    overwritten = optadamw.adamw(0.1, weight_decay=0.0, stats="norms", **average)
    _, plain = stats_after_a_step(tx)
    after, stats = stats_after_a_step(overwritten)
    assert stats.update_norm == plain.update_norm
    np.testing.assert_allclose(stats.param_norm, norm(after), rtol=1e-6)


def test_a_clip_reads_the_norm_of_all_and_not_of_a_group():
    params, grads = trees.normal(trees.FLOATS, 0), trees.normal(trees.FLOATS, 1)
    clipped = optadamw.adamw(0.1, clip_global_norm=0.5)
    counted = optadamw.with_stats(clipped, groups={"biases": "*bias*"})
    wanted, state = clipped.step(grads, clipped.init(params), params)
    found, with_stats = counted.step(grads, counted.init(params), params)
    trees.assert_same_bits((found, with_stats.mu), (wanted, state.mu))


def test_a_group_whose_gradient_is_none_has_norm_zero():
    tx = optadamw.with_stats(optadamw.adamw(0.1), groups={"biases": "bias"})
    _, stats = stats_after_a_step(tx, GRADS | {"bias": None})
    assert float(stats.groups["biases"].grad_norm) == 0
    assert stats.groups["biases"].update_norm is None
    np.testing.assert_allclose(stats.grad_norm, norm(GRADS["kernel"]), rtol=1e-6)


def test_what_is_not_asked_for_is_none_and_costs_nothing():
    plain = optadamw.adamw(0.1)
    state = plain.init(PARAMS)
    assert state.stats is None and state.events is None
    stats = optadamw.stats_of(state)
    assert int(stats.step) == 0 and stats.groups == {}
    assert all(
        x is None for n, x in stats._asdict().items() if n not in ("step", "groups")
    )
    guarded = optadamw.stats_of(optadamw.skip_nonfinite(plain).init(PARAMS))
    assert guarded.grad_norm is None and int(guarded.skipped) == 0


def test_rates_and_norms_are_those_of_the_last_step_taken():
    """0 before the first, and not moved by a refused or accumulating call."""
    tx = optadamw.adamw(
        lambda step: 0.1 / (1 + step),
        weight_decay=0.02,
        accumulate_steps=2,
        skip_nonfinite=True,
        stats="norms",
    )
    params, state = PARAMS, tx.init(PARAMS)
    nan = jax.tree.map(lambda g: g * jnp.nan, GRADS)
    seen = []
    for grads in (GRADS, GRADS, nan, nan, GRADS, GRADS):
        params, state = tx.step(grads, state, params)
        stats = optadamw.stats_of(state)
        seen.append((float(stats.learning_rate), int(stats.fill), int(stats.skipped)))
    rate, half = float(np.float32(0.1)), float(np.float32(0.1) / 2)
    first = [(0, 1, 0), (rate, 0, 0)]
    refused = [(rate, 1, 0), (rate, 0, 1)]
    assert seen == [*first, *refused, (rate, 1, 1), (half, 0, 1)]
    np.testing.assert_allclose(stats.weight_decay, 0.02, rtol=1e-6)


@pytest.mark.parametrize("kernel", ["auto", "xla"])
def test_a_window_whose_weighted_sum_is_above_the_limit_is_counted_as_skipped(kernel):
    """Each gradient and their mean are good; equal weights of 1 give the same mean."""
    tx = optadamw.adamw(0.1, accumulate_steps=2, skip_nonfinite=True, kernel=kernel)
    take = jax.jit(lambda state, params, w: tx.step(GRADS, state, params, weight=w))
    params, state = PARAMS, tx.init(PARAMS)
    for weight in (1e25, 1e25):
        params, state = take(state, params, jnp.float32(weight))
    stats = optadamw.stats_of(state)
    counts = (stats.step, stats.skipped, stats.nonfinite, stats.dropped)
    assert tuple(map(int, counts)) == (0, 1, 0, 0)
    for weight in (1.0, 1.0):
        params, state = take(state, params, jnp.float32(weight))
    stats = optadamw.stats_of(state)
    assert (int(stats.step), int(stats.skipped)) == (1, 1)


def test_the_share_of_clipped_steps():
    tx = optadamw.adamw(0.1, clip_global_norm=1.0, stats=True)
    params, state = PARAMS, tx.init(PARAMS)
    for size in (100.0, 1e-3, 100.0, 1e-3):
        grads = jax.tree.map(lambda g, size=size: g * size, GRADS)
        params, state = tx.step(grads, state, params)
    assert float(optadamw.stats_of(state).clip_fraction) == 0.5


def test_a_clip_after_the_moments_clips_no_gradient():
    adam, clip = optadamw.scale_by_adam(), optadamw.clip_by_global_norm(0.5)
    rate = optadamw.scale_by_learning_rate(0.1)
    after = optadamw.chain(adam, clip, rate)
    both = optadamw.chain(optadamw.clip_by_global_norm(1.0), adam, clip, rate)
    large = jax.tree.map(lambda g: 100 * g, GRADS)
    for tx, clipped, share in ((after, None, 0.0), (both, 1.0, 1.0)):
        _, stats = stats_after_a_step(optadamw.with_stats(tx), large)
        wanted = clipped or norm(large)
        np.testing.assert_allclose(stats.clipped_grad_norm, wanted, rtol=1e-5)
        assert float(stats.clip_fraction) == share


@pytest.mark.parametrize("given", [10.0, np.nan])
def test_groups_leave_the_norm_that_was_given(given):
    chained = optadamw.chain(
        optadamw.clip_by_global_norm(1.0), optadamw.scale_by_learning_rate(0.1)
    )
    guarded = optadamw.skip_nonfinite(chained)
    found = []
    for groups in ({}, {"biases": "bias"}):
        tx = optadamw.with_stats(guarded, groups=groups)
        after, state = tx.step(GRADS, tx.init(PARAMS), PARAMS, grad_norm=given)
        found.append((after, optadamw.stats_of(state)))
    (wanted, plain), (after, stats) = found
    trees.assert_same_bits(after, wanted)
    np.testing.assert_equal(float(stats.grad_norm), float(plain.grad_norm))
    assert int(stats.skipped) == int(plain.skipped) == int(np.isnan(given))
    if stats.skipped == 0:
        biases = stats.groups["biases"].grad_norm
        np.testing.assert_allclose(biases, norm(GRADS["bias"]), rtol=1e-6)


def test_a_given_norm_of_16_bits_does_not_round_those_of_groups():
    chained = optadamw.chain(
        optadamw.clip_by_global_norm(1.0), optadamw.scale_by_learning_rate(0.1)
    )
    tx = optadamw.with_stats(chained, groups={"kernels": "kernel"})
    grads = jax.tree.map(lambda g: g * 6e4, GRADS)
    given = jnp.float16(6e4)
    _, state = tx.step(grads, tx.init(PARAMS), PARAMS, grad_norm=given)
    stats = optadamw.stats_of(state)
    found = stats.groups["kernels"].grad_norm
    np.testing.assert_allclose(found, norm(grads["kernel"]), rtol=1e-6)
    assert float(stats.grad_norm) == float(given)


def test_they_are_found_in_a_chain_of_optax_and_under_jit():
    inner = optadamw.adamw(0.1, stats=True, skip_nonfinite=True)
    tx = optax.chain(optax.identity(), inner)
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    stats = jax.jit(optadamw.stats_of)(state)
    np.testing.assert_allclose(stats.grad_norm, norm(GRADS), rtol=1e-6)
