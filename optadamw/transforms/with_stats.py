"""Statistics of the last step, and the counters, by name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import switch
from optadamw.base.masks import selector
from optadamw.base.types import Array, PyTree
from optadamw.control.counters import event
from optadamw.control.statistics import FREE, NORMS, TREE, Statistics
from optadamw.store.state import State, states_in
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, controlled


class GroupStats(NamedTuple):
    """The norms over one group of parameters in the last step that was taken."""

    grad_norm: Array
    """Of the gradients before any clip."""
    update_norm: Array | None
    param_norm: Array | None


class Stats(NamedTuple):
    """What `stats_of` returns: scalars, and None for what is not recorded.

    Rates and norms are those of the last step that was taken, 0 before the first;
    counters are of the whole run.
    """

    step: Array
    """Optimizer steps taken."""
    learning_rate: Array | None
    weight_decay: Array | None
    """As configured, not times the learning rate; of the first decay in the chain."""
    grad_norm: Array | None
    """Of all gradients, unscaled, accumulated, before any clip."""
    clipped_grad_norm: Array | None
    """The same after the clips: what the moments saw."""
    update_norm: Array | None
    """Of what was added to the parameters, before it was rounded."""
    param_norm: Array | None
    """Of the parameters after the step, those without a gradient left out."""
    clip_fraction: Array | None
    """Share of the steps whose gradient was clipped."""
    skipped: Array | None
    """Optimizer steps that were due and not taken."""
    nonfinite: Array | None
    """Gradients or losses that were not finite."""
    spikes: Array | None
    """Those beyond the limit of the spike guard."""
    dropped: Array | None
    """Micro-batches left out of their window."""
    consecutive: Array | None
    """Bad gradients since the last good one."""
    stalled: Array | None
    """Whether `consecutive` has reached `max_consecutive`."""
    loss_scale: Array | None
    fill: Array | None
    """Gradients received in the present window of accumulation."""
    groups: dict[str, GroupStats]


@prints_as_call
def with_stats(
    inner: Transformation,
    *,
    norms: bool = False,
    groups: Mapping[str, Any] | None = None,
) -> Transformation:
    """Record the rates and norms of each step; `stats_of(state)` reads them.

    Rates, counters and the norms that a global clip or a guard computes cost nothing.
    Without those the gradient norm costs a pass over the gradients, and the norm after
    a clip by value or by parameter another. `norms` adds those of the update and the
    parameters, a pass each on CPU.

    Args:
      inner: a transformation of this library.
      norms: whether to record `update_norm` and `param_norm`.
      groups: names of groups, each with a pattern, predicate or tree that chooses its
        parameters as masks do; the norms are recorded for each of them too.

    Returns:
      A transformation whose state has `stats` and counters besides what `inner` keeps.

    Raises:
      TypeError, ValueError: at construction, for an `inner` from elsewhere or one that
        records already, or a group that is none; at `init`, for a pattern that matches
        nothing.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.with_stats(optadamw.adamw(0.1, clip_global_norm=1.0))
      >>> params = jnp.zeros(2)
      >>> params, state = tx.step(jnp.array([3.0, 4.0]), tx.init(params), params)
      >>> stats = optadamw.stats_of(state)
      >>> float(stats.grad_norm), float(stats.clipped_grad_norm)
      (5.0, 1.0)
    """
    if groups is not None and not isinstance(groups, Mapping):
        raise mistyped("groups", "a mapping of names to patterns, or None", groups)
    chosen = []
    for name, where in (groups or {}).items():
        if not isinstance(name, str) or name in ("", TREE):
            raise invalid(
                "groups", f"named by strings other than '' and {TREE!r}", name
            )
        chosen.append((name, selector(f"groups[{name!r}]", where)))
    statistics = Statistics(switch("norms", norms), tuple(sorted(chosen)))
    return controlled("with_stats", inner, statistics=statistics)


def stats_of(state: PyTree) -> Stats:
    """The statistics and counters in `state`, by name.

    It may be called under `jit` and reads only what is there: what was not asked for
    is None.

    Args:
      state: the state of a transformation, of an `optax.chain`, of a wrapper.

    Returns:
      A `Stats` of 0-d arrays; of arrays, for the states of a vmapped optimizer.

    Raises:
      ValueError: there is no state of this library in `state`, or more than one.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, skip_nonfinite=True)
      >>> int(optadamw.stats_of(tx.init(jnp.ones(2))).skipped)
      0
    """
    found = states_in(state)
    if len(found) != 1:
        raise ValueError(
            f"`state` holds {len(found)} states of optadamw; it must hold one. Pass "
            "the state that tx.init(params) or tx.step returned."
        )
    return _named(found[0])


def _named(state: State) -> Stats:
    rates: dict[str, Array | None] = dict.fromkeys((*FREE, *NORMS))
    groups = {}
    if state.stats is not None:
        row = state.stats[TREE]
        rates |= dict(zip((*FREE, *NORMS), _entries(row), strict=False))
        for name, norms in state.stats.items():
            if name != TREE:
                groups[name] = _group(norms)
    return Stats(
        step=state.step,
        **rates,
        clip_fraction=_fraction(state),
        skipped=_count(state, "skipped"),
        nonfinite=_count(state, "nonfinite"),
        spikes=_count(state, "spikes"),
        dropped=_count(state, "dropped"),
        consecutive=_count(state, "consecutive"),
        stalled=None if state.events is None else event(state.events, "stalled") > 0,
        loss_scale=state.loss_scale,
        fill=state.micro_step,
        groups=groups,
    )


def _count(state: State, name: str) -> Array | None:
    return None if state.events is None else event(state.events, name)


def _fraction(state: State) -> Array | None:
    if state.stats is None or state.events is None:
        return None
    steps = jnp.maximum(state.step, 1).astype(jnp.float32)
    return event(state.events, "clipped").astype(jnp.float32) / steps


def _group(norms: Array) -> GroupStats:
    entries = _entries(norms)
    if len(entries) == 1:
        return GroupStats(entries[0], None, None)
    return GroupStats(*entries)


def _entries(row: Array) -> list[Array]:
    """The last axis apart; there may be others before it, as under `vmap`."""
    return [row[..., i] for i in range(row.shape[-1])]
