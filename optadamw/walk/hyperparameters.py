"""Read and set the adjustable hyperparameters in a state."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import mistyped
from optadamw.base.held import Held, checked_names
from optadamw.base.tree import dtype_of
from optadamw.base.types import Array, PyTree
from optadamw.store.state import State, state_with
from optadamw.walk.composition import Composition

REMEDY = (
    "Ask for adjustable numbers when the transformation is made, as in "
    "adamw(optadamw.adjustable(1e-3)), and pass the state of this transformation."
)


def hyperparameters(composition: Composition, state: PyTree) -> dict[str, Array]:
    """Return the adjustable numbers in a state by name."""
    held = _holder(state).hyperparameters
    assert held is not None
    checked_names({number.name: None for number in composition.held}, held)
    return dict(held)


def with_hyperparameters(
    composition: Composition, state: PyTree, values: Mapping[str, Any]
) -> PyTree:
    """Return a state with other values of adjustable numbers."""
    checked_names(values, dict.fromkeys(number.name for number in composition.held))
    if not values:
        return state
    holder = _holder(state)
    assert holder.hyperparameters is not None
    checked_names(values, holder.hyperparameters)
    held = dict(holder.hyperparameters)
    for name, value in values.items():
        numbers = [number for number in composition.held if number.name == name]
        held[name] = _placed(name, _checked(name, value, held[name], numbers), held)
    changed = holder._replace(hyperparameters=held)
    return jax.tree.map(
        lambda node: changed if node is holder else node,
        state,
        is_leaf=lambda node: node is holder,
    )


def _holder(state: PyTree) -> State:
    about = " of adjustable hyperparameters"
    return state_with(state, "hyperparameters", "set", about, REMEDY)


def _checked(name: str, value: Any, old: Any, numbers: list[Held]) -> Any:
    """Refuse a value that is no number, of another shape, or out of range if known."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    dtype = None if is_number else dtype_of(value)
    is_array = dtype is not None and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )
    if not (is_number or is_array):
        raise mistyped(name, "a number or a 0-d array", value)
    if np.shape(value) not in ((), np.shape(old)):
        members = f", or of shape {np.shape(old)}" if np.shape(old) else ""
        raise ValueError(
            f"`{name}` must be a scalar{members}; got an array of shape "
            f"{np.shape(value)}."
        )
    if isinstance(value, jax.core.Tracer):
        return value
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value
    known = np.asarray(jax.device_get(value))
    for number in numbers:
        for one in known.ravel().tolist():
            number.check(float(one))
    return known


def _placed(name: str, value: Any, held: Mapping[str, Any]) -> Array:
    """Return a value as float32, in the shape and on the devices of the old one."""
    old = held[name]
    if isinstance(value, jax.Array) or isinstance(old, jax.core.Tracer):
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), np.shape(old))
    made = np.broadcast_to(value.astype(np.float32), np.shape(old))
    sharding = getattr(old, "sharding", None)
    is_placed = getattr(old, "committed", False)
    return jax.device_put(np.array(made), sharding if is_placed else None)
