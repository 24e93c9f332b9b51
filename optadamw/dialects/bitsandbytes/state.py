"""bitsandbytes' AdamW and Adam in 32 and 8 bits, decoded.

| here | there |
|---|---|
| `step` | `step`, an int of each parameter |
| `mu`, `nu` | `state1`, `state2`, or qmap[state] * absmax of the block |

Blocks have 256 elements, and 2048 before version 0.44; the number of scales tells.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import to_numpy
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.blocks import decoded
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.grouping import groups_of
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.request import Layout, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.state_dict import (
    Saved,
    check_entries,
    common_step,
    read,
    starts,
    written,
)
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(title="bitsandbytes", keys={"mu": "state1", "nu": "state2"}, has_gaps=True)

NESTED = "__bnb_optimizer_quant_state__"
"""Under which `state_dict()` hides its tensors from PyTorch's casts."""

BLOCKS = (256, 2048)

LEGAL = (
    *("step", "state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2"),
    *("gnorm_vec", "unorm_vec"),
)


def from_bitsandbytes(
    saved: Mapping[str, Any],
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    missing: Missing = "error",
    drop: Collection[str] = (),
    afresh: Collection[str] = (),
) -> State:
    """The State that goes on where an optimizer of bitsandbytes was saved.

    Codes of 8 bits are decoded to exactly what bitsandbytes reads from them; nothing
    is rounded again. Whole-tensor 8-bit states (`block_wise=False`, before 0.50) are
    refused.

    Args:
      saved: `optimizer.state_dict()`, of tensors or arrays.
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on; None: a bare State in float32.
      names: paths of `params` in the saved order (None for one that is not there), or
        a mapping from paths to names or indices; see `from_torch`.
      layout: `(path, array) -> array`, applied to each array after it is decoded.
      missing: "zeros" starts parameters without state there, "error" refuses them.
      drop: buffers there that are left behind.
      afresh: buffers of `tx` that start anew.

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: as `from_torch`; codes, tables and scales that do not fit.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_bitsandbytes
      >>> moments = {"step": 7, "state1": np.ones(2), "state2": np.ones(2)}
      >>> saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
      >>> int(from_bitsandbytes(saved, [jnp.zeros(2)]).step)
      7
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    listed, groups = read(PEER.title, saved)
    found = [_opened(one) for one in listed]
    steps = {
        one.label: one.entries["step"]
        for one in found
        if one.entries is not None and "step" in one.entries
    }
    rows = [Row(one.label, one.name, _buffers(one)) for one in found]
    step = common_step(steps, PEER.title)
    contents = Contents(rows=rows, step=step, starts=starts(found, groups))
    return assembled(request, contents)


def _opened(one: Saved) -> Saved:
    """The entries with those that hide in a dict of their own."""
    if one.entries is None:
        return one
    entries = dict(one.entries)
    hidden = entries.pop(NESTED, {})
    return one._replace(entries={**entries, **hidden})


def _buffers(one: Saved) -> dict[str, Any] | None:
    if one.entries is None:
        return None
    if "max1" in one.entries:
        raise at_leaf(
            one.label,
            "it has one scale for a whole tensor (block_wise=False), which is not "
            "read here.",
            "Load it in bitsandbytes below 0.50 and save it with optim_bits=32.",
        )
    check_entries(PEER.title, one, ("step", "state1", "state2"), LEGAL)
    return {field: _reader(one.entries, key[-1]) for field, key in PEER.keys.items()}


def _reader(entries: Mapping[str, Any], number: str) -> Callable[[str], np.ndarray]:
    return lambda where: _decoded(where, entries, number)


def _decoded(where: str, entries: Mapping[str, Any], number: str) -> np.ndarray:
    array = to_numpy(where, entries[f"state{number}"])
    if array.dtype != np.uint8:
        return array
    table, scales = entries.get(f"qmap{number}"), entries.get(f"absmax{number}")
    if table is None or scales is None:
        raise at_leaf(
            where,
            f"it is in 8 bits and has no 'qmap{number}' or no 'absmax{number}'.",
            "The state is damaged.",
        )
    count = to_numpy(f"scales of {where}", scales).size
    fitting = [size for size in BLOCKS if -(-array.size // size) == count]
    block = fitting[0] if fitting else BLOCKS[0]  # which then says what is wrong
    return decoded(where, array, table, scales, block)


def to_bitsandbytes(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    drop: Collection[str] = (),
) -> dict[str, Any]:
    """The state dict with which a 32-bit AdamW of bitsandbytes goes on.

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: paths in the order there, or a mapping; see `to_torch`.
      layout: `(path, array) -> array`, the inverse of that of `from_bitsandbytes`.
      groups: options of each group instead of those of `tx`; see `to_torch`.
      drop: buffers that are lost, such as ("ema",).

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors; see `to_torch`.

    Raises:
      TypeError, ValueError: a buffer that it has no place for, a `tx` that it cannot
        follow, names that do not fit.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_bitsandbytes
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_bitsandbytes(tx.init(params), params, tx=tx)
      >>> saved["state"][0]["step"]
      0
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop)
    columns = {key: leaving.column(field) for field, key in PEER.keys.items()}

    def entries(place: int) -> dict[str, Any]:
        arrays = {key: column[place] for key, column in columns.items()}
        return {"step": leaving.step, NESTED: arrays}

    return written(
        leaving.places, entries, groups_of(leaving, groups, PEER.title, _options)
    )


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "lr": settings.learning_rate,
        "betas": (settings.b1, settings.b2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "alpha": 0.0,
        "t_alpha": None,
        "t_beta3": None,
    }
