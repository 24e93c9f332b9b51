"""torchao's AdamW8bit, AdamW4bit and AdamWFp8, decoded.

| here | there |
|---|---|
| `step` | `step`, float32 |
| `mu`, `nu` | `exp_avg`, `exp_avg_sq` = table[codes] * scale of the block |
| `nu_max`, "raw" | `max_exp_avg_sq` |

A moment is a tensor (the parameters are small, or it was dequantized), one of
torchao's low-bit tensors, or a mapping of what they hold: `codes` and `scale`, with
`qmap` in 8 and 4 bits and `shape` in 4.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import to_numpy
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.blocks import decoded, nibbles, scaled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.grouping import groups_of
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import Layout, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.state_dict import (
    Saved,
    check_entries,
    common_step,
    read,
    starts,
    step_array,
    written,
)
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(
    title="torchao",
    keys={"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    maximum="raw",
    has_gaps=True,
)


def from_torchao(
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
    """The State that goes on where a low-bit AdamW of torchao was saved.

    The codes are decoded to exactly what torchao reads from them; nothing is rounded
    again. A 4-bit second moment has no zero, so none comes out.

    Args:
      saved: `optimizer.state_dict()`, of torchao's tensors, or with a mapping of arrays
        (`codes`, `scale`, `qmap`, `shape`) in the place of each.
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
      >>> from optadamw.interchange import from_torchao
      >>> low = {"codes": np.array([0, 64], np.uint8), "scale": np.array([2.0])}
      >>> low["qmap"] = np.arange(256) / 256
      >>> moments = {"step": np.float32(7), "exp_avg": low, "exp_avg_sq": low}
      >>> saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
      >>> from_torchao(saved, [jnp.zeros(2)]).mu[0].tolist()
      [0.0, 0.5]
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    found, groups = read(PEER.title, saved)
    steps = {
        one.label: one.entries["step"]
        for one in found
        if one.entries is not None and "step" in one.entries
    }
    rows = [Row(one.label, one.name, _buffers(one)) for one in found]
    step = common_step(steps, PEER.title)
    contents = Contents(rows=rows, step=step, starts=starts(found, groups))
    return assembled(request, contents)


def _buffers(one: Saved) -> dict[str, Any] | None:
    if one.entries is None:
        return None
    needed = ("step", "exp_avg", "exp_avg_sq")
    check_entries(PEER.title, one, needed, (*needed, "max_exp_avg_sq"))
    return {
        field: _reader(one.entries[key])
        for field, key in PEER.keys.items()
        if key in one.entries
    }


def _reader(moment: Any) -> Callable[[str], np.ndarray]:
    return lambda where: _decoded(where, moment)


def _decoded(where: str, moment: Any) -> np.ndarray:
    parts = _parts(moment)
    if parts is None:
        return to_numpy(where, moment)
    if parts.get("codes") is None or parts.get("scale") is None:
        raise at_leaf(
            where,
            f"a moment in low bits has 'codes' and 'scale'; got {sorted(parts)}.",
        )
    scales = to_numpy(f"scales of {where}", parts["scale"])
    table = parts.get("qmap")
    codes = to_numpy(f"codes of {where}", parts["codes"])
    if table is None:
        return _blockwise(where, codes, scales)
    if to_numpy(f"table of {where}", table).size == 16:
        codes = nibbles(codes.reshape(-1))
        shape = tuple(int(n) for n in parts.get("shape", codes.shape))
        if np.prod(shape, dtype=int) != codes.size:
            raise at_leaf(where, f"it has {codes.size} codes for the shape {shape}.")
        codes = codes.reshape(shape)
    return decoded(where, codes, table, scales, _block(where, codes, scales))


def _blockwise(where: str, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Codes that are numbers themselves: float8."""
    if values.dtype.kind in "iub":
        raise at_leaf(
            where,
            f"its codes are {values.dtype} and there is no table, 'qmap', for them.",
        )
    wide = values.astype(np.float32)
    return scaled(where, wide, scales, _block(where, wide, scales))


def _block(where: str, codes: np.ndarray, scales: np.ndarray) -> int:
    """Torchao quantizes whole blocks only."""
    if scales.size == 0 or codes.size % scales.size:
        raise at_leaf(
            where, f"its {codes.size} codes do not divide into {scales.size} blocks."
        )
    return codes.size // scales.size


def _parts(moment: Any) -> Mapping[str, Any] | None:
    """What a low-bit tensor holds; None for a plain one."""
    if isinstance(moment, Mapping):
        return moment
    if not hasattr(moment, "codes") or not hasattr(moment, "scale"):
        return None
    parts = {"codes": moment.codes, "scale": moment.scale}
    if getattr(moment, "qmap", None) is not None:
        parts["qmap"] = moment.qmap
    parts["shape"] = tuple(moment.shape)
    return parts


def to_torchao(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    drop: Collection[str] = (),
    amsgrad: Maximum | None = None,
) -> dict[str, Any]:
    """The state dict with which AdamW of torchao goes on, in full precision.

    torchao keeps such moments as they are: what is small there is never quantized.

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: paths in the order there, or a mapping; see `to_torch`.
      layout: `(path, array) -> array`, the inverse of that of `from_torchao`.
      groups: options of each group instead of those of `tx`; see `to_torch`.
      drop: buffers that are lost, such as ("ema",).
      amsgrad: the kind of `nu_max` where there is no `tx` to tell.

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors; see `to_torch`.

    Raises:
      TypeError, ValueError: as `to_torch`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_torchao
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> sorted(to_torchao(tx.init(params), params, tx=tx)["state"][0])
      ['exp_avg', 'exp_avg_sq', 'step']
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop, amsgrad)
    fields = [field for field in PEER.keys if field != "nu_max" or leaving.has(field)]
    columns = {PEER.keys[field]: leaving.column(field) for field in fields}

    def entries(place: int) -> dict[str, Any]:
        arrays = {key: column[place] for key, column in columns.items()}
        return {"step": step_array(leaving.step), **arrays}

    return written(
        leaving.places, entries, groups_of(leaving, groups, PEER.title, _options)
    )


def _options(settings: Settings) -> dict[str, Any]:
    return {
        # A tensor there: torchao refuses a rate that is a Python number.
        "lr": np.array(settings.learning_rate, np.float32),
        "betas": (settings.b1, settings.b2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "amsgrad": settings.amsgrad,
    }
