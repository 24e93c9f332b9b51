"""A state restored into another configuration: kept, fresh, left over, or refused (F2).

Nothing is silent: each row of the table says what the report must say, or the words in
which the restore is refused and the argument that makes it possible.
"""

from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax
import pytest

import optadamw
from optadamw import checkpoint
from tests.checkpoint.runs import adamw, run
from tests.support import trees
from tests.support.hyperparameters import cooling

CALLS = 4
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


def _fields(names: Any) -> set[str]:
    return {name.split("/")[0] for name in names}


@each_change
def test_a_change_is_carried_out_and_reported_or_refused(change):
    params, state = run(change.old, change.calls)
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
