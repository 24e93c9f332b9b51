"""Whether a call takes a step: the only place that refuses one.

A step is refused if its window is not full, if its gradients or its loss are bad, or if
a scalar of its rules is not legal. `walk.conditional` then leaves every bit as it was.
"""

from collections.abc import Sequence
from functools import reduce

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.control.control import Arrival, Control
from optadamw.control.signals import Check
from optadamw.rules.groups import Variant
from optadamw.rules.rule import Shared
from optadamw.store.state import State
from optadamw.walk.inputs import Inputs
from optadamw.walk.norms import Norms


def go_by_gradients(
    control: Control, state: State, arrival: Arrival, norms: Norms
) -> tuple[Array, list[Check]]:
    """Whether window, loss and gradient norm allow the step, and the checks made."""
    guard = control.effective_guard
    due = go = jnp.ones((), bool)
    if arrival.weight is not None:
        assert arrival.is_due is not None
        due = go = arrival.is_due & (arrival.weight > 0)
    elif arrival.bad is not None:
        go = ~arrival.bad
    checks = list(arrival.checks)
    if guard is None or not norms.inputs.moving:
        return go, checks
    norm, most = norms.of_gradients()[0], norms.inputs.largest_norm
    if control.accumulation is not None and guard.drops:
        # Each accumulated gradient is good, but their sum may overflow.
        return go & (norm <= most), checks
    # Also if the loss is bad: an overflow lowers the loss scale.
    check = control.check_norm(state, norm, due, most)
    return go & ~check.bad, [*checks, check]


def go_by_scalars(
    control: Control,
    go: Array,
    read: Sequence[Array],
    inputs: Inputs,
    shared: Sequence[Shared],
    clock: Clock,
) -> tuple[Array, Array | None]:
    """Whether the scalars allow the step, and whether its hyperparameters are legal.

    Without a guard nothing is checked, and the second is None.
    """
    if control.effective_guard is None:
        return go, None
    # Accumulated gradients are finite, but their norm, which a clip reads, may not be.
    are_finite = reduce(jnp.logical_and, map(jnp.isfinite, read), jnp.ones((), bool))
    legal = _are_legal(inputs, inputs.plan.composition.variants, shared, clock)
    return go & are_finite & legal, legal


def _are_legal(
    inputs: Inputs,
    variants: Sequence[Variant],
    shared: Sequence[Shared],
    clock: Clock,
) -> Array:
    """Whether every hyperparameter is legal in this step.

    An array or a schedule must be in the interval of its argument, as a number must be
    when a transformation is built. A rate that a rule reports must be finite and not
    negative.
    """
    dtypes = [inputs.dtypes[i] for i in inputs.moving]
    narrowest = min(dtypes, key=lambda dtype: dtype.itemsize, default=clock.dtype)
    legal, seen = jnp.ones((), bool), set()
    for rules, own in zip(variants, shared, strict=True):
        for rule in filter(None, rules):
            for value in rule.watched.values():
                # Groups that share a schedule share its check.
                if value.legal is not None and (value, value.legal) not in seen:
                    seen.add((value, value.legal))
                    legal = legal & value.legal.holds(value.at(clock), narrowest)
            for rate in rule.report(clock, own).values():
                if not isinstance(rate, float | int):
                    legal = legal & jnp.isfinite(rate) & (rate >= 0)
    return legal
