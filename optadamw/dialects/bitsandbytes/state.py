"""bitsandbytes' AdamW and Adam in 32 and 8 bits, decoded.

| here | there |
|---|---|
| `step` | `step`, an int of each parameter |
| `mu`, `nu` | `state1`, `state2`, or qmap[state] * absmax of the block |

Blocks have 256 elements, and 2048 before version 0.44; the number of scales tells.
"""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import to_numpy
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.blocks import decoded
from optadamw.dialects.states.contents import Saved
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.grouping import Groups, groups_of, numbers_of
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.state_dict import (
    contents_of,
    read,
    written,
)
from optadamw.store.state import State

PEER = Peer(
    name="bitsandbytes",
    title="bitsandbytes",
    keys={"mu": "state1", "nu": "state2"},
    has_gaps=True,
    has_groups=True,
    outputs_first=True,
)

NESTED = "__bnb_optimizer_quant_state__"
"""The key under which `state_dict()` hides its tensors from PyTorch's casts."""

BLOCKS = (256, 2048)

BESIDE = ("qmap1", "qmap2", "absmax1", "absmax2", "gnorm_vec")
"""The entries besides the step and the moments."""


@reads(PEER)
def from_bitsandbytes(
    saved: Mapping[str, Any],
    params: PyTree,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of an optimizer of bitsandbytes.

    Codes of 8 bits are decoded to exactly the numbers that bitsandbytes reads from
    them; nothing is rounded again. States with one scale for a whole tensor
    (`block_wise=False`, before 0.50) are refused. Parameters are matched as
    `from_torch` does.

    Args:
      saved: `optimizer.state_dict()`, of tensors or arrays.

    Raises:
      TypeError, ValueError: codes, tables and scales that do not fit each other.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_bitsandbytes
      >>> moments = {"step": 7, "state1": np.ones(2), "state2": np.ones(2)}
      >>> saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
      >>> int(from_bitsandbytes(saved, [jnp.zeros(2)]).step)
      7
    """
    request = Request.of(PEER, params, options)
    found = [_opened(one) for one in read(PEER.title, saved)]
    return assembled(request, contents_of(PEER, found, beside=BESIDE, value_of=_reader))


def _opened(one: Saved) -> Saved:
    """Add the entries that stand in a dict of their own to the others."""
    entries = dict(one.entries)
    entries |= entries.pop(NESTED, {})
    if "max1" in entries:
        raise at_leaf(
            one.label,
            "it has one scale for a whole tensor (block_wise=False), which is not "
            "read here.",
            "Load it in bitsandbytes below 0.50 and save it with optim_bits=32.",
        )
    return one._replace(entries=entries)


def _reader(one: Saved, key: str, step: int) -> Callable[[str], np.ndarray]:
    del step
    return lambda where: _decoded(where, one.entries, key[-1])


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


@writes(PEER)
def to_bitsandbytes(
    state: PyTree,
    params: PyTree,
    *,
    groups: Groups = None,
    **options: Unpack[ToOptions],
) -> dict[str, Any]:
    """Make the state dict with which a 32-bit AdamW of bitsandbytes continues the run.

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors; `to_torch` says how
      to make tensors of them.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_bitsandbytes
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_bitsandbytes(tx.init(params), params, tx=tx)
      >>> saved["state"][0]["step"]
      0
    """
    leaving = Departure.of(PEER, state, params, options)
    columns = leaving.columns()

    def entries(place: int) -> dict[str, Any]:
        moments = {key: column[place] for key, column in columns.items()}
        return {"step": leaving.step, NESTED: moments}

    return written(leaving, groups_of(leaving, groups, _options), entries)


def _options(settings: Settings) -> dict[str, Any]:
    return numbers_of(settings) | {"alpha": 0.0, "t_alpha": None, "t_beta3": None}


FORM = Form(
    PEER, from_bitsandbytes, to_bitsandbytes, is_state_dict=True, needs_rate=True
)
