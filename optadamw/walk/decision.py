"""Whether a call takes a step: the only place that refuses one.

A step is refused if its window is not full, if its gradients or its loss are bad, or if
a scalar of its rules is not legal. `walk.conditional` then leaves every bit as it was.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.control.control import Arrival, Control
from optadamw.control.signals import Check
from optadamw.rules.groups import Variant
from optadamw.rules.rule import Shared
from optadamw.store.state import State
from optadamw.walk.norms import Norms


def go_by_gradients(
    control: Control, state: State, arrival: Arrival, norms: Norms
) -> tuple[Array, list[Check]]:
    """Whether window, loss and gradient norm allow the step, and the checks made."""
    guard = control.effective_guard
    go = jnp.ones((), bool)
    if arrival.weight is not None:
        assert arrival.is_due is not None
        go = arrival.is_due & (arrival.weight > 0)
    elif arrival.bad is not None:
        go = ~arrival.bad
    checks = list(arrival.checks)
    if guard is None or not norms.inputs.moving:
        return go, checks
    norm, most = norms.of_gradients()[0], norms.inputs.largest_norm
    if control.accumulation is not None and guard.drops:
        # Each accumulated gradient is good, but their sum may overflow.
        return go & (norm <= most), checks
    check = control.check_norm(state, norm, go, most)
    return go & ~check.bad, [*checks, check]


def go_by_scalars(
    go: Array,
    read: Sequence[Array],
    variants: Sequence[Variant],
    shared: Sequence[Shared],
    clock: Clock,
) -> Array:
    """`go`, unless a norm that a rule reads is not finite, or a rate is not legal.

    A rate is legal if it is finite and not negative.
    """
    # Accumulated gradients are finite, but their norm, which a clip reads, may not be.
    for norm in read:
        go = go & jnp.isfinite(norm)
    # A constant was checked at construction; the value of a schedule was not.
    for rules, own in zip(variants, shared, strict=True):
        for rule in rules:
            rates = {} if rule is None else rule.report(clock, own)
            for rate in rates.values():
                go = go & jnp.isfinite(rate) & (jnp.asarray(rate) >= 0)
    return go
