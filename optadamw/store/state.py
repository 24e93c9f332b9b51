"""The state of an optimizer: one named record with the same fields for every chain."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import AxisType, NamedSharding, reshard

from optadamw.base.types import Array, PyTree
from optadamw.store.layout import everywhere


class State(NamedTuple):
    """The state of a transformation: everything that it keeps from step to step.

    Every chain has the same fields, whether its hyperparameters are numbers or
    schedules. A field that the chain does not need is None and holds no arrays. Buffers
    are trees like the parameters, float32 unless an option says otherwise (float64 for
    float64 parameters).

    Attributes:
      step: optimizer steps taken, int32, saturating at 2**31 - 1.
      mu: first moment: the running mean of the gradients.
      nu: second moment: the running mean of the squared gradients.
      nu_max: AMSGrad: the largest second moment so far.
      mu_scales: the scale of each block of `mu`, with None for leaves that are not in
        8 bits.
      nu_scales: the scales of `nu`, as `mu_scales`.
      nu_max_scales: the scales of `nu_max`, as `mu_scales`.
      ema: the running average of the parameters.
      residual: the buffer of `with_commit`: the part of a parameter that its 16 bits
        lack.
      accumulator: the weighted sum of the gradients of this window of `multi_steps`,
        with the loss scale undone.
      micro_step: number of gradients since the last window of `multi_steps` ended,
        int32.
      weight: sum of the weights of this window, float32; -1 once it is aborted.
      loss_scale: the factor that multiplies the loss, float32.
      growth: number of good steps since a dynamic loss scale last changed, int32.
      events: all counters in one int32 array; `stats_of` gives them by name.
      history: the last values of each signal that `skip_spikes` checks, float32.
      stats: the statistics of the last step taken, float32 arrays; `stats_of` gives
        them by name.
      custom: the buffers of rules of your own, by the names of their slots, with the
        scales of those in 8 bits (docs/guides/extending.md).
      hyperparameters: the numbers that `adjustable` asks for by name, float32;
        `tx.with_hyperparameters` sets them.
    """

    step: Array
    mu: PyTree = None
    nu: PyTree = None
    nu_max: PyTree = None
    mu_scales: PyTree = None
    nu_scales: PyTree = None
    nu_max_scales: PyTree = None
    ema: PyTree = None
    residual: PyTree = None
    accumulator: PyTree = None
    micro_step: Array | None = None
    weight: Array | None = None
    loss_scale: Array | None = None
    growth: Array | None = None
    events: Array | None = None
    history: Array | None = None
    stats: dict[str, Array] | None = None
    custom: dict[str, PyTree] | None = None
    hyperparameters: dict[str, Array] | None = None


class Swapped(NamedTuple):
    """A state that holds parameters in place of their average; `step` refuses it.

    The name of the field tells it from a State also where Orbax or Flax made a dict of
    it.
    """

    swapped: State


export.register_namedtuple_serialization(State, serialized_name="optadamw.State")
export.register_namedtuple_serialization(Swapped, serialized_name="optadamw.Swapped")

SCALES = {name: f"{name}_scales" for name in ("mu", "nu", "nu_max")}
"""The field of the scales of each buffer of this library that may be in blocks."""

BUFFERS = ("mu", "nu", "nu_max", "ema", "residual", "accumulator")
"""The fields that hold numbers for every parameter."""

TREES = (*BUFFERS, *SCALES.values())
"""The fields that are trees like the parameters; `custom` is a dict of such trees."""

SCALARS = tuple(name for name in State._fields if name not in (*TREES, "custom"))
"""The fields that hold a number or a small array for the whole tree."""


def scales_of(name: str) -> str:
    """Return the name of the scales of a buffer in blocks."""
    return f"{name}_scales"


def is_scales(name: str) -> bool:
    """Return whether this is the name of the scales of a buffer."""
    return name.endswith(scales_of(""))


def is_custom(name: str) -> bool:
    """Return whether a buffer of this name is a key of `State.custom`."""
    return name.isidentifier() and name not in State._fields and not is_scales(name)


def is_buffer(name: str) -> bool:
    """Return whether a State may hold a buffer of this name, in a field or `custom`."""
    return name in BUFFERS or is_custom(name)


def place_of(name: str) -> str:
    """Return the expression with which a user reads a buffer, or its scales."""
    return f"state.{name}" if name in State._fields else f"state.custom[{name!r}]"


def buffer_in(state: State, name: str) -> PyTree | None:
    """Return a buffer, or the scales of one, by name; None if the state lacks it."""
    if name in State._fields:
        return getattr(state, name)
    return (state.custom or {}).get(name)


def buffers_in(state: State) -> dict[str, PyTree]:
    """Return all buffers and scales of a state by name, those of `custom` last."""
    held = {name: getattr(state, name) for name in TREES}
    return {k: v for k, v in (held | (state.custom or {})).items() if v is not None}


def state_of(fields: Mapping[str, Any]) -> State:
    """Make a State of these fields; names that are no fields go to `custom`."""
    named = {name: value for name, value in fields.items() if name in State._fields}
    custom = {
        name: fields[name]
        for name in sorted(fields.keys() - named.keys())
        if fields[name] is not None
    }
    return State(**named)._replace(custom=custom or None)


def state_replacing(state: State, buffers: Mapping[str, PyTree | None]) -> State:
    """Replace buffers or scales of a state; None removes one."""
    fields = {k: v for k, v in state._asdict().items() if k != "custom"}
    return state_of(fields | (state.custom or {}) | dict(buffers))


def beside(params: tuple[Any, ...], value: np.ndarray | Array) -> Any:
    """Put a small array on the devices of the parameters.

    If the parameters are on a mesh, the array is replicated over that mesh, and if they
    are committed to a device, it is too, so that its sharding is the same before and
    after the first step.
    """
    if any(isinstance(p, jax.ShapeDtypeStruct) for p in params):
        meshes = (_mesh_of(param) for param in params)
        mesh = next((mesh for mesh in meshes if mesh is not None), None)
        sharding = None if mesh is None else everywhere(mesh, value.ndim)
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
    for param in params:
        if isinstance(param, jax.core.Tracer):
            mesh = jax.typeof(param).sharding.mesh
            if AxisType.Explicit in mesh.axis_types:
                return reshard(jnp.asarray(value), everywhere(mesh, value.ndim))
            continue
        mesh = _mesh_of(param)
        if mesh is not None:
            return jax.device_put(value, everywhere(mesh, value.ndim))
        if getattr(param, "committed", False):
            return jax.device_put(value, param.sharding)
    return jnp.asarray(value)


def _mesh_of(param: Any) -> Any:
    """Return the mesh on which a parameter is, or None."""
    sharding = getattr(param, "sharding", None)
    if isinstance(sharding, NamedSharding):
        return sharding.mesh
    return None


def states_in(tree: PyTree) -> list[State]:
    """Return every State in the state of a chain or wrapper, in order.

    Raises:
      ValueError: one of them is a `Swapped`.
    """
    refuse_swapped(tree)
    nodes = jax.tree_util.tree_leaves(tree, is_leaf=_is_state)
    return [node for node in nodes if isinstance(node, State)]


def state_with(tree: PyTree, field: str, what: str, about: str, remedy: str) -> State:
    """Return the one State in `tree` that has `field`; errors call it `what` `about`.

    Raises:
      ValueError: no State or more than one has the field.
    """
    found = [s for s in states_in(tree) if getattr(s, field) is not None]
    if len(found) != 1:
        count = f"{len(found)} {what}s" if found else f"no {what}"
        raise ValueError(f"`state` holds {count}{about}; it must hold one. {remedy}")
    return found[0]


def refuse_swapped(tree: PyTree) -> None:
    """Raise a ValueError for a state that holds a `Swapped`."""
    nodes = jax.tree_util.tree_leaves(tree, is_leaf=_is_state)
    if any(isinstance(node, Swapped) for node in nodes):
        raise swapped_state()


def swapped_state() -> ValueError:
    """Return the error for a state that holds a `Swapped`."""
    return ValueError(
        "`state` is a Swapped, in which the average and the parameters have changed "
        "places. Change them back with swap_ema first."
    )


def _is_state(node: object) -> bool:
    return isinstance(node, State | Swapped)
