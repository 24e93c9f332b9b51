"""Make a State of the contents of a saved state, or refuse them before any is made."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optadamw.base.errors import at_leaf
from optadamw.base.tree import Leaves, flatten
from optadamw.checkpoint.fitting import fitted
from optadamw.dialects.states.agreeing import check_agreement, read_in_window
from optadamw.dialects.states.contents import Contents
from optadamw.dialects.states.entering import counterparts, entered, square_kernels
from optadamw.dialects.states.others import warn_of_kernels, warn_of_others
from optadamw.dialects.states.request import Request
from optadamw.dialects.states.settings import frozen_leaves
from optadamw.store.absent import Absent
from optadamw.store.block_code import Blocks
from optadamw.store.columns import trees_of
from optadamw.store.dense import Dense
from optadamw.store.slot import Slot
from optadamw.store.state import BUFFERS, State, state_of
from optadamw.transforms.transformation import Transformation


def assembled(request: Request, contents: Contents) -> State:
    """Make the State that continues from `contents`.

    Raises:
      TypeError, ValueError: the contents do not fit the request; nothing is made.
    """
    fields = set(contents.fields) - set(request.drop)
    check_agreement(request, contents, fields)
    places = counterparts(request, contents)
    columns = entered(request, contents, places)
    buffers: dict[str, Any] = {}
    for slot in _slots(request.tx, fields).values():
        buffers |= _buffer(request, contents, slot, columns)
    small = {
        name: _small(request.leaves, value)
        for name, value in _counts(request, contents).items()
    }
    state = state_of(buffers | small)
    # 4: the line that called the `from_` function.
    warn_of_kernels(request, square_kernels(request, contents, places), stacklevel=4)
    if request.tx is not None:
        warn_of_others(request, request.tx, contents, places, stacklevel=4)
    return state


def _slots(tx: Transformation | None, fields: Collection[str]) -> dict[str, Slot]:
    """Return the slots of `tx`, or without it one in float32 for each saved buffer."""
    if tx is None:
        return {f: Slot(f, Dense()) for f in BUFFERS if f in fields}
    return {slot.name: slot for slot in tx.recipe.composition.buffers}


def _buffer(
    request: Request,
    contents: Contents,
    slot: Slot,
    columns: dict[str, list[np.ndarray]],
) -> dict[str, Any]:
    """Make one buffer, saved or started: the fields of State that hold it."""
    leaves, name = request.leaves, slot.name
    start = _start(request, contents, slot, name in columns)
    shapes = leaves.treedef.unflatten(leaves.arrays)
    stores = slot.store.resolved(name, leaves, shapes)
    if request.tx is not None:
        frozen = frozen_leaves(request.tx, leaves)
        stores = [
            Absent() if is_frozen else store
            for store, is_frozen in zip(stores, frozen, strict=True)
        ]
    made = []
    for i, (path, like) in enumerate(zip(leaves.paths, leaves.arrays, strict=True)):
        store = stores[i]
        if start is not None:
            made.append(start(i, store))
        else:
            made.append(_placed(f"{name}/{path}", columns[name][i], store, like))
    fields = trees_of(slot, made)
    return {field: leaves.treedef.unflatten(column) for field, column in fields.items()}


def _placed(where: str, array: np.ndarray, store: Any, like: Any) -> Any:
    """Put a saved array into the form of its store, on the devices of its parameter."""
    form = store.zeros(like)
    if form is None:
        return None
    if not isinstance(form, Blocks):
        return fitted(where, array, form, cast=True)
    made = store.encode(jnp.asarray(array, jnp.float32), like)
    pairs = zip(made, form, strict=True)
    return Blocks(*(fitted(where, np.asarray(x), y, cast=False) for x, y in pairs))


def _start(
    request: Request, contents: Contents, slot: Slot, is_saved: bool
) -> Callable[[int, Any], Any] | None:
    """Return a function that starts a buffer; None if the buffer was saved."""
    name = slot.name
    begins = name == "ema" and contents.averages_later
    closed = name == "accumulator" and not read_in_window(request, contents)
    if is_saved and not (begins or closed or name in request.left):
        return None
    if slot.start == "param" or name == "residual":
        params = flatten(request.params).arrays
        # The residual of parameters that were written exactly.
        made = _residual if name == "residual" else _copied
        return lambda i, store: made(request, params[i], i, store)
    # An empty accumulator is negative zeros, which no sum of gradients is.
    empty = -0.0 if name == "accumulator" else 0.0

    def filled(i: int, store: Any) -> Any:
        return jax.tree.map(
            partial(_uniform, empty), store.zeros(request.leaves.arrays[i])
        )

    return filled


def _uniform(empty: float, like: jax.ShapeDtypeStruct) -> Any:
    array = np.full(like.shape, empty, like.dtype)
    if array.dtype.kind == "c" and np.signbit(empty):
        array = -np.zeros_like(array)
    return jax.device_put(array, like.sharding)


def _residual(request: Request, param: Any, i: int, store: Any) -> Any:
    made = store.zeros(jax.ShapeDtypeStruct(param.shape, param.dtype))
    return None if made is None else _copied(request, param, i, store)


def _copied(request: Request, param: Any, i: int, store: Any) -> Any:
    if isinstance(param, jax.ShapeDtypeStruct):
        raise at_leaf(
            request.leaves.paths[i],
            "what is kept beside it starts as a copy of the parameter, which was given "
            "as a shape.",
            "Pass the parameters themselves.",
        )
    return store.copy(jnp.asarray(param))


def _counts(request: Request, contents: Contents) -> dict[str, Any]:
    """Make the fields of State that are numbers for the whole tree."""
    control = request.control
    counts: dict[str, Any] = {}
    if request.tx is not None:
        counts = request.tx.recipe.composition.initial_scalars()
    counts["step"] = np.int32(contents.step)
    filled = read_in_window(request, contents)
    windowed = contents.accumulates and "accumulator" not in request.drop
    if "micro_step" in counts or (control is None and windowed):
        counts["micro_step"] = np.int32(filled)
        counts["weight"] = np.float32(filled)
    scaled = contents.loss_scale is not None and "loss_scale" not in request.left
    if scaled and ("loss_scale" in counts or control is None):
        counts["loss_scale"] = np.float32(contents.loss_scale)
        counts["growth"] = np.int32(contents.growth or 0)
    return counts


def _small(leaves: Leaves, value: Any) -> Any:
    """Put a small array on the mesh of the parameters, replicated."""
    if isinstance(value, dict):
        return {key: _small(leaves, entry) for key, entry in value.items()}
    for like in leaves.arrays:
        sharding = like.sharding
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return jax.device_put(value, NamedSharding(sharding.mesh, PartitionSpec()))
    return jnp.asarray(value)
