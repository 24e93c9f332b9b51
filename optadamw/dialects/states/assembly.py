"""Make a State of the contents of a saved state, or refuse them before any is made."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optadamw.base.errors import at_leaf
from optadamw.base.hyperparameters import Clock
from optadamw.base.tree import Leaves, flatten
from optadamw.checkpoint.fitting import fitted
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.dialects.states.contents import Contents
from optadamw.dialects.states.entering import entered
from optadamw.dialects.states.peer import DIFFERENCE
from optadamw.dialects.states.request import Request
from optadamw.dialects.states.settings import frozen_leaves, kind_of_maximum
from optadamw.store.absent import Absent
from optadamw.store.block_code import Blocks
from optadamw.store.columns import trees_of
from optadamw.store.dense import Dense
from optadamw.store.slot import Slot
from optadamw.store.state import BUFFERS, State, state_of
from optadamw.transforms.transformation import Transformation

OPTION = {
    "mu": "scale_by_adam",
    "nu": "scale_by_adam",
    "nu_max": "amsgrad",
    "ema": "ema_decay",
    "accumulator": "accumulate_steps",
    "loss_scale": "loss_scale",
}
"""The option that makes a transformation keep each buffer."""

AGREED = ("mu", "nu", "nu_max", "ema")
"""The buffers that `tx` and the saved state must both have, or neither."""


def assembled(request: Request, contents: Contents) -> State:
    """Make the State that continues from `contents`.

    Raises:
      TypeError, ValueError: the contents do not fit the request; nothing is made.
    """
    _check_own(request, contents)
    fields = set(contents.fields) - set(request.drop)
    if request.tx is not None:
        request.tx.init(request.leaves.treedef.unflatten(request.leaves.arrays))
        _check_agreed(request, request.tx, fields)
        _check_meaning(request, request.tx, contents, fields)
        _check_window(request, request.tx, contents)
        _check_scale(request, request.tx, contents)
    columns = entered(request, contents)
    buffers: dict[str, Any] = {}
    for slot in _slots(request.tx, fields).values():
        buffers |= _buffer(request, contents, slot, columns)
    small = {
        name: _small(request.leaves, value)
        for name, value in _counts(request, contents).items()
    }
    return state_of(buffers | small)


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
    closed = name == "accumulator" and not _filled(request, contents)
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
    filled = _filled(request, contents)
    windowed = contents.accumulates and "accumulator" not in request.drop
    if "micro_step" in counts or (control is None and windowed):
        counts["micro_step"] = np.int32(filled)
        counts["weight"] = np.float32(filled)
    scaled = contents.loss_scale is not None and "loss_scale" not in request.left
    if scaled and ("loss_scale" in counts or control is None):
        counts["loss_scale"] = np.float32(contents.loss_scale)
        counts["growth"] = np.int32(contents.growth or 0)
    return counts


def _filled(request: Request, contents: Contents) -> int:
    return 0 if "accumulator" in request.left else contents.micro_step


def _small(leaves: Leaves, value: Any) -> Any:
    """Put a small array on the mesh of the parameters, replicated."""
    if isinstance(value, dict):
        return {key: _small(leaves, entry) for key, entry in value.items()}
    for like in leaves.arrays:
        sharding = like.sharding
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return jax.device_put(value, NamedSharding(sharding.mesh, PartitionSpec()))
    return jnp.asarray(value)


# --- What has to agree with the transformation ---------------------------------------


def _check_own(request: Request, contents: Contents) -> None:
    for name in contents.own:
        if name not in request.drop:
            raise ValueError(
                f"The saved state holds '{name}', which no State has: what it holds "
                f"would be lost. Leave it behind with drop=({name!r},)."
            )


def _check_agreed(request: Request, tx: Transformation, fields: set[str]) -> None:
    kept = {slot.name for slot in tx.recipe.composition.buffers}
    title = request.peer.title
    for name in AGREED:
        key, option = request.peer.key(name), OPTION[name]
        if name in fields and name not in kept:
            raise ValueError(
                f"The saved state holds `{name}` ('{key}' of {title}), which `tx` does "
                f"not keep: they differ in the option `{option}`. Make tx with it, or "
                f"leave the buffer behind with drop=({name!r},)."
            )
        if name in kept and name not in fields and name not in request.afresh:
            raise ValueError(
                f"`tx` keeps `{name}`, and the saved state of {title} does not hold "
                f"it: they differ in the option `{option}`. Make tx without it, or "
                f"start the buffer afresh with afresh=({name!r},)."
            )
    for name in request.custom:
        if name not in request.afresh:
            raise ValueError(
                f"`tx` keeps `{name}`, a buffer of a rule of your own, which no saved "
                f"state of {title} holds. Start it afresh with afresh=({name!r},)."
            )


def _check_meaning(
    request: Request, tx: Transformation, contents: Contents, fields: set[str]
) -> None:
    kind = kind_of_maximum(tx)
    used = "nu_max" in fields and "nu_max" not in request.afresh
    if used and kind != contents.maximum:
        raise ValueError(
            f"`tx` has amsgrad={kind!r}, and {request.peer.title} saved the maximum "
            f"of the {contents.maximum} second moments: {DIFFERENCE}. Use "
            f"amsgrad={contents.maximum!r}, or start the maximum afresh with "
            "afresh=('nu_max',)."
        )


def _check_window(request: Request, tx: Transformation, contents: Contents) -> None:
    filled = _filled(request, contents)
    if not filled:
        return
    accumulation = tx.recipe.composition.control.accumulation
    remedy = "Make tx as it was, or lose the window with drop=('accumulator',)."
    inside = f"The state was saved inside a window, with {filled} gradients in it"
    if accumulation is None:
        raise ValueError(
            f"{inside}, and `tx` does not accumulate: they differ in the option "
            f"`accumulate_steps`. {remedy}"
        )
    if not accumulation.use_grad_mean:
        raise ValueError(f"{inside}, to be averaged, and `tx` sums them. {remedy}")
    every = int(accumulation.due(Clock.at(jnp.int32(contents.step))))
    if filled >= every:
        raise ValueError(
            f"{inside}, and a window of `tx` holds {every}: they differ in the option "
            f"`accumulate_steps`. {remedy}"
        )


def _check_scale(request: Request, tx: Transformation, contents: Contents) -> None:
    scale = contents.loss_scale
    dynamic = tx.recipe.composition.control.loss_scale
    if "loss_scale" in request.left:
        return
    if scale is None:
        is_lacking = "loss_scale" in request.peer.keys
        if is_lacking and isinstance(dynamic, DynamicLossScale):
            raise ValueError(
                "`tx` keeps a dynamic loss scale, and the saved state of "
                f"{request.peer.title} does not hold one: they differ in the option "
                "`loss_scale`. Convert the state of the LossScaleOptimizer, or start "
                "the scale afresh with afresh=('loss_scale',)."
            )
        return
    remedy = "Make tx with it, or leave the scale behind with drop=('loss_scale',)."
    if not isinstance(dynamic, DynamicLossScale):
        raise ValueError(
            f"The saved state holds a dynamic loss scale of {scale!r}, which `tx` does "
            "not keep: they differ in the option `loss_scale`, a DynamicLossScale. "
            f"{remedy}"
        )
    if not dynamic.minimum <= scale <= dynamic.maximum:
        raise ValueError(
            f"The saved loss scale is {scale!r}, and that of `tx` stays in "
            f"[{dynamic.minimum!r}, {dynamic.maximum!r}]. Widen its bounds, or leave "
            "the scale behind with drop=('loss_scale',)."
        )
