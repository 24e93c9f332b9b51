"""Everything at once, in every mode of JAX: scan, vmap, donation, x64, a long run."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw.control.counters import EVENTS
from tests.support import control_cases, control_comparison, trees
from tests.support.compilations import Compilations
from tests.support.control_cases import Recipe, Setup
from tests.support.control_oracle import Control, Dynamic, Spikes

MOST = 2**31 - 1
CALLS = 12
BAD_AT = (1, 4, 5)
"""The first window keeps two micro-batches, the second one."""

KINDS: trees.Kinds = {
    "kernel": (jnp.float32, (4, 5)),
    "bias": (jnp.bfloat16, (6,)),
    "phase": (jnp.complex64, (2,)),
}

EVERYTHING = optadamw.adamw(
    0.05,
    weight_decay=0.1,
    amsgrad=True,
    clip_global_norm=0.8,
    ema_decay=0.7,
    accumulate_steps=3,
    skip_spikes={"window": 4, "sigmas": 100.0, "of": ("grad_norm", "loss")},
    max_consecutive=2,
    loss_scale=optadamw.DynamicLossScale(initial=8.0, growth_interval=2),
    stats=True,
)
PARAMS = trees.normal(KINDS, 0)


@functools.cache
def gradients() -> Any:
    """Gradients for a loss scale of 1, stacked; some of them are bad."""
    stacked = trees.normal(KINDS, 1, CALLS)
    kernel = stacked["kernel"].at[jnp.array(BAD_AT), 0, 0].set(jnp.nan)
    return stacked | {"kernel": kernel}


def at(tree: Any, index: Any) -> Any:
    """One entry of a stack."""
    return jax.tree.map(lambda x: x[index], tree)


def call(tx: Any, carry: Any, grads: Any) -> Any:
    """One call, with the gradients of a scaled loss."""
    params, state = carry
    scale = state.loss_scale
    grads = jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads)
    extra = {"weight": jnp.float32(2), "loss": jnp.float32(1)}
    return tx.step(grads, state, params, **extra)


@functools.cache
def compiled() -> Any:
    return jax.jit(functools.partial(call, EVERYTHING))


@functools.cache
def looped() -> list[Any]:
    """The carry after each call of one compiled step."""
    carry, carries = (PARAMS, EVERYTHING.init(PARAMS)), []
    for i in range(CALLS):
        carry = compiled()(carry, at(gradients(), i))
        carries.append(carry)
    return carries


def test_the_run_is_what_it_should_be():
    stats = optadamw.stats_of(looped()[-1][1])
    assert (int(stats.step), int(stats.nonfinite), int(stats.dropped)) == (4, 3, 3)
    assert float(stats.loss_scale) == 2.0  # halved three times, doubled once
    trees.assert_same_types(looped()[-1], (PARAMS, EVERYTHING.init(PARAMS)))


def test_a_scan_over_micro_batches_is_the_loop():
    def body(carry: Any, grads: Any) -> Any:
        carry = call(EVERYTHING, carry, grads)
        return carry, carry

    start = PARAMS, EVERYTHING.init(PARAMS)
    _, carries = jax.jit(functools.partial(jax.lax.scan, body))(start, gradients())
    for i, expected in enumerate(looped()):
        actual = at(carries, i)
        assert trees.largest_difference(actual, expected) <= 1e-6  # a norm is a sum


def test_a_member_of_a_vmap_is_skipped_alone():
    """Each has the decisions it has by itself; the sums in it may be reordered."""
    carry = PARAMS, EVERYTHING.init(PARAMS)
    members = [at(gradients(), i) for i in (0, 1, 2)]
    start = jax.tree.map(lambda x: jnp.stack([x] * 3), carry)
    step = jax.jit(jax.vmap(functools.partial(call, EVERYTHING)))
    batch = jax.tree.map(lambda *g: jnp.stack(g), *members)
    alone = [carry] * 3
    together = start
    for _ in range(4):
        together = step(together, batch)
        alone = [compiled()(c, g) for c, g in zip(alone, members, strict=True)]
    for i, expected in enumerate(alone):
        actual = at(together, i)
        for name in ("step", "events", "loss_scale", "growth", "micro_step", "weight"):
            parts = (getattr(pair[1], name) for pair in (actual, expected))
            trees.assert_same_bits(*parts)
        assert trees.largest_difference(actual, expected) <= 1e-6
    skipped = at(together, 1)
    trees.assert_same_bits(skipped[0], PARAMS)
    assert int(skipped[1].step) == 0 and int(together[1].step[0]) == 1


def test_update_and_apply_is_step_bit_for_bit():
    """Of float32 parameters alone: below, a sum may miss (ideas/design.md, Updates)."""
    params = trees.normal(trees.FLOATS, 0)
    tx = optadamw.adamw(
        0.05, accumulate_steps=2, skip_nonfinite=True, ema_decay=0.7, amsgrad=True
    )
    update, step = jax.jit(tx.update), jax.jit(tx.step)
    stepped = updated = params, tx.init(params)
    for i in range(6):
        grads = trees.normal(trees.FLOATS, 10 + i)
        if i == 2:
            grads["bias"] = grads["bias"].at[0].set(jnp.inf)
        stepped = step(grads, stepped[1], stepped[0])
        updates, state = update(grads, updated[1], updated[0])
        updated = optax.apply_updates(updated[0], updates), state
        trees.assert_same_bits(updated, stepped)
    assert int(state.step) == 3


def test_it_runs_in_place_and_compiles_once_in_a_thousand_calls():
    """Donated, with faults in a tenth of the calls (E4, C15)."""
    params = jax.tree.map(lambda p: jnp.array(p, copy=True), PARAMS)
    state = EVERYTHING.init(params)
    types = trees.types_of((params, state))
    extra = {"weight": jnp.float32(2), "loss": jnp.float32(1)}
    good = at(gradients(), 0)
    bad = at(gradients(), 1)
    used = []
    with Compilations() as compilations:
        for i in range(1000):
            grads = bad if i % 10 == 0 else good
            given = jax.tree.leaves((params, state))
            params, state = EVERYTHING.jit_step(grads, state, params, **extra)
            if i < 3:
                used += given
    assert compilations.count == 1
    assert trees.types_of((params, state)) == types
    assert all(array.is_deleted() for array in used)
    assert int(optadamw.stats_of(state).nonfinite) == 100


def test_donation_changes_no_bit():
    carry = jax.tree.map(lambda x: jnp.array(x, copy=True), looped()[-1])
    grads = at(gradients(), 0)
    expected = compiled()(looped()[-1], grads)
    donating = jax.jit(functools.partial(call, EVERYTHING), donate_argnums=0)
    trees.assert_same_bits(donating(carry, grads), expected)


def test_no_two_leaves_share_memory_at_the_start():
    leaves = jax.tree.leaves((PARAMS, EVERYTHING.init(PARAMS)))
    places = [x.unsafe_buffer_pointer() for x in leaves if x.size]
    assert len(set(places)) == len(places)


# --- Counters ------------------------------------------------------------------------


def near_the_end(state: Any) -> Any:
    last = jnp.int32(MOST - 2)
    kept = ("stalled", "seen_grad_norm", "seen_loss")
    events = [
        e if n in kept else last for n, e in zip(EVENTS, state.events, strict=True)
    ]
    return state._replace(step=last, growth=last, events=jnp.stack(events))


@pytest.mark.parametrize("bad", [False, True])
def test_counters_saturate(bad):
    """F9: six windows from 2**31 - 3 on."""
    carry = PARAMS, near_the_end(EVERYTHING.init(PARAMS))
    grads = at(gradients(), int(bad))
    for _ in range(18):
        before, carry = carry, compiled()(carry, grads)
    params, state = carry
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state.ema)))
    events = dict(zip(EVENTS, np.asarray(state.events).tolist(), strict=True))
    moved = ("nonfinite", "skipped", "dropped") if bad else ()
    assert all(events[name] == MOST for name in moved)
    assert min(events.values()) >= 0
    assert events["consecutive"] == (MOST if bad else 0)
    assert int(state.step) == (MOST - 2 if bad else MOST)
    assert 0 <= int(state.growth) and 2.0**-14 <= float(state.loss_scale) <= 2.0**24
    if not bad:
        assert np.any(params["kernel"] != before[0]["kernel"])


def test_a_window_without_end_counts_to_the_end():
    tx = optadamw.adamw(0.1, accumulate_steps=MOST)
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    state = state._replace(micro_step=jnp.int32(MOST - 2), weight=jnp.float32(1))
    step, seen = jax.jit(tx.step), []
    for _ in range(4):
        params, state = step(params, state, params)
        seen.append(int(state.micro_step))
    assert min(seen) >= 0 and np.isfinite(params["w"]).all()


# --- x64 -----------------------------------------------------------------------------


def test_types_do_not_depend_on_x64():
    expected = trees.types_of(EVERYTHING.init(PARAMS))
    with jax.enable_x64(True):
        params = trees.normal(KINDS, 0)
        state = EVERYTHING.init(params)
        assert trees.types_of(state) == expected
        after = jax.eval_shape(
            functools.partial(call, EVERYTHING), (params, state), params
        )
        trees.assert_same_types(tuple(after), (params, state))


FLOAT64 = Control(
    control_cases.INNER["clipped"][0],
    every=2,
    guard="drop",
    loss_scale=Dynamic(initial=64.0, growth_interval=2),
    stats="free",
)


@pytest.mark.parametrize("spikes", [None, Spikes(4.0, 4, 3)], ids=["off", "on"])
def test_float64_against_the_oracle(spikes):
    """A norm of 1e20 is nothing there, and one of 1e200 too much."""
    control = dataclasses.replace(FLOAT64, spikes=spikes)
    setup = Setup(control, (np.float64, np.complex128))
    faults = (None, 1e200, None, 1e20, np.nan, None, None, None, np.inf, None)
    recipes = [Recipe(base=i, fault=f, weight=3.0) for i, f in enumerate(faults)]
    calls = [functools.partial(setup.micro, r) for r in recipes]
    with jax.enable_x64(True):
        tx = setup.make()
        advance = control_comparison.compiled(tx)
        end = control_comparison.follow(control, tx, advance, setup.params(), calls)
        assert int(optadamw.stats_of(end[1]).nonfinite) == 3
        assert end[1].accumulator["w"].dtype == np.float64
