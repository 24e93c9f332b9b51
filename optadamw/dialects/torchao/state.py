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

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import to_numpy
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.blocks import decoded, nibbles, scaled
from optadamw.dialects.states.contents import Saved
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.grouping import Groups, groups_of, numbers_of
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.state_dict import (
    as_saved,
    contents_of,
    moments_and_step,
    read,
    written,
)
from optadamw.store.state import State

PEER = Peer(
    name="torchao",
    title="torchao",
    keys={"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    maximum="raw",
    has_gaps=True,
    has_groups=True,
    outputs_first=True,
)


@reads(PEER)
def from_torchao(
    saved: Mapping[str, Any],
    params: PyTree,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of a low-bit AdamW of torchao.

    The codes are decoded to exactly the numbers that torchao reads from them; nothing
    is rounded again. A 4-bit second moment has no code for zero, so it is never zero
    here. Parameters are matched as `from_torch` does.

    Args:
      saved: `optimizer.state_dict()`, of torchao's tensors, or with a mapping of arrays
        (`codes`, `scale`, `qmap`, `shape`) in the place of each.

    Raises:
      TypeError, ValueError: codes, tables and scales that do not fit each other.

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
    request = Request.of(PEER, params, options)
    found = read(PEER.title, saved)
    return assembled(request, contents_of(PEER, found, value_of=_reader))


def _reader(one: Saved, key: str, step: int) -> Callable[[str], np.ndarray]:
    moment = as_saved(one, key, step)
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
    """Decode codes that are numbers themselves: float8."""
    if values.dtype.kind in "iub":
        raise at_leaf(
            where,
            f"its codes are {values.dtype} and there is no table, 'qmap', for them.",
        )
    wide = values.astype(np.float32)
    return scaled(where, wide, scales, _block(where, wide, scales))


def _block(where: str, codes: np.ndarray, scales: np.ndarray) -> int:
    """Return the size of a block; torchao quantizes whole blocks only."""
    if scales.size == 0 or codes.size % scales.size:
        raise at_leaf(
            where, f"its {codes.size} codes do not divide into {scales.size} blocks."
        )
    return codes.size // scales.size


def _parts(moment: Any) -> Mapping[str, Any] | None:
    """Return the arrays of a low-bit tensor; None for a plain tensor."""
    if isinstance(moment, Mapping):
        return moment
    if not hasattr(moment, "codes") or not hasattr(moment, "scale"):
        return None
    parts = {"codes": moment.codes, "scale": moment.scale}
    if getattr(moment, "qmap", None) is not None:
        parts["qmap"] = moment.qmap
    parts["shape"] = tuple(moment.shape)
    return parts


@writes(PEER)
def to_torchao(
    state: PyTree,
    params: PyTree,
    *,
    groups: Groups = None,
    amsgrad: Maximum | None = None,
    **options: Unpack[ToOptions],
) -> dict[str, Any]:
    """Make the state dict with which AdamW of torchao continues the run, in float32.

    torchao keeps moments as it finds them, so they are not quantized there.

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors; `to_torch` says how
      to make tensors of them.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_torchao
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> sorted(to_torchao(tx.init(params), params, tx=tx)["state"][0])
      ['exp_avg', 'exp_avg_sq', 'step']
    """
    leaving = Departure.of(PEER, state, params, options, amsgrad)
    chosen = groups_of(leaving, groups, _options)
    return written(leaving, chosen, moments_and_step(leaving))


def _options(settings: Settings) -> dict[str, Any]:
    # A tensor there: torchao refuses a rate that is a Python number.
    rate = np.array(settings.learning_rate, np.float32)
    return {**numbers_of(settings), "lr": rate, "amsgrad": settings.amsgrad}


FORM = Form(PEER, from_torchao, to_torchao, is_state_dict=True, needs_rate=True)
