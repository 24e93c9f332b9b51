"""The average of the parameters: swapped there and back, finalized, never confused."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import optadamw
from optadamw import checkpoint
from tests.support import trees

TX = optadamw.adamw(0.1, ema_decay=0.5, skip_nonfinite=True, accumulate_steps=2)


class Run(NamedTuple):
    params: Any
    state: Any


@functools.cache
def trained() -> Run:
    """Two windows of two micro-batches."""
    params = trees.normal(trees.MIXED, 0)
    state = TX.init(params)
    for i in range(4):
        params, state = TX.step(trees.normal(trees.MIXED, 1 + i), state, params)
    return Run(params, state)


def test_swapping_twice_is_as_if_nothing_happened():
    averaged, swapped = optadamw.swap_ema(trained().state, trained().params)
    trees.assert_same_bits(averaged, optadamw.ema_of(trained().state))
    params, state = optadamw.swap_ema(swapped, averaged)
    trees.assert_same_bits((params, state), (trained().params, trained().state))


def test_swapping_copies_nothing_and_works_under_jit():
    averaged, swapped = optadamw.swap_ema(trained().state, trained().params)
    assert averaged["kernel"] is trained().state.ema["kernel"]
    assert (
        optadamw.swap_ema(swapped, averaged)[0]["kernel"] is trained().params["kernel"]
    )
    there = jax.jit(optadamw.swap_ema)(trained().state, trained().params)
    back = jax.jit(optadamw.swap_ema)(there[1], there[0])
    trees.assert_same_bits(back, (trained().params, trained().state))


@pytest.mark.parametrize("method", ["step", "update", "jit_step", "flush"])
def test_no_step_is_taken_in_between(method):
    averaged, swapped = optadamw.swap_ema(trained().state, trained().params)
    arguments = (
        (swapped, averaged)
        if method == "flush"
        else (
            averaged,
            swapped,
            averaged,
        )
    )
    with pytest.raises(TypeError, match=r"`state` must be the State.* got Swapped"):
        getattr(TX, method)(*arguments)


@pytest.mark.parametrize("is_inside", [False, True])
def test_a_swapped_state_is_not_restored_from_nested_dicts(is_inside):
    """Flax, and Orbax without a target, make dicts of a state."""
    averaged, swapped = optadamw.swap_ema(trained().state, trained().params)
    saved = serialization.to_state_dict(swapped)
    saved = {"0": saved, "1": {}} if is_inside else saved
    with pytest.raises(ValueError, match="is a Swapped, in which the average"):
        checkpoint.restore(TX, averaged, saved)
    saved = serialization.to_state_dict(optadamw.swap_ema(swapped, averaged)[1])
    restored, _ = checkpoint.restore(TX, trained().params, saved)
    trees.assert_same_bits(restored, trained().state)


def test_the_average_is_not_sought_where_the_parameters_are():
    """In a Swapped the field `ema` holds the trained parameters."""
    averaged, swapped = optadamw.swap_ema(trained().state, trained().params)
    for read in (optadamw.ema_of, lambda s: optadamw.finalize(s, averaged)):
        try:
            found = read(swapped)
        except (TypeError, ValueError):
            continue
        trees.assert_same_bits(found, averaged)


def test_finalize_is_the_average_in_the_parameters_dtypes():
    final = optadamw.finalize(trained().state, trained().params)
    trees.assert_same_bits(
        final, optadamw.ema_of(trained().state, like=trained().params)
    )
    trees.assert_same_types(final, trained().params)
    held = [
        x.unsafe_buffer_pointer() for x in jax.tree.leaves(trained().state) if x.size
    ]
    mine = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(final) if x.size]
    assert not set(held) & set(mine)


def test_finalize_refuses_before_the_first_step():
    state = TX.init(trained().params)
    with pytest.raises(ValueError, match=r"`state\.step` is 0: no step was taken"):
        optadamw.finalize(state, trained().params)
    # Nor do gradients that made no step count.
    nan = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), trained().params)
    _, state = TX.step(nan, state, trained().params)
    with pytest.raises(ValueError, match="no step was taken"):
        optadamw.finalize(state, trained().params)
    with pytest.raises(TypeError, match="Call finalize outside jit"):
        jax.jit(optadamw.finalize)(trained().state, trained().params)


def test_what_is_not_there_is_not_swapped():
    plain = optadamw.adamw(0.1)
    with pytest.raises(ValueError, match="holds no average of the parameters"):
        optadamw.swap_ema(plain.init(trained().params), trained().params)
    with pytest.raises(ValueError, match="holds no average of the parameters"):
        optadamw.finalize(plain.init(trained().params), trained().params)
    with pytest.raises(TypeError, match="must be a State, or what swap_ema returned"):
        optadamw.swap_ema((trained().state,), trained().params)
    with pytest.raises(ValueError, match="The structure of `params`"):
        optadamw.swap_ema(trained().state, {"kernel": trained().params["kernel"]})


@pytest.mark.parametrize("overwrite", [None, 2])
def test_the_average_moves_with_optimizer_steps_alone(overwrite):
    """N17: Keras moves it at every micro-batch. And nothing moves it when skipped."""
    tx = optadamw.adamw(
        0.1,
        ema_decay=0.5,
        ema_overwrite_every=overwrite,
        accumulate_steps=3,
        skip_nonfinite=True,
    )
    params = {"w": jnp.ones(3)}
    state, step, moves = tx.init(params), jax.jit(tx.step), []
    for i in range(12):
        bad = 3 <= i < 6
        before = state.ema, params
        grads = {"w": jnp.full(3, jnp.nan if bad else 1.0 + i)}
        params, state = step(grads, state, params)
        moves.append(not np.array_equal(state.ema["w"], before[0]["w"]))
        if moves[-1]:
            plain = 0.5 * np.asarray(before[0]["w"])
            written = params["w"] if overwrite is None or int(state.step) % 2 else None
            if written is None:  # the average itself was written
                np.testing.assert_array_equal(params["w"], state.ema["w"])
            else:
                np.testing.assert_allclose(state.ema["w"], plain + 0.5 * written)
    assert np.flatnonzero(moves).tolist() == [2, 8, 11]


def test_an_array_of_the_most_steps_never_overwrites():
    """A guard judges what a trace hides; an array is judged when it is given."""
    every = jnp.asarray(2**31 - 1, jnp.int32)
    options = {"ema_decay": 0.5, "skip_nonfinite": True}
    params = {"w": jnp.ones(3)}
    with_it = optadamw.adamw(0.1, ema_overwrite_every=every, **options)
    without = optadamw.adamw(0.1, **options)
    taken, state = with_it.step(params, with_it.init(params), params)
    expected, _ = without.step(params, without.init(params), params)
    assert int(optadamw.stats_of(state).skipped) == 0
    assert np.array_equal(taken["w"], expected["w"])


@pytest.mark.parametrize("first", [1, 4])
def test_an_average_begins_late_as_a_copy(first):
    """PyTorch's `AveragedModel` begins so: docs/reference/dialects/torch.md."""
    tx = optadamw.adamw(0.1, ema_decay=lambda step: jnp.where(step < first, 0.0, 0.9))
    params = {"w": jnp.ones(2)}
    state, step = tx.init(params), jax.jit(tx.step)
    expected = None
    for t in range(1, 8):
        params, state = step({"w": jnp.full(2, 0.5 + t)}, state, params)
        new = np.asarray(params["w"], np.float64)
        if t >= first:
            expected = new if expected is None else 0.9 * expected + 0.1 * new
            found = optadamw.ema_of(state)["w"]
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_like_has_arrays():
    params = {"w": jnp.ones(2), "b": jnp.ones(())}
    state = TX.init(params)
    shapes = jax.eval_shape(lambda: params)
    trees.assert_same_types(optadamw.ema_of(state, like=shapes), params)
    with pytest.raises(TypeError, match=r"Leaf 'b': `like` must have an array; got 1"):
        optadamw.ema_of(state, like=params | {"b": 1.0})
