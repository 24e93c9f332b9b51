"""The comparison of one call of a controlled optimizer with its oracle.

As in `comparison`, each call is judged from the library's own state before it, so
errors cannot accumulate. What a call must not touch is compared bit for bit; counters
and loss scales are exact; sums and averages have a tolerance of a few ULPs.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import optadamw
from optadamw.control.counters import EVENTS
from tests.support import comparison, control_oracle, floats, trees
from tests.support.control_oracle import Control

SUM_ULPS = 2.5
"""The factor of a gradient is rounded twice, its product and the sum once each."""

INNER = ("mu", "nu", "nu_max", "ema")


class Micro(NamedTuple):
    """The arguments of one call of `step`; None for the gradients is a `flush`."""

    grads: dict[str, np.ndarray] | None
    weight: float | None = None
    loss: float | None = None

    @property
    def extra(self) -> dict[str, Any]:
        given = {"weight": self.weight, "loss": self.loss}
        return {k: np.float32(v) for k, v in given.items() if v is not None}


FLUSH = Micro(None)
Advance = Callable[[Micro, Any, Any], Any]


def stepping(tx: Any) -> Advance:
    """The calls of `tx`, through `step`."""

    def advance(micro: Micro, state: Any, params: Any) -> Any:
        if micro.grads is None:
            return tx.flush(state, params)
        return tx.step(micro.grads, state, params, **traced(micro))

    return advance


def updating(tx: Any) -> Advance:
    """The calls of `tx`, through `update` and `optax.apply_updates`."""

    def advance(micro: Micro, state: Any, params: Any) -> Any:
        if micro.grads is None:
            return tx.flush(state, params)
        updates, state = tx.update(micro.grads, state, params, **traced(micro))
        return optax.apply_updates(params, updates), state

    return advance


def compiled(tx: Any) -> Advance:
    """The calls of `tx`, as two compiled programs."""
    step, flush = jax.jit(tx.step), jax.jit(tx.flush)

    def advance(micro: Micro, state: Any, params: Any) -> Any:
        if micro.grads is None:
            return flush(state, params)
        return step(micro.grads, state, params, **micro.extra)

    return advance


def traced(micro: Micro) -> dict[str, Any]:
    """Weight and loss as arrays, of which nothing is known at trace time."""
    return jax.tree.map(jax.numpy.asarray, micro.extra)


def follow(
    control: Control,
    tx: Any,
    advance: Advance,
    params: dict[str, np.ndarray],
    calls: Iterable[Callable[[float], Micro]],
    *,
    applies: bool = False,
) -> Any:
    """Make the calls and compare each with the oracle; return the last pair.

    Each call is a function of the loss scale at its time. `applies` says that
    parameters are reached by adding an update to them.
    """
    params = jax.tree.map(jax.numpy.asarray, params)
    before = params, tx.init(params)
    check_init(control, *before)
    for make in calls:
        scale = before[1].loss_scale
        micro = make(1.0 if scale is None else float(scale))
        after = advance(micro, before[1], before[0])
        check_call(control, micro, before, after, "update" if applies else "step")
        before = after
    return before


def check_init(control: Control, params: Any, state: Any) -> None:
    """Compare a fresh state with the oracle's, exactly."""
    comparison.check_start(control.adamw, state, params)
    _check_small(control, control_oracle.init(control), state)
    if control.accumulates:
        for name, p in params.items():
            asked = control.accumulator_dtype
            kept = np.dtype(asked or floats.compute_dtype(p.dtype))
            total = np.asarray(state.accumulator[name])
            assert floats.real_dtype(total.dtype) == kept, name
            assert total.shape == p.shape and not total.any()


def check_call(
    control: Control,
    micro: Micro,
    before: tuple[Any, Any],
    after: tuple[Any, Any],
    route: str = "step",
) -> None:
    """Compare one call with the oracle's from the same state."""
    trees.assert_same_types(after, before)
    old, window = small(control, before[1]), None
    if control.accumulates:
        window = comparison.host(after[1].accumulator)
    if micro.grads is None:
        expected = control_oracle.flush(control, old, window)
    else:
        expected = control_oracle.call(
            control,
            old,
            micro.grads,
            weight=micro.weight,
            loss=micro.loss,
            accumulated=window,
        )
    if control.accumulates:
        _check_window(control, micro, old, expected, before[1], after[1])
    if not expected.go:
        kept = [tuple(getattr(s, f) for f in INNER) for s in (before[1], after[1])]
        trees.assert_same_bits((after[0], kept[1]), (before[0], kept[0]))
        if control.stats:
            trees.assert_same_bits(after[1].stats, before[1].stats)
        _check_small(control, expected.state, after[1])
        return
    if micro.grads is None and not control.accumulates:
        trees.assert_same_bits(after, before)
        return
    summed = window if control.accumulates else micro.grads
    grads = control_oracle.gradient(control, old, summed, expected.total)
    route = "step" if micro.grads is None else route
    comparison.check_step(control.adamw, grads, before, after, route)
    state = expected.state
    if control.stats:
        state = _check_statistics(control, grads, before, after[1], state)
    _check_small(control, state, after[1])


def small(control: Control, state: Any) -> control_oracle.State:
    """Copy the small fields of the library's state to the oracle's, exactly."""

    def number(x: Any, kind: type) -> Any:
        return None if x is None else kind(x)

    assert EVENTS == control_oracle.COUNTERS
    events, history = state.events, state.history
    if events is not None:
        assert events.dtype == np.int32
        events = dict(zip(EVENTS, map(int, np.asarray(events)), strict=True))
    if history is not None:
        rows = np.asarray(history, np.float64)
        history = dict(zip(control.spikes.of, rows, strict=True))
    return control_oracle.State(
        step=int(state.step),
        micro_step=number(state.micro_step, int),
        weight=number(state.weight, float),
        loss_scale=number(state.loss_scale, float),
        growth=number(state.growth, int),
        events=events,
        history=history,
    )


def _check_small(control: Control, expected: control_oracle.State, state: Any) -> None:
    actual = small(control, state)
    exact = actual._replace(history=None), expected._replace(history=None)
    assert exact[0] == exact[1], "\n".join(map(str, exact))
    assert (actual.history is None) == (expected.history is None)
    for name, row in (expected.history or {}).items():
        np.testing.assert_allclose(actual.history[name], row, rtol=2e-6, err_msg=name)


def _check_window(
    control: Control,
    micro: Micro,
    old: control_oracle.State,
    expected: control_oracle.Call,
    before: Any,
    after: Any,
) -> None:
    """The sum of the window: weighted, unscaled, with nothing of the last one."""
    if micro.grads is None or (expected.share == 0 and not expected.first):
        trees.assert_same_bits(after.accumulator, before.accumulator)
        return
    scale = 1.0 if old.loss_scale is None else old.loss_scale
    for name, grad in micro.grads.items():
        total = np.asarray(after.accumulator[name])
        kept = floats.as_reals(_wide(before.accumulator[name]))
        kept = np.zeros_like(kept) if expected.first else kept
        term = np.zeros_like(kept)
        if expected.share:
            term = floats.as_reals(_wide(grad)) * (expected.share / scale)
        with np.errstate(invalid="ignore"):
            wanted, size = kept + term, np.abs(kept) + np.abs(term)
        computed = floats.compute_dtype(grad.dtype)
        tolerance = SUM_ULPS * floats.ulp(size, computed)
        if floats.real_dtype(total.dtype).itemsize < computed.itemsize:
            tolerance = tolerance + 0.51 * floats.ulp(wanted, total.dtype)
        wanted = np.where(
            np.abs(wanted) <= float(np.finfo(computed).max),
            wanted,
            floats.round_to(wanted, computed),
        )
        share = comparison._share(floats.as_reals(_wide(total)), wanted, tolerance)
        assert share <= 1, f"the sum of {name!r} is {share:.3g} times what is allowed"


def _check_statistics(
    control: Control,
    grads: Any,
    before: tuple[Any, Any],
    after: Any,
    state: control_oracle.State,
) -> control_oracle.State:
    """Compare what was recorded of a step; return `state` with the clip counted."""
    params = comparison.host(before[0])
    outcome = control.adamw.step(grads, comparison.as_oracle_state(before[1]), params)
    wanted = control_oracle.statistics(
        control, int(before[1].step), grads, params, outcome
    )
    stats = optadamw.stats_of(after)
    clips = wanted["clipped_grad_norm"] < wanted["grad_norm"] * (1 - 1e-6)
    count = min(state.events["clipped"] + clips, control_oracle.MOST)
    state = state._replace(events=state.events | {"clipped": count})
    if control.stats == "free":
        assert stats.update_norm is None and stats.param_norm is None
        del wanted["update_norm"], wanted["param_norm"]
    for name, value in wanted.items():
        actual = float(getattr(stats, name))
        np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-30, err_msg=name)
    np.testing.assert_allclose(stats.clip_fraction, count / state.step, rtol=1e-6)
    return state


def _wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)
