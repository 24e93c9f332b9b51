"""States beside one another, and beside states that are not of this library."""

import io
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint
from tests.support import trees

PARAMS = {"a": jnp.ones(2), "b": jnp.ones(2)}
DOWN, UP = optadamw.adamw(0.1), optadamw.adamw(0.1, maximize=True)


def by_label(first, second):
    """Labels that JAX sorts as numbers: as text, 10 comes before 2."""
    return optax.multi_transform({2: first, 10: second}, {"a": 2, "b": 10})


def by_place(first, second):
    """A chain whose States are at the places 2 and 10."""
    parts = [optax.identity()] * 11
    return optax.chain(*parts[:2], first, *parts[3:10], second)


def stepped(tx):
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[1]


def through_a_file(tx, state):
    file = io.BytesIO()
    np.savez(file, **checkpoint.to_portable(tx, state))
    file.seek(0)
    return np.load(file)


@pytest.mark.parametrize("build", [by_label, by_place])
@pytest.mark.parametrize("form", ["file", "memory"])
def test_states_are_told_apart_by_their_order_in_jax(build, form):
    tx, other = build(UP, DOWN), build(DOWN, UP)
    state = stepped(tx)
    saved = through_a_file(tx, state) if form == "file" else state
    made_by = None if form == "file" else tx
    restored, report = checkpoint.restore(tx, PARAMS, saved, made_by=made_by)
    assert report.is_whole
    trees.assert_same_bits(restored, state)
    with pytest.raises(ValueError, match="maximize"):
        checkpoint.restore(other, PARAMS, saved, made_by=made_by)


def test_dicts_of_orbax_are_told_apart_by_the_order_of_the_states():
    """Orbax makes dicts of a chain, whose keys are text."""
    tx = by_place(UP, DOWN)
    state = stepped(tx)
    saved = {str(i): part for i, part in enumerate(state)}
    assert checkpoint.restore(tx, PARAMS, saved, made_by=tx)[1].is_whole
    with pytest.raises(ValueError, match="maximize"):
        checkpoint.restore(by_place(DOWN, UP), PARAMS, saved, made_by=tx)


def test_states_of_other_buffers_are_told_apart_by_their_labels():
    tx = by_label(optadamw.adamw(0.1, ema_decay=0.9), DOWN)
    state = stepped(tx)
    restored, _ = checkpoint.restore(tx, PARAMS, through_a_file(tx, state))
    trees.assert_same_bits(restored, state)


def test_a_typed_key_beside_the_state_starts_afresh():
    saved = checkpoint.to_portable(DOWN, stepped(DOWN))
    tx = optax.chain(DOWN, optax.add_noise(0.01, 0.5, jax.random.key(0)))
    state, report = checkpoint.restore(tx, PARAMS, saved)
    assert int(state[0].step) == 1
    assert any("rng_key" in name for name in report.fresh)
    tx.update(PARAMS, state, PARAMS)


def counting(key):
    """A transformation of a user's own, whose state is a dict."""
    return optax.GradientTransformation(
        lambda params: {key: jnp.zeros((), jnp.int32)},
        lambda updates, state, params=None: (updates, {key: state[key] + 1}),
    )


def test_a_counter_called_step_is_no_state_of_ours():
    """It was taken for one, and then no meaning was compared."""
    params = {"w": jnp.ones(3)}
    up, down = (
        optax.chain(counting("step"), optadamw.adamw(1e-2, maximize=maximize))
        for maximize in (True, False)
    )
    _, state = up.update(params, up.init(params), params)
    saved = checkpoint.to_portable(up, state, params)
    assert "around/0/step" in saved
    restored, report = checkpoint.restore(up, params, saved)
    trees.assert_same_bits(restored, state)
    assert report.is_whole
    with pytest.raises(ValueError, match="`mu` was saved as"):
        checkpoint.restore(down, params, saved)


@pytest.mark.parametrize(
    "params",
    [
        {"dense": jnp.ones((2, 3)), "quantizer": {"step": jnp.ones(3)}},
        {"dense": {"mu": jnp.ones((2, 3)), "step": [jnp.ones(3)]}},
        {"step": jnp.ones(())},
    ],
)
def test_parameters_called_step_in_the_state_of_optax(params):
    tx = optax.chain(optax.trace(0.9), optadamw.adamw(1e-3))
    _, state = tx.update(params, tx.init(params), params)
    saved = checkpoint.to_portable(tx, state, params)
    restored, report = checkpoint.restore(tx, params, saved)
    trees.assert_same_bits(restored, state)
    assert report.is_whole
    alone = optadamw.adamw(1e-3)
    saved = checkpoint.to_portable(alone, alone.init(params), params)
    _, report = checkpoint.restore(tx, params, saved)
    assert not [name for name in report.fresh if name.startswith("mu")]


def test_a_counter_in_the_dicts_of_orbax_and_in_older_files():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    tx = optax.chain(counting("step"), optadamw.adamw(0.1, maximize=True))
    _, state = tx.update(params, tx.init(params), params)
    dicts = [state[0], {k: v for k, v in state[1]._asdict().items() if v is not None}]
    restored, report = checkpoint.restore(tx, params, dicts, made_by=tx)
    trees.assert_same_bits(restored, state)
    assert report.is_whole
    # Beside dicts of all fields, other fields of those names are none of a State.
    dicts = [{"step": jnp.int32(4), "weight": jnp.ones(3)}, state[1]._asdict()]
    other = optax.chain(optax.trace(0.9), optadamw.adamw(0.1, maximize=True))
    _, report = checkpoint.restore(other, params, dicts)
    assert "mu/w" in report.kept
    saved = checkpoint.opened(checkpoint.to_portable(tx, state, params))

    def older(name):
        if name.startswith(("around/", "params/")):
            return name.replace("around/", "states/")
        return f"states/1/{name}"

    before = replace(
        saved,
        arrays={older(name): array for name, array in saved.arrays.items()},
        fields={"states/0": ("step",), "states/1": saved.fields[""]},
        **{"meaning": {}, "layouts": {}},
    )
    ahead = {n: x + 6 if n == "states/0/step" else x for n, x in before.arrays.items()}
    for form in (before, replace(before, arrays=ahead)):
        restored, report = checkpoint.restore(tx, params, form, expect_step=1)
        assert report.is_whole
    trees.assert_same_bits(restored[1], state[1])
    trees.assert_same_bits(checkpoint.params_of(before, params), params)


def test_a_part_of_a_chain_may_be_called_swapped():
    """A `Swapped`, in the nested dicts of Orbax, has one field of this name."""
    tx = optax.named_chain(("swapped", DOWN), ("main", UP))
    state = tx.init(PARAMS)
    dicts = {name: part._asdict() for name, part in state.items()}
    assert checkpoint.restore(tx, PARAMS, dicts, made_by=tx)[1].is_whole
    with pytest.raises(ValueError, match="is a Swapped"):
        checkpoint.restore(DOWN, PARAMS, {"swapped": dicts["swapped"]}, made_by=DOWN)
