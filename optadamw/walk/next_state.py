"""The state that a call returns, put together from its parts."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.store.columns import trees_of
from optadamw.store.state import State, state_of
from optadamw.walk.inputs import Inputs


def next_state(
    state: State,
    inputs: Inputs,
    clock: Clock,
    go: Array | None,
    columns: Mapping[str, Sequence[Any]],
    fields: Mapping[str, Any],
) -> State:
    """Return the state after a call.

    Args:
      state: the state before the call.
      inputs: the leaves of the call.
      clock: the time of the step that the call takes.
      go: whether it takes the step; None: it always does.
      columns: the buffers of each leaf, by the name of the slot.
      fields: the fields that are no buffers of the rules, except the step.
    """
    made = dict(fields)
    for slot in inputs.plan.composition.slots:
        for name, column in trees_of(slot, columns[slot.name]).items():
            made[name] = inputs.tree(column)
    made["hyperparameters"] = state.hyperparameters
    number = clock.number
    made["step"] = number if go is None else jnp.where(go, number, state.step)
    return state_of(made)
