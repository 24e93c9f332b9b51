"""The state of an optimizer: one named record, the same for every chain."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optadamw.base.types import Array, PyTree


class State(NamedTuple):
    """What a transformation carries from step to step.

    The fields are the same whatever the chain and whether a hyperparameter is a
    number or a schedule; what the chain does not keep is None and holds no arrays.
    Buffers are trees like the parameters, float32 unless an option says otherwise
    (float64 for float64 parameters).
    """

    step: Array
    """Optimizer steps taken, int32, saturating at 2**31 - 1."""
    mu: PyTree = None
    """First moment: the running mean of the gradients."""
    nu: PyTree = None
    """Second moment: the running mean of their squares."""
    nu_max: PyTree = None
    """AMSGrad: the largest second moment so far."""
    mu_scales: PyTree = None
    """Where `mu` is kept in 8 bits: the scale of each block, None for other leaves."""
    nu_scales: PyTree = None
    """The same for `nu`."""
    nu_max_scales: PyTree = None
    """The same for `nu_max`."""
    ema: PyTree = None
    """The running average of the parameters."""
    residual: PyTree = None
    """What 16-bit parameters lack of the number that rules see: see `commit`."""
    accumulator: PyTree = None
    """Accumulation: the weighted sum of this window's gradients, unscaled."""
    micro_step: Array | None = None
    """Accumulation: gradients received since the last window ended, int32."""
    weight: Array | None = None
    """Accumulation: what they weigh together, float32; -1 in a window given up."""
    loss_scale: Array | None = None
    """Loss scaling: what the loss is multiplied by, float32."""
    growth: Array | None = None
    """Dynamic loss scaling: good steps since the scale last changed, int32."""
    events: Array | None = None
    """Counters, int32, packed; `stats_of` gives them by name."""
    history: Array | None = None
    """Spike guard: the last values of each signal, float32."""
    stats: dict[str, Array] | None = None
    """Statistics of the last step taken, float32, packed; `stats_of` names them."""


class Swapped(NamedTuple):
    """A state whose average and parameters have changed places; it takes no steps."""

    state: State


SCALES = {name: f"{name}_scales" for name in ("mu", "nu", "nu_max")}
"""The field of the scales of each buffer that may be kept in blocks."""

BUFFERS = ("mu", "nu", "nu_max", "ema", "residual", "accumulator")
"""The fields that hold numbers for every parameter."""

TREES = (*BUFFERS, *SCALES.values())
"""The fields that are trees like the parameters; the others are small."""


def placed(params: tuple[Any, ...], value: np.ndarray | Array) -> Any:
    """A small array that lives where the parameters live.

    With parameters on a mesh it is replicated over that mesh, so that its sharding is
    the same before and after the first step.
    """
    if any(isinstance(p, jax.ShapeDtypeStruct) for p in params):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    for param in params:
        if isinstance(param, jax.core.Tracer):
            break
        sharding = getattr(param, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            return jax.device_put(value, everywhere)
    return jnp.asarray(value)


def check_small(state: State, like: Mapping[str, Any]) -> None:
    """Refuse counters and scalars of another dtype or shape: 16 bits end at 32767."""
    for name, wanted in like.items():
        pairs = [(f"state.{name}", getattr(state, name), wanted)]
        if isinstance(wanted, dict):
            found = getattr(state, name)
            if not isinstance(found, dict) or found.keys() != wanted.keys():
                raise ValueError(
                    f"`state.{name}` has the groups {_keys(found)}, expected "
                    f"{_keys(wanted)}. The state is of other options; make one with "
                    "tx.init."
                )
            pairs = [
                (f"state.{name}[{key!r}]", found[key], wanted[key]) for key in wanted
            ]
        for spelled, found, expected in pairs:
            dtype = getattr(found, "dtype", type(found).__name__)
            if dtype != expected.dtype or np.shape(found) != expected.shape:
                shape = "scalar" if expected.shape == () else list(expected.shape)
                raise TypeError(
                    f"`{spelled}` must be: {expected.dtype} {shape}; got "
                    f"{dtype}{list(np.shape(found))}. Keep the state that "
                    "tx.init(params) returned as it is."
                )


def states_in(tree: PyTree) -> list[State]:
    """Every State in the state of a chain or wrapper, in order.

    Raises:
      ValueError: there is one whose average and parameters have changed places.
    """
    refuse_swapped(tree)
    nodes = jax.tree_util.tree_leaves(tree, is_leaf=_is_state)
    return [node for node in nodes if isinstance(node, State)]


def state_with(tree: PyTree, field: str, what: str, about: str, remedy: str) -> State:
    """The one State in `tree` that has `field`, which errors call `what`, `about`.

    Raises:
      ValueError: there is none, or more than one.
    """
    found = [s for s in states_in(tree) if getattr(s, field) is not None]
    if len(found) != 1:
        count = f"{len(found)} {what}s" if found else f"no {what}"
        raise ValueError(f"`state` holds {count}{about}; it must hold one. {remedy}")
    return found[0]


def refuse_swapped(tree: PyTree) -> None:
    """Raise ValueError for a state whose average and parameters changed places."""
    nodes = jax.tree_util.tree_leaves(tree, is_leaf=_is_state)
    if any(isinstance(node, Swapped) for node in nodes):
        raise ValueError(
            "`state` is a Swapped, in which the average and the parameters have "
            "changed places. Change them back with swap_ema first."
        )


def _is_state(node: object) -> bool:
    return isinstance(node, State | Swapped)


def _keys(found: Any) -> list[str]:
    return sorted(found) if isinstance(found, dict) else []
