"""Record statistics of each step, and read them and the counters by name."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.horizon import horizon_of
from optadamw.base.hyperparameters import switch
from optadamw.base.masks import selector
from optadamw.base.types import Array, PyTree
from optadamw.control.counters import event
from optadamw.control.statistics import FREE, NORMS, TREE, Statistics
from optadamw.store.state import State, states_in
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.stats import GroupStats, Stats
from optadamw.transforms.transformation import Transformation, controlled


@prints_as_call
def with_stats(
    inner: Transformation,
    *,
    norms: bool = False,
    groups: Mapping[str, Any] | None = None,
) -> Transformation:
    """Record the rates and norms of each step; `stats_of(state)` reads them.

    Rates and counters cost nothing, nor does a norm that a global clip or a guard
    computes anyway. Without clip and guard, the gradient norm costs a pass over the
    gradients, and the norm after a clip by value or by parameter costs another one. The
    norms of updates and parameters cost a pass each on CPU.

    Args:
      inner: a transformation of this library.
      norms: whether to record `update_norm` and `param_norm` too. Default: False.
      groups: `{name: choice}`, to record the norms of groups of parameters too; a
        choice is a pattern, a predicate or a tree of bools, as for `mask`. None
        (default): no groups.

    Returns:
      A transformation whose state has `stats` and counters in addition to the buffers
      of `inner`.

    Raises:
      TypeError, ValueError: at construction, `inner` is not from this library or
        records statistics already, or `groups` is not legal; at `init`, a pattern
        matches no parameter.

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


def stats_of(state: PyTree, tx: Transformation | None = None) -> Stats:
    """Return the statistics and counters in `state` by name, also under `jit`.

    Args:
      state: the state of a transformation, of an `optax.chain` or of a wrapper.
      tx: the transformation whose state it is, for `steps_past_schedule`. None
        (default): this field is None.

    Returns:
      A `Stats` of 0-d arrays, or with leading axes for a vmapped optimizer. A field
      that is not recorded is None.

    Raises:
      ValueError: `state` holds no state of this library, or more than one.
      TypeError: `tx` is not from this library.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, skip_nonfinite=True)
      >>> int(optadamw.stats_of(tx.init(jnp.ones(2))).skipped)
      0
    """
    states = states_in(state)
    if len(states) != 1:
        raise ValueError(
            f"`state` holds {len(states)} states of optadamw; it must hold one. Pass "
            "the state that tx.init(params) or tx.step returned."
        )
    stats = _named(states[0])
    if tx is None:
        return stats
    if not isinstance(tx, Transformation):
        raise mistyped("tx", "a transformation of optadamw, or None", tx)
    return stats._replace(steps_past_schedule=_past(tx, stats.step))


def _past(tx: Transformation, step: Array) -> Array | None:
    """Return the number of steps beyond the last end of a learning rate, if any."""
    rules = [rule for own in tx.recipe.composition.variants for rule in own]
    found = [horizon_of(getattr(rule, "learning_rate", None)) for rule in rules]
    ends = [end for end in found if end is not None]
    # Step number `end` reads the schedule at `end - 1`, before its last value.
    return jnp.maximum(step - max(ends), 0) if ends else None


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
        illegal=_count(state, "illegal"),
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
    """Split the last axis; leading axes, as under `vmap`, remain."""
    return [row[..., i] for i in range(row.shape[-1])]
