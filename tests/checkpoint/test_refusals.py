"""Steps, arguments and files that are refused, and what they are told apart by."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.dialects.files import files
from tests.checkpoint.runs import adamw, run
from tests.support import trees

# --- The step ------------------------------------------------------------------------


def test_the_step_is_checked_and_reported():
    params, state = run(adamw(), 3)
    saved = checkpoint.to_portable(adamw(), state)
    _, report = checkpoint.restore(adamw(), params, saved, expect_step=3)
    assert report.step == 3 and str(report).startswith("Restored step 3.")
    with pytest.raises(
        ValueError, match=r"`expect_step` is 4, and .* has taken 3 steps"
    ):
        checkpoint.restore(adamw(), params, saved, expect_step=4)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"cast": "no"}, "`cast` must be True or False; got 'no' of type str."),
        ({"cast": None}, "`cast` must be True or False; got None"),
        ({"expect_step": True}, "`expect_step` must be a whole number of steps, or No"),
        ({"expect_step": "3"}, "`expect_step` must be a whole number of steps, or Non"),
        ({"expect_step": 3.0}, "`expect_step` must be a whole number of steps, or Non"),
        ({"made_by": 5}, "`made_by` must be the transformation that made the state"),
        ({"tx": 5}, "`tx` must be an Optax gradient transformation; got 5 of type int"),
        (
            {"tx": optax.MultiSteps(optadamw.adamw(0.1), 2)},
            "of type MultiSteps. Pass its gradient_transformation().",
        ),
    ],
)
def test_arguments_of_another_type_are_refused(given, rule):
    params, state = run(adamw(), 3)
    saved = checkpoint.to_portable(adamw(), state)
    with pytest.raises(TypeError) as error:
        checkpoint.restore(**{"tx": adamw(), "params": params, "saved": saved, **given})
    assert rule in str(error.value)


@pytest.mark.parametrize("step", [3, np.int64(3), jnp.int32(3), np.array(3)])
def test_a_step_may_be_any_integer(step):
    params, state = run(adamw(), 3)
    saved = checkpoint.to_portable(adamw(), state)
    _, report = checkpoint.restore(
        adamw(), params, saved, expect_step=step, cast=np.bool_(False)
    )
    assert report.is_whole


def test_a_state_is_saved_with_its_own_transformation(tmp_path):
    """The record describes the rules that made the state: by them `restore` decides."""
    params = {"w": jnp.ones(2)}
    other = optadamw.adamw(1e-3, amsgrad=True)
    path = tmp_path / "run.npz"
    for tx in (other, optax.chain(other)):
        state = optadamw.adamw(1e-3).init(params)
        state = state if tx is other else (state,)
        with pytest.raises(ValueError, match="lacks the buffer `nu_max`, which this"):
            checkpoint.save(path, tx, state, params)
    assert not path.exists()
    checkpoint.save(path, other, other.init(params), params)


def test_two_states_of_one_transformation_are_not_saved(tmp_path):
    tx = adamw()
    params, state = run(tx, 1)
    with pytest.raises(ValueError, match="holds 2 States, and `tx` makes one"):
        checkpoint.save(tmp_path / "x.npz", tx, (state, state), params)
    assert not (tmp_path / "x.npz").exists()
    both = {"a": tx, "b": tx}
    labels = {name: "a" for name in params} | {next(iter(params)): "b"}
    two = optax.multi_transform(both, labels)
    checkpoint.save(tmp_path / "x.npz", two, two.init(params), params)


# --- What cannot be read -------------------------------------------------------------


def _batched() -> Any:
    params = {"w": jnp.ones((2, 3))}
    return jax.vmap(adamw().init)(params)


UNREADABLE = {
    "a path": (lambda: "run.npz", "Use load"),
    "parameters": (lambda: {"w": jnp.ones(2)}, "holds no State of this library"),
    "another state": (
        lambda: optax.adamw(1e-3).init(jnp.ones(2)),
        "holds no State of this library; got tuple",
    ),
    "without a record": (
        lambda: {"step": np.int32(0), "mu/w": np.ones(2)},
        "has no entry 'optadamw.json'",
    ),
    "a member of a sweep": (_batched, r"vmap take the members one by one"),
}


@pytest.mark.parametrize(("make", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_saved_state_is_refused(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        checkpoint.restore(adamw(), {"w": jnp.ones(2)}, make())


def test_bad_arguments_are_refused():
    params, state = run(adamw(), 1)
    saved = checkpoint.to_portable(adamw(), state)
    for arguments, words in (
        ({"partial_window": "maybe"}, "`partial_window` must be 'refuse', 'keep'"),
        ({"afresh": "mu"}, "`afresh` must be a tuple"),
        ({"afresh": ("moments",)}, r"`afresh` must be made of fields.*'moments'"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            checkpoint.restore(adamw(), params, saved, **arguments)


@pytest.mark.parametrize("path", [5, None, b"run.npz", adamw()], ids=type)
@pytest.mark.parametrize("call", ["save", "load", "read", "write"])
def test_what_is_no_path_is_refused(call, path):
    calls = {
        "save": lambda: checkpoint.save(path, adamw(), None),
        "load": lambda: checkpoint.load(path),
        "read": lambda: files.read(path),
        "write": lambda: files.write(path, {}),
    }
    words = (
        rf"`path` must be a str or an os.PathLike of a str; got {re.escape(repr(path))}"
    )
    with pytest.raises(TypeError, match=words):
        calls[call]()


def test_what_cannot_be_saved_is_refused():
    tx, params = adamw(), {"w": jnp.ones(2)}
    state = tx.init(params)
    with pytest.raises(
        ValueError,
        match=r"Leaf '\w+': its value is not known while a function is traced",
    ):
        jax.jit(lambda s: checkpoint.to_portable(tx, s) and 0)(state)
    with pytest.raises(TypeError, match=r"Leaf 'nu/w'.*got str"):
        checkpoint.to_portable(tx, state._replace(nu={"w": "text"}))
    with pytest.raises(TypeError, match=r"Leaf 'nu/w'.*jax.random.key_data"):
        checkpoint.to_portable(tx, state._replace(nu={"w": jax.random.key(0)}))
    masked = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    with pytest.raises(TypeError, match=r"Leaf 'nu/w'.*masked array"):
        checkpoint.to_portable(tx, state._replace(nu={"w": masked}))
    with pytest.raises(ValueError, match="Two leaves are called 'mu/a/b'"):
        clash = {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}
        checkpoint.to_portable(tx, tx.init(clash))


def test_a_state_in_memory_is_restored_and_its_meaning_asked_for():
    params, state = run(adamw(), 2)
    new = adamw(ema_decay=0.9)
    _, report = checkpoint.restore(new, params, state)
    assert re.search(r"not checked.*made_by=", str(report))
    restored, report = checkpoint.restore(new, params, state, made_by=adamw())
    trees.assert_same_bits(restored.mu, state.mu)
    assert "not checked" not in str(report)
    assert restored.mu["kernel"] is not state.mu["kernel"]
    with pytest.raises(ValueError, match="`mu` was saved as"):
        checkpoint.restore(adamw(maximize=True), params, state, made_by=adamw())


def test_injected_hyperparameters_are_state_and_say_so():
    old, new = (optax.inject_hyperparams(optadamw.adamw)(rate) for rate in (0.25, 0.5))
    params, state = run(old, 2)
    saved = checkpoint.to_portable(optadamw.adamw(0.25), state)
    restored, report = checkpoint.restore(new, params, saved, inner=optadamw.adamw(0.5))
    assert float(restored.hyperparams["learning_rate"]) == 0.25
    assert "around/hyperparams/learning_rate is 0.25 as saved, not 0.5" in str(report)


def test_counters_are_found_by_name():
    """A later version may have more counters, in another order."""
    tx = adamw(skip_nonfinite=True)
    params, state = run(tx, 2)
    state = state._replace(events=jnp.arange(state.events.size, dtype=jnp.int32))
    saved = checkpoint.opened(checkpoint.to_portable(tx, state))
    names = saved.meaning[""]["events"]
    shuffled = ["novel", *reversed(names)]
    meaning = {"": {**saved.meaning[""], "events": shuffled}}
    events = np.asarray([7, *range(len(names) - 1, -1, -1)], np.int32)
    arrays = {**saved.arrays, "events": events}
    other = checkpoint.Saved(arrays, saved.fields, meaning)
    restored, report = checkpoint.restore(tx, params, other)
    trees.assert_same_bits(restored.events, state.events)
    assert "counters that this version does not have: novel" in str(report)
