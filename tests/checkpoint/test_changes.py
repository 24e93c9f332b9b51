"""A state restored into another configuration: kept, fresh, left over, or refused (F2).

Nothing is silent: each row of the table says what the report must say, or the words in
which the restore is refused and the argument that makes it possible.
"""

import re
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint
from tests.support import trees
from tests.support.transformations import cooling

CALLS = 4
adamw = partial(optadamw.adamw, 0.03)
"""With a learning rate, so that the rows show what is changed."""

ACCUMULATOR = ("accumulator", "micro_step", "weight")
GROWING = optadamw.DynamicLossScale(initial=8.0, growth_interval=2)


class Change(NamedTuple):
    """A configuration that saved, one that restores, and what comes of it."""

    name: str
    old: Any
    new: Any
    fresh: tuple[str, ...] = ()
    """The fields that start afresh."""
    left_over: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    """What the printed report must contain."""
    refused: str = ""
    """The words of the error, without `remedy`."""
    remedy: Any = MappingProxyType({})
    """The arguments that a refused restore needs, as its error says."""
    calls: int = CALLS


CHANGES = (
    Change(
        "schedule to constant rate",
        optadamw.adamw(cooling),
        adamw(),
        says=("- scale_by_learning_rate: learning_rate=<function cooling>",),
    ),
    Change(
        "clip removed",
        adamw(clip_global_norm=1.0),
        adamw(),
        says=("- clip_by_global_norm: limit=1.0",),
    ),
    Change("transform in front", adamw(), optax.chain(optax.clip(1.0), adamw())),
    Change(
        "accumulation removed",
        adamw(accumulate_steps=2),
        adamw(),
        left_over=(*ACCUMULATOR, "events"),
    ),
    Change(
        "accumulation added",
        adamw(),
        adamw(accumulate_steps=4),
        fresh=(*ACCUMULATOR, "events"),
        says=("accumulation begins with an empty window",),
    ),
    Change(
        "amsgrad added",
        adamw(),
        adamw(amsgrad=True),
        fresh=("nu_max",),
        says=("nu_max starts at zero and takes the second moment at the next step",),
    ),
    Change("amsgrad removed", adamw(amsgrad=True), adamw(), left_over=("nu_max",)),
    Change(
        "mask changed",
        adamw(mask="kernel*"),
        adamw(mask="bias"),
        says=("where='kernel*'", "where='bias'"),
    ),
    Change(
        "inject_hyperparams",
        adamw(),
        optax.inject_hyperparams(optadamw.adamw)(0.03),
        fresh=("around",),
        says=("not checked", "inner=", "around/count starts at 0, at step 4"),
    ),
    Change(
        "clip value",
        adamw(clip_value=1.0),
        adamw(clip_value=2.0),
        says=("- clip_by_value: limit=1.0", "+ clip_by_value: limit=2.0"),
    ),
    Change(
        "k 4 to 8 at a boundary",
        adamw(accumulate_steps=4),
        adamw(accumulate_steps=8),
        says=("+ accumulation: every=8.0",),
    ),
    Change(
        "mu_dtype",
        adamw(),
        adamw(mu_dtype="bfloat16"),
        refused=r"Leaf 'mu/bias': it was saved as float32, and here it is bfloat16\. "
        "Pass cast=True",
        remedy={"cast": True},
        says=("mu/kernel float32 to bfloat16",),
    ),
    # --- ten more, and then some ---
    Change("constant to schedule", adamw(), optadamw.adamw(cooling)),
    Change(
        "ema added",
        adamw(),
        adamw(ema_decay=0.9),
        fresh=("ema",),
        says=("ema starts as a copy of the parameters that were given",),
    ),
    Change("ema removed", adamw(ema_decay=0.9), adamw(), left_over=("ema",)),
    Change(
        "amsgrad of another kind",
        adamw(amsgrad="raw"),
        adamw(amsgrad="corrected"),
        fresh=("nu_max",),
        left_over=("nu_max",),
        refused=r"`nu_max` was saved as the maximum of the raw second moments; here it "
        r"is the maximum of the corrected second moments\. .*afresh=\('nu_max',\)",
        remedy={"afresh": ("nu_max",)},
    ),
    Change(
        "maximize",
        adamw(),
        adamw(maximize=True),
        fresh=("mu",),
        left_over=("mu",),
        refused=r"`mu` was saved as the mean of the gradients; here it is the mean of "
        r"the negated gradients \(maximize\)\. .*afresh=\('mu',\)",
        remedy={"afresh": ("mu",)},
        says=("mu starts at zero, and bias correction takes it for the mean of 4",),
    ),
    Change(
        "k 4 to 8 inside a window",
        adamw(accumulate_steps=4),
        adamw(accumulate_steps=8),
        refused=r"inside a window, with 3 micro-batches in it: the mean of 4 then, the "
        "mean of 8 now.*partial_window='keep'",
        remedy={"partial_window": "keep"},
        says=("goes on by the new rule",),
        calls=3,
    ),
    Change(
        "mean to sum inside a window",
        optadamw.multi_steps(adamw(), 4),
        optadamw.multi_steps(adamw(), 4, use_grad_mean=False),
        fresh=ACCUMULATOR,
        left_over=ACCUMULATOR,
        refused=r"the mean of 4 then, the sum of 4 now",
        remedy={"partial_window": "drop"},
        says=("the open window, with 3 micro-batches in it, is dropped",),
        calls=3,
    ),
    Change(
        "accumulation removed inside a window",
        adamw(accumulate_steps=4),
        adamw(),
        left_over=(*ACCUMULATOR, "events"),
        refused=r"does not accumulate: their gradients would be lost.*tx\.flush",
        remedy={"partial_window": "drop"},
        says=("is dropped",),
        calls=3,
    ),
    Change(
        "accumulator of another dtype at a boundary",
        adamw(accumulate_steps=2),
        adamw(accumulate_steps=2, accumulator_dtype="bfloat16"),
        fresh=("accumulator",),
        left_over=("accumulator",),
    ),
    Change(
        "guard added",
        adamw(),
        adamw(skip_nonfinite=True),
        fresh=("events",),
        says=("+ guard", "all counters start at zero"),
    ),
    Change(
        "spike window changed",
        optadamw.skip_spikes(adamw(), window=16),
        optadamw.skip_spikes(adamw(), window=32),
        fresh=("history",),
        left_over=("history",),
        says=("the last 16 values of grad_norm, now the last 32",),
    ),
    Change(
        "static loss scale changed",
        adamw(loss_scale=8.0),
        adamw(loss_scale=16.0),
        fresh=("loss_scale",),
        left_over=("loss_scale",),
        says=("loss_scale is 16.0 as given, not 8.0 as saved",),
    ),
    Change(
        "static loss scale to dynamic",
        adamw(loss_scale=16.0),
        adamw(loss_scale=GROWING),
        fresh=("growth", "events"),
    ),
    Change(
        "dynamic loss scale with other bounds",
        adamw(loss_scale=GROWING),
        adamw(loss_scale=optadamw.DynamicLossScale(initial=2.0, maximum=4.0)),
        fresh=("loss_scale",),
        left_over=("loss_scale",),
        says=("is not in [", "starts at its initial value"),
    ),
    Change(
        "statistics with norms",
        adamw(stats=True),
        adamw(stats="norms"),
        fresh=("stats",),
        left_over=("stats",),
        says=("statistics are zero until the next step",),
    ),
    Change("nesterov", adamw(), adamw(nesterov=True), says=("nesterov=True",)),
    Change("eps_mode", adamw(), adamw(eps_mode="hat"), says=("eps_mode='hat'",)),
    Change("beta", adamw(), adamw(b2=0.95), says=("b2=0.999", "b2=0.95")),
    Change(
        "masked by Optax",
        adamw(),
        optax.masked(adamw(), {"kernel": True, "bias": False}),
        left_over=("mu", "nu"),
    ),
    Change(
        "unmasked by Optax",
        optax.masked(adamw(), {"kernel": True, "bias": False}),
        adamw(),
        fresh=("mu", "nu"),
        says=("mu/bias, nu/bias: starting at zero, and bias correction",),
    ),
    Change(
        "another accumulation around it",
        adamw(),
        optax.MultiSteps(adamw(), 2).gradient_transformation(),
        fresh=("around",),
        says=("around/gradient_step starts at 0, at step 4",),
    ),
    Change(
        "moments added",
        optadamw.scale_by_learning_rate(0.1),
        adamw(),
        fresh=("mu", "nu"),
        says=("nu starts at zero, and bias correction",),
    ),
    Change(
        "two States for one",
        adamw(),
        optax.chain(optadamw.scale_by_adam(), optadamw.scale_by_learning_rate(0.1)),
        refused=r"is 1 in what was saved .* and 2 in tx\.",
    ),
)
each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.name)


def _run(tx: Any, calls: int) -> tuple[Any, Any]:
    params = trees.normal(trees.FLOATS, seed=0)
    state = tx.init(params)
    for i in range(calls):
        grads = trees.normal(trees.FLOATS, seed=1 + i)
        params, state = optadamw.step(tx, grads, state, params)
    return params, state


def _fields(names: Any) -> set[str]:
    return {name.split("/")[0] for name in names}


@each_change
def test_a_change_is_carried_out_and_reported_or_refused(change):
    params, state = _run(change.old, change.calls)
    saved = checkpoint.to_portable(change.old, state)
    if change.refused:
        with pytest.raises(ValueError, match=change.refused):
            checkpoint.restore(change.new, params, saved)
        if not change.remedy:
            return
    restored, report = checkpoint.restore(change.new, params, saved, **change.remedy)
    assert _fields(report.fresh) == set(change.fresh)
    assert _fields(report.left_over) == set(change.left_over)
    for text in change.says:
        assert text in str(report), f"{text!r} is not in\n{report}"

    # Every leaf is the saved one, bit for bit, or the fresh one.
    before = checkpoint.opened(saved).arrays
    start = checkpoint.to_portable(change.new, change.new.init(params))
    after = checkpoint.to_portable(change.new, restored)
    assert set(report.kept) | set(report.fresh) == set(after) - {"optadamw.json"}
    assert set(report.kept) | set(report.left_over) >= set(before) - set(report.fresh)
    cast = {name for name, _, _ in report.cast}
    for name in report.kept:
        if name not in cast and name != "events":
            assert after[name].tobytes() == before[name].tobytes(), name
    for name in report.fresh:
        assert after[name].tobytes() == start[name].tobytes(), name

    # And the new transformation goes on from there.
    grads = trees.normal(trees.FLOATS, seed=9)
    jax.jit(partial(optadamw.step, change.new))(grads, restored, params)


def test_the_table_has_the_twenty_changes():
    assert len(CHANGES) >= 20
    assert len({change.name for change in CHANGES}) == len(CHANGES)


# --- Parameters that changed ---------------------------------------------------------

TX = adamw(ema_decay=0.9)


def _saved(params: Any) -> Any:
    state = TX.init(params)
    params, state = TX.step(params, state, params)
    return checkpoint.to_portable(TX, state, params)


OLD = {"enc": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "out": jnp.ones(4)}
NEW = {"stem": OLD["enc"], "out": OLD["out"]}


def test_a_shape_that_changed_is_refused():
    with pytest.raises(
        ValueError,
        match=r"Leaf 'mu/out': it was saved with shape \(4,\), and here it has \(5,\)\."
        r".*rename=",
    ):
        checkpoint.restore(TX, OLD | {"out": jnp.ones(5)}, _saved(OLD))


def test_a_renamed_parameter_is_refused_and_named():
    with pytest.raises(
        ValueError,
        match=r"Leaf 'mu/stem/bias': it was not saved, and 'mu/enc/\w+' has no place "
        r"here.*rename=\{'stem/bias'",
    ):
        checkpoint.restore(TX, NEW, _saved(OLD))


@pytest.mark.parametrize(
    "rename",
    [
        {"stem": "enc"},
        {"stem/kernel": "enc/kernel", "stem/bias": "enc/bias"},
        lambda path: path.replace("stem", "enc"),
    ],
    ids=["subtree", "leaves", "function"],
)
def test_a_rename_map_finds_what_was_renamed(rename):
    saved = _saved(OLD)
    state, report = checkpoint.restore(TX, NEW, saved, rename=rename)
    assert report.is_whole
    assert ("nu/stem/kernel", "nu/enc/kernel") in report.renamed
    assert "nu/stem/bias from nu/enc/bias" in str(report) or "more" in str(report)
    np.testing.assert_array_equal(state.mu["stem"]["kernel"], saved["mu/enc/kernel"])
    params = checkpoint.params_of(saved, NEW, rename=rename)
    np.testing.assert_array_equal(params["stem"]["bias"], saved["params/enc/bias"])


def test_a_renamed_parameter_may_start_afresh():
    state, report = checkpoint.restore(TX, NEW, _saved(OLD), rename={"stem": None})
    assert "mu/stem/bias" in report.fresh and "mu/enc/bias" in report.left_over
    assert not jnp.any(state.mu["stem"]["kernel"])
    np.testing.assert_array_equal(state.ema["stem"]["bias"], NEW["stem"]["bias"])


def test_a_parameter_that_was_added_or_removed_is_reported():
    more = OLD | {"head": jnp.ones(2)}
    _, report = checkpoint.restore(TX, more, _saved(OLD))
    assert set(report.fresh) == {"mu/head", "nu/head", "ema/head"}
    assert "mu/head, nu/head: starting at zero" in str(report)
    _, report = checkpoint.restore(TX, OLD, _saved(more))
    assert set(report.left_over) == {"mu/head", "nu/head", "ema/head"}


REFUSED_RENAMES = {
    "unknown key": ({"stm": "enc"}, r"`rename` speaks of 'stm'.*'stem/"),
    "unknown target": (
        {"stem": "en"},
        r"'mu/stem/bias': `rename` takes it from 'mu/en/",
    ),
    "a list": (["stem"], r"`rename` must be a mapping"),
    "a number": ({"stem": 3}, r"`rename` must be a mapping.*got 3"),
}


@pytest.mark.parametrize(
    ("rename", "words"), REFUSED_RENAMES.values(), ids=REFUSED_RENAMES
)
def test_a_bad_rename_is_refused(rename, words):
    with pytest.raises((ValueError, TypeError), match=words):
        checkpoint.restore(TX, NEW, _saved(OLD), rename=rename)


@pytest.mark.parametrize(
    ("like", "words"),
    [
        (OLD | {"head": jnp.ones(2)}, "'params/head' was not saved"),
        ({"out": OLD["out"]}, "'params/enc/bias' was saved and is no parameter"),
        (OLD | {"out": jnp.ones(5)}, r"shape \(4,\), and here it has \(5,\)"),
        (OLD | {"out": jnp.ones(4, jnp.float16)}, "Pass cast=True"),
    ],
    ids=["added", "removed", "shape", "dtype"],
)
def test_parameters_that_changed_are_refused(like, words):
    with pytest.raises(ValueError, match=words):
        checkpoint.params_of(_saved(OLD), like)


def test_parameters_that_were_not_saved_are_refused():
    with pytest.raises(ValueError, match="holds no parameters"):
        checkpoint.params_of(checkpoint.to_portable(TX, TX.init(OLD)), OLD)


# --- Dtypes --------------------------------------------------------------------------


def test_a_cast_rounds_and_stays_finite():
    old, new = adamw(), adamw(mu_dtype="float16")
    params = {"w": jnp.zeros(4)}
    mu = jnp.array([1e30, -1e30, 1.0002, jnp.inf])
    state = old.init(params)._replace(mu={"w": mu})
    saved = checkpoint.to_portable(old, state)
    state, report = checkpoint.restore(new, params, saved, cast=True)
    expected = [65504.0, -65504.0, np.float16(1.0002), np.inf]
    assert state.mu["w"].dtype == jnp.float16
    assert state.mu["w"].tolist() == expected
    assert report.cast == (("mu/w", "float32", "float16"),)


def test_another_kind_of_number_is_refused_even_where_casts_are_allowed():
    tx = adamw()
    saved = checkpoint.to_portable(tx, tx.init({"w": jnp.zeros(2, jnp.complex64)}))
    with pytest.raises(ValueError, match="saved as complex64, and here it is float32"):
        checkpoint.restore(tx, {"w": jnp.zeros(2)}, saved, cast=True)


# --- The step ------------------------------------------------------------------------


def test_the_step_is_checked_and_reported():
    params, state = _run(adamw(), 3)
    saved = checkpoint.to_portable(adamw(), state)
    _, report = checkpoint.restore(adamw(), params, saved, expect_step=3)
    assert report.step == 3 and str(report).startswith("Restored step 3.")
    with pytest.raises(
        ValueError, match=r"`expect_step` is 4, and .* has taken 3 steps"
    ):
        checkpoint.restore(adamw(), params, saved, expect_step=4)


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
    params, state = _run(adamw(), 1)
    saved = checkpoint.to_portable(adamw(), state)
    for arguments, words in (
        ({"partial_window": "maybe"}, "`partial_window` must be 'refuse', 'keep'"),
        ({"afresh": "mu"}, "`afresh` must be a tuple"),
        ({"afresh": ("moments",)}, r"`afresh` must be made of fields.*'moments'"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            checkpoint.restore(adamw(), params, saved, **arguments)


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
    with pytest.raises(ValueError, match="Two leaves are called 'mu/a/b'"):
        clash = {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}
        checkpoint.to_portable(tx, tx.init(clash))


def test_a_state_in_memory_is_restored_and_its_meaning_asked_for():
    params, state = _run(adamw(), 2)
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
    params, state = _run(old, 2)
    saved = checkpoint.to_portable(optadamw.adamw(0.25), state)
    restored, report = checkpoint.restore(new, params, saved, inner=optadamw.adamw(0.5))
    assert float(restored.hyperparams["learning_rate"]) == 0.25
    assert "around/hyperparams/learning_rate is 0.25 as saved, not 0.5" in str(report)


def test_counters_are_found_by_name():
    """As a later version would, which has more of them in another order."""
    tx = adamw(skip_nonfinite=True)
    params, state = _run(tx, 2)
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
    assert "counters that are no more: novel" in str(report)
