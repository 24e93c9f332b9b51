"""The decision whether a call becomes a step, in float64 and in the design's order.

    unscale -> finite check -> accumulate -> clip -> moments -> direction -> decay
      -> learning rate -> commit -> average of the committed parameter

`oracle` computes everything from the clip on. Here stands what comes before, and what
is counted after: written from the documentation, plain Python on plain numbers, sharing
nothing with the library.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from tests.support import arithmetic, floats, oracle

Arrays = Mapping[str, np.ndarray | None]

MOST = 2**31 - 1
"""Counters are int32 and stay there."""

GIVEN_UP = -1.0
"""The weight of a window that was aborted."""

COUNTERS = (
    "skipped",
    "nonfinite",
    "spikes",
    "dropped",
    "consecutive",
    "stalled",
    "clipped",
    "seen_grad_norm",
    "seen_loss",
    "illegal",
)


class AmbiguousError(Exception):
    """A decision that float32 may take otherwise: the test chose its numbers badly."""


# --- What is configured --------------------------------------------------------------


class Spikes(NamedTuple):
    """`skip_spikes`: a value beyond mean + sigmas * sigma of the last ones is bad."""

    sigmas: float
    window: int
    min_history: int
    of: tuple[str, ...] = ("grad_norm",)

    def limit(self, values: np.ndarray, seen: int) -> float:
        """Return the largest value that is no spike."""
        if seen < self.min_history:
            return math.inf
        known = values[: min(seen, self.window)]
        sigma = max(known.std(), 1e-6 * abs(known.mean()))
        if sigma == 0:
            return math.inf
        return float(known.mean() + self.sigmas * sigma)


class Dynamic(NamedTuple):
    """`DynamicLossScale`, by the formulas in its docstring."""

    initial: float = 2.0**15
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    minimum: float = 2.0**-14
    maximum: float = 2.0**24
    counts: Literal["steps", "gradients"] = "steps"

    def after(
        self, scale: float, growth: int, *, bad: bool, good: bool
    ) -> tuple[float, int]:
        """Return the next scale, and the good steps since it last changed."""
        if bad:
            return max(self.minimum, _float32(scale * self.backoff_factor)), 0
        if not good:
            return scale, growth
        if growth + 1 < self.growth_interval:
            return scale, growth + 1
        return min(self.maximum, _float32(scale * self.growth_factor)), 0


@dataclasses.dataclass(frozen=True)
class Control:
    """Everything that `optadamw.adamw` may be asked for around its chain."""

    adamw: oracle.AdamW
    every: int | oracle.Table | None = None
    mean: bool = True
    accumulator_dtype: Any = None
    guard: Literal["drop", "wait", "abort"] | None = None
    max_consecutive: int | None = None
    spikes: Spikes | None = None
    loss_scale: float | Dynamic | None = None
    stats: Literal["free", "norms"] | None = None

    @property
    def policy(self) -> Literal["drop", "wait", "abort"] | None:
        """Return the guard's; a dynamic loss scale brings a guard."""
        if self.guard is None and isinstance(self.loss_scale, Dynamic):
            return "drop"
        return self.guard

    @property
    def accumulates(self) -> bool:
        return self.every is not None

    @property
    def counts(self) -> bool:
        """Whether there are counters."""
        return bool(self.policy or self.accumulates or self.stats)

    def size(self, step: int) -> int:
        """Return the micro-batches of the window that leads to the next step."""
        return int(self.every(step) if callable(self.every) else self.every)


# --- What is carried, and what a call gives ------------------------------------------


class State(NamedTuple):
    """The small fields; buffers are judged one call at a time and not carried."""

    step: int
    micro_step: int | None
    weight: float | None
    loss_scale: float | None
    growth: int | None
    events: dict[str, int] | None
    history: dict[str, np.ndarray] | None


class Call(NamedTuple):
    """The effect of one call; `clipped` is counted where the gradient is known."""

    state: State
    go: bool
    """Whether an optimizer step is taken."""
    total: float = 1.0
    """What the window weighs, this micro-batch in it."""
    share: float = 1.0
    """What the micro-batch counts for in its window."""
    first: bool = False
    """Whether it opens a window."""


class Verdict(NamedTuple):
    """The judgement of one gradient norm or loss, and the spike guard's limit."""

    value: float
    nonfinite: bool
    spike: bool
    limit: float

    @property
    def bad(self) -> bool:
        return self.nonfinite or self.spike


def init(control: Control) -> State:
    """Return the small fields before the first call."""
    scale, is_dynamic = control.loss_scale, isinstance(control.loss_scale, Dynamic)
    watched = control.spikes.of if control.spikes else ()
    return State(
        step=0,
        micro_step=0 if control.accumulates else None,
        weight=0.0 if control.accumulates else None,
        loss_scale=scale.initial if is_dynamic else scale,
        growth=0 if is_dynamic else None,
        events=dict.fromkeys(COUNTERS, 0) if control.counts else None,
        history={name: np.zeros(control.spikes.window) for name in watched} or None,
    )


# --- One call ------------------------------------------------------------------------


def call(
    control: Control,
    state: State,
    grads: Arrays,
    *,
    weight: float | None = None,
    loss: float | None = None,
    accumulated: Arrays | None = None,
) -> Call:
    """Return what `step(grads, state, params, weight=weight, loss=loss)` must decide.

    `accumulated` is the window's sum with this micro-batch in it, as it is kept: what
    "abort" judges at its end.
    """
    scale = 1.0 if state.loss_scale is None else state.loss_scale
    norm = _norm(grads)  # as they come, before the loss scale is divided out
    verdicts = {}
    # Of a micro-batch of weight 0, as of padding alone, nothing is judged.
    is_judged = not control.accumulates or weight is None or weight > 0
    if control.policy and loss is not None and is_judged:
        verdicts["loss"] = _judge(control, state, "loss", loss, abs(loss) < math.inf)
    bad = any(v.bad for v in verdicts.values())

    if not control.accumulates:
        go = not bad
        if control.policy:
            ok = _is_summable(grads, norm, norm / scale, bool(control.loss_scale))
            verdict = _judge(control, state, "grad_norm", norm / scale, ok)
            verdicts["grad_norm"], go = verdict, go and not verdict.bad
        flags = {"bad": not go, "good": go, "brought": go, "due": True, "go": go}
        return Call(_ruled(control, state, verdicts, **flags), go)

    if control.policy in ("drop", "wait") and is_judged:
        ok = _is_summable(grads, norm, norm / scale, bool(control.loss_scale))
        verdict = _judge(control, state, "grad_norm", norm / scale, ok)
        verdicts["grad_norm"], bad = verdict, bad or verdict.bad
    if weight is not None:
        bad = bad or not (math.isfinite(weight) and weight >= 0)
    first = state.micro_step == 0
    share = 0.0 if bad else 1.0 if weight is None else weight
    before = 0.0 if first else state.weight
    total = _float32(before + share)
    if control.policy == "abort" and (bad or before < 0):
        total = GIVEN_UP
    micro_step = min(state.micro_step + 1, MOST)
    if control.policy == "wait" and bad:
        micro_step = state.micro_step
    due = micro_step >= control.size(state.step)
    return _closed(
        control,
        state._replace(micro_step=micro_step, weight=total),
        verdicts,
        accumulated,
        bad=bad,
        due=due,
        dropped=share == 0,
    )._replace(share=share, first=first)


def flush(control: Control, state: State, accumulated: Arrays | None) -> Call:
    """Return what `flush(state, params)` must decide: nothing, without a gradient."""
    if not control.accumulates or state.micro_step == 0:
        return Call(state, go=False)
    return _closed(control, state, {}, accumulated, bad=None, due=True, dropped=False)


def gradient(
    control: Control, state: State, grads: Arrays, weight: float | None
) -> dict[str, np.ndarray | None]:
    """Return what the clip sees: the unscaled gradients, or the window's mean.

    `grads` are those of the call, or with accumulation the window's sum.
    """
    divisor = 1.0 if state.loss_scale is None else state.loss_scale
    if control.accumulates:
        divisor = weight if control.mean else 1.0
    return {
        # Not the quotient of complex numbers, in which a NaN of one part is in both.
        k: None if g is None else oracle._like(floats.as_reals(_wide(g)) / divisor, g)
        for k, g in grads.items()
    }


def _closed(
    control: Control,
    state: State,
    verdicts: dict[str, Verdict],
    accumulated: Arrays | None,
    *,
    bad: bool | None,
    due: bool,
    dropped: bool,
) -> Call:
    """End the window if it is due: a step, unless nothing was kept or it is refused.

    `bad` is None where no gradient came in: a flush under "drop" judges nothing.
    """
    go = due and state.weight > 0
    arrived = bad is not None
    if control.policy == "abort" and go:
        norm = _norm(accumulated)
        mean = norm / state.weight if control.mean else norm
        ok = _is_summable(accumulated, norm, mean, False)
        verdict = _judge(control, state, "grad_norm", mean, ok)
        verdicts["grad_norm"], go = verdict, not verdict.bad
        bad = bool(bad) or verdict.bad
    good = go if control.policy == "abort" else bad is False and not dropped
    bad = bool(bad) or (due and state.weight > 0 and not go)
    brought = arrived and not bad
    flags = {"bad": bad, "good": good, "brought": brought, "due": due, "go": go}
    after = _ruled(control, state, verdicts, **flags)
    if dropped:
        after = _counted(after, "dropped")
    if due:
        after = after._replace(micro_step=0, weight=0.0)
    return Call(after, go, state.weight)


def _judge(
    control: Control, state: State, name: str, value: float, is_finite: bool
) -> Verdict:
    if not is_finite or control.spikes is None or name not in control.spikes.of:
        return Verdict(value, not is_finite, False, math.inf)
    seen = state.events[f"seen_{name}"]
    limit = control.spikes.limit(state.history[name], seen)
    if limit < math.inf and abs(value - limit) <= 3e-6 * abs(limit):
        raise AmbiguousError(f"{name} of {value} at a limit of {limit}")
    return Verdict(value, False, value > limit, limit)


def _ruled(
    control: Control,
    state: State,
    verdicts: Mapping[str, Verdict],
    *,
    bad: bool,
    good: bool,
    brought: bool,
    due: bool,
    go: bool,
) -> State:
    """Count what happened, move the loss scale, remember the signals."""
    nonfinite = any(v.nonfinite for v in verdicts.values())
    spike = any(v.spike for v in verdicts.values()) and not nonfinite
    after = state._replace(step=min(state.step + go, MOST))
    if isinstance(control.loss_scale, Dynamic):
        scale, growth = control.loss_scale.after(
            *(state.loss_scale, state.growth),
            bad=nonfinite,
            good=brought if control.loss_scale.counts == "gradients" else go,
        )
        after = after._replace(loss_scale=scale, growth=growth)
    if not control.counts:
        return after
    run = state.events["consecutive"]
    run = min(run + 1, MOST) if bad else 0 if good else run
    events = state.events | {"consecutive": run}
    if control.policy and control.max_consecutive is not None:
        events["stalled"] = int(run >= control.max_consecutive)
    after = after._replace(events=events)
    for name, happened in (
        ("nonfinite", nonfinite),
        ("spikes", spike),
        ("skipped", due and not go),
    ):
        after = _counted(after, name) if happened else after
    return _remembered(control, after, verdicts)


def _counted(state: State, name: str) -> State:
    return state._replace(
        events=state.events | {name: min(state.events[name] + 1, MOST)}
    )


def _remembered(
    control: Control, state: State, verdicts: Mapping[str, Verdict]
) -> State:
    """Put each finite signal into its window, a spike as its limit."""
    if control.spikes is None:
        return state
    history, events = dict(state.history), dict(state.events)
    for name, verdict in verdicts.items():
        if name not in control.spikes.of or verdict.nonfinite:
            continue
        seen, window = events[f"seen_{name}"], control.spikes.window
        history[name] = history[name].copy()
        history[name][seen % window] = min(verdict.value, verdict.limit)
        events[f"seen_{name}"] = seen + 1 if seen + 1 < 2 * window else window
    return state._replace(history=history, events=events)


# --- Statistics ----------------------------------------------------------------------


def statistics(
    control: Control,
    step: int,
    grads: Arrays,
    params: Mapping[str, np.ndarray],
    outcome: oracle.Outcome,
) -> dict[str, float]:
    """Return what `stats_of` must tell of a step that was taken with `grads`."""
    adamw = control.adamw

    def value(number: Any) -> float:
        return float(number(step) if callable(number) else number)

    present = {k: floats.as_reals(_wide(g)) for k, g in grads.items() if g is not None}
    clipped = adamw._clip(present, params, step)
    moved = [name for name in params if grads[name] is not None]
    return {
        "learning_rate": value(adamw.learning_rate),
        "weight_decay": value(adamw.weight_decay),
        "grad_norm": _norm(present),
        "clipped_grad_norm": _norm(clipped),
        "update_norm": _norm({name: outcome.update[name] for name in moved}),
        "param_norm": _norm({name: outcome.params[name] for name in moved}),
    }


# --- Numbers -------------------------------------------------------------------------


def _is_summable(arrays: Arrays, raw: float, norm: float, is_scaled: bool) -> bool:
    """Tell whether squares are finite in the dtype of the computation.

    Those of the gradients as they come (under a loss scale the norm is formed without
    them, and must be finite itself) and of the unscaled ones, which the second moment
    gets.
    """
    real = [floats.compute_dtype(a.dtype) for a in arrays.values() if a is not None]
    most = float(np.finfo(np.result_type(*real)).max)
    root = math.sqrt(most)
    limits = ((raw, most if is_scaled else root), (norm, root))
    for value, limit in limits:
        if 0.99 * limit < value < 1.01 * limit:
            raise AmbiguousError(f"a norm of {value}")
    return all(value < limit for value, limit in limits)


def _norm(arrays: Arrays) -> float:
    present = [floats.as_reals(_wide(a)) for a in arrays.values() if a is not None]
    if any(np.isnan(a).any() for a in present):
        return math.nan
    return arithmetic.norm(present)


def _wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _float32(x: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(x))
