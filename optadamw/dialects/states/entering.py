"""Arrays on their way in: each turned by `layout` and checked before it is used."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf
from optadamw.base.numerics import compute_dtype
from optadamw.dialects.states.arrays import numbers
from optadamw.dialects.states.contents import Contents, Row, unquoted
from optadamw.dialects.states.naming import Theirs, matched
from optadamw.dialects.states.request import Request
from optadamw.dialects.states.settings import frozen_leaves, has_maximum, negations

NEVER_NEGATIVE = ("nu", "nu_max")


def counterparts(request: Request, contents: Contents) -> list[int | None]:
    """Return for each leaf the index of its row in `contents`; None: it has none.

    Raises:
      TypeError, ValueError: names or numbers of parameters that do not fit.
    """
    request.check_complex("Start this parameter afresh, outside of what is converted.")
    theirs = [Theirs(r.label, r.name, r.buffers is not None) for r in contents.rows]
    paths = request.leaves.paths
    pairs = zip(paths, _frozen(request), strict=True)
    frozen = {path for path, is_frozen in pairs if is_frozen}
    return matched(request.names, paths, theirs, request.missing, frozen)


def entered(
    request: Request, contents: Contents, places: Sequence[int | None]
) -> dict[str, list[np.ndarray]]:
    """Return the arrays of each field for every leaf, in the order of the tree.

    Raises:
      TypeError, ValueError: an array that does not fit, with its path.
    """
    leaves, peer = request.leaves, request.peer
    _check_signs(request, contents, places)
    columns: dict[str, list[np.ndarray]] = {field: [] for field in contents.fields}
    frozen = _frozen(request)
    grows = [True] * len(places)
    if request.tx is not None and "nu_max" in contents.fields:
        grows = has_maximum(request.tx, leaves)
    for i, (path, place) in enumerate(zip(leaves.paths, places, strict=True)):
        like = leaves.arrays[i]
        row = None if place is None else contents.rows[place]
        if frozen[i] or row is None or row.buffers is None:
            is_begun = not contents.starts and not frozen[i]
            if row is not None and is_begun and request.missing == "error":
                raise at_leaf(
                    path,
                    f"{row.label} of {peer.title}, its counterpart, has no state: it "
                    "never had a gradient.",
                    "Start such parameters with missing='zeros'.",
                )
            for column in columns.values():
                column.append(np.zeros(like.shape, _dtype(like)))
            continue
        for field, column in columns.items():
            if field == "nu_max" and field not in row.buffers and not grows[i]:
                column.append(np.zeros(like.shape, _dtype(like)))
            else:
                column.append(_entered(request, path, like, row, field))
        if contents.orders_maximum:
            _check_maximum(request, path, row, columns)
    return columns


def square_kernels(
    request: Request, contents: Contents, places: Sequence[int | None]
) -> list[str]:
    """Return the paths of square kernels that `layout` leaves as the peer has them.

    Every other shape tells whether a kernel is transposed on its way from a library
    whose dense layers have weights of shape (outputs, inputs). One that fits as it was
    saved shows that the saved model had the layout of `params`: then there are none.
    """
    if not request.peer.outputs_first:
        return []
    found, others = [], []
    leaves, frozen = request.leaves, _frozen(request)
    for i, (path, place) in enumerate(zip(leaves.paths, places, strict=True)):
        like = leaves.arrays[i]
        row = None if place is None else contents.rows[place]
        moment = None if row is None else (row.buffers or {}).get("mu")
        is_kernel = len(like.shape) == 2 and path.rpartition("/")[2] == "kernel"
        if moment is None or not is_kernel:
            continue
        if like.shape[0] != like.shape[1]:
            others.append((path, moment, like.shape))
            continue
        if frozen[i]:  # its moments are not read, and may have another shape
            continue
        array = _moment(path, moment)
        if request.layout is None:
            array = array.reshape(like.shape)
        elif array.shape != like.shape:  # `layout` has changed it
            continue
        turned = np.asarray(request.turned(path, array))
        if np.array_equal(turned, array) and not np.array_equal(array, array.T):
            found.append(path)
    fits = found and any(_moment(p, one).shape == shape for p, one, shape in others)
    return [] if fits else found


def _frozen(request: Request) -> list[bool]:
    if request.tx is None:
        return [False] * len(request.leaves.paths)
    return frozen_leaves(request.tx, request.leaves)


def _moment(path: str, value: Any) -> np.ndarray:
    return numbers(path, value(path) if callable(value) else value)


def _entered(
    request: Request, path: str, like: Any, row: Row, field: str
) -> np.ndarray:
    assert row.buffers is not None
    key = request.peer.key(field)
    if field not in row.buffers:
        raise at_leaf(
            path,
            f"{row.label} of {request.peer.title}, its counterpart, has no '{key}', "
            "which others have.",
            "Save it with one set of options.",
        )
    where = f"{path or '(the root)'}: {key} of {unquoted(row.label)}"
    value = row.buffers[field]
    array = numbers(where, value(where) if callable(value) else value)
    if callable(value) and array.ndim == 1 and request.layout is None:
        # Blocks are kept flat, and not always with the shape that they had.
        array = array.reshape(like.shape) if array.size == like.size else array
    shape = array.shape
    if request.layout is not None:
        array = numbers(where, request.turned(path, array))
    if array.shape != like.shape:
        made = f" ({array.shape} by `layout`)" if array.shape != shape else ""
        raise at_leaf(
            path,
            f"'{key}' of {row.label} has shape {shape}{made}, the parameter "
            f"{like.shape}.",
            _remedy(request, array.shape, like.shape),
        )
    is_complex = jnp.issubdtype(like.dtype, jnp.complexfloating)
    if (array.dtype.kind == "c") != is_complex:
        raise kind_at_leaf(
            path,
            f"'{key}' of {row.label} is {array.dtype}, the parameter {like.dtype}.",
            "Both must be real or both complex.",
        )
    most = float(jnp.finfo(compute_dtype(like.dtype)).max)
    with np.errstate(over="ignore"):  # in float16 the largest float32 is infinity
        beyond = np.count_nonzero(np.abs(array) > most)
    if beyond:
        raise at_leaf(
            path,
            f"'{key}' of {row.label} has {beyond} numbers above {most:.2g}, the "
            "largest of the dtype that its buffer has here.",
            "The run was broken when it was saved: take an earlier checkpoint.",
        )
    if field in NEVER_NEGATIVE:
        reals = array if not is_complex else np.minimum(array.real, array.imag)
        if np.any(reals < 0):
            raise at_leaf(
                path,
                f"'{key}' of {row.label} is a mean of squares, and "
                f"{np.count_nonzero(reals < 0)} of its numbers are negative.",
                "It is another buffer than it is taken for, or damaged.",
            )
    return array


def _remedy(request: Request, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if found == wanted[::-1]:
        return "It is transposed there: pass layout=lambda path, x: x.T, where it is."
    if request.names is None:
        return "The order may be another: say which is which with `names`."
    return "Check `names`, or turn it with `layout`."


def _check_maximum(
    request: Request, path: str, row: Row, columns: dict[str, list[np.ndarray]]
) -> None:
    """Refuse a second moment above its maximum: one of the two is another buffer."""
    if "nu_max" not in columns:
        return
    nu, largest = columns["nu"][-1], columns["nu_max"][-1]
    if np.any(nu > largest):
        raise at_leaf(
            path,
            f"'{request.peer.key('nu')}' of {row.label} is above "
            f"'{request.peer.key('nu_max')}', its maximum, in "
            f"{np.count_nonzero(nu > largest)} places: the saved state has other "
            "variables than was said.",
            "It may have an average (use_ema) or accumulators in that place.",
        )


def _check_signs(
    request: Request, contents: Contents, places: Sequence[int | None]
) -> None:
    """Refuse a leaf if only one of `tx` and the saved run negates its gradients."""
    if request.tx is None or not contents.step or "mu" in request.afresh:
        return
    signs = negations(request.tx, request.leaves)
    for path, place, sign in zip(request.leaves.paths, places, signs, strict=True):
        row = None if place is None else contents.rows[place]
        if row is None or row.buffers is None or row.negated == sign:
            continue
        there, here = ("with", "without") if row.negated else ("without", "with")
        raise at_leaf(
            path,
            f"it was saved {there} maximize, and `tx` is {here} it: the first moment "
            "is that of gradients of the other sign.",
            "Make tx as it was.",
        )


def _dtype(like: jax.ShapeDtypeStruct) -> np.dtype:
    is_complex = jnp.issubdtype(like.dtype, jnp.complexfloating)
    return np.dtype(np.complex64 if is_complex else np.float32)
