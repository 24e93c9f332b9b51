"""TensorFlow Addons' AdamW, whose weights stand slot by slot.

    [iter, m of all, v of all, vhat of all]

| here | there |
|---|---|
| `step` | `iter`, int64 |
| `mu`, `nu` | slots `m`, `v` |
| `nu_max`, "raw" | slot `vhat` |
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import whole
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import MOMENTS, Maximum, Peer
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.variables import by_number
from optadamw.store.state import State

PEER = Peer(
    name="tensorflow_addons",
    title="TensorFlow Addons",
    keys={"mu": "m", "nu": "v", "nu_max": "vhat"},
    maximum="raw",
    outputs_first=False,
)


@reads(PEER)
def from_tensorflow_addons(
    saved: Sequence[Any] | Mapping[str, Any],
    params: PyTree,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of an AdamW of TensorFlow Addons.

    The weights have no names: the parameters are in the order in which the optimizer
    met them, which must be that of `jax.tree.leaves(params)` or be given by `names`.
    The number of weights tells whether there was AMSGrad.
    `tf.keras.optimizers.legacy.Adam` keeps its weights in the same way.

    Args:
      saved: `optimizer.get_weights()`: a list that begins with `iter`, or a mapping
        from numbers ("0", "1", ... or "arr_0", "arr_1", ...) or from the names of
        `optimizer.weights` in their order.

    Raises:
      ValueError: another number of weights than `params` makes; names in another order.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_tensorflow_addons
      >>> saved = [np.int64(7), np.ones(2), np.ones(2)]
      >>> int(from_tensorflow_addons(saved, jnp.zeros(2)).step)
      7
    """
    request = Request.of(PEER, params, options)
    saved = _listed(saved)
    if not isinstance(saved, Sequence) or isinstance(saved, str) or not saved:
        raise mistyped("saved", "the list optimizer.get_weights() returns", saved)
    count, total = len(request.leaves.paths), len(saved) - 1
    slots, rest = divmod(total, count)
    if rest or slots not in (2, 3):
        raise ValueError(
            f"The saved state has {total} arrays after `iter`, and `params` has "
            f"{count} leaves: it would be {2 * count}, or {3 * count} with amsgrad. "
            "Pass the parameters that were trained."
        )
    fields = MOMENTS[:slots]
    rows = [
        Row(
            label=f"variable {i}",
            name=None,
            buffers={f: saved[1 + k * count + i] for k, f in enumerate(fields)},
        )
        for i in range(count)
    ]
    step = whole("iter", saved[0])
    return assembled(request, Contents(rows=rows, step=step, orders_maximum=True))


@writes(PEER)
def to_tensorflow_addons(
    state: PyTree,
    params: PyTree,
    *,
    amsgrad: Maximum | None = None,
    **options: Unpack[ToOptions],
) -> list[np.ndarray]:
    """Make the weights with which AdamW of TensorFlow Addons continues the run.

    `optimizer.set_weights` takes them once the optimizer has its slots, after a first
    `apply_gradients`.

    Returns:
      `[iter, m..., v..., vhat...]`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_tensorflow_addons
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> len(to_tensorflow_addons(tx.init(params), params, tx=tx))
      3
    """
    leaving = Departure.of(PEER, state, params, options, amsgrad)
    slots = [array for column in leaving.columns().values() for array in column]
    return [np.array(leaving.step, np.int64), *(x for x in slots if x is not None)]


def _listed(saved: Any) -> Any:
    """List the weights of a mapping by their numbers, or by names in their order."""
    if not isinstance(saved, Mapping):
        return saved
    found = by_number(saved)
    if found is not None:
        return found
    places = [_SLOT.fullmatch(str(name)) for name in saved]
    slots = [match[2] if match else None for match in places]
    names = [match[1] if match else None for match in places]
    count = slots.count("m")
    due = [slot for slot in ("m", "v", "vhat") if slot in slots]
    expected = [None, *(slot for slot in due for _ in range(count))]
    if slots != expected or names[1:] != names[1 : count + 1] * len(due):
        raise invalid(
            "saved",
            "numbered from 0, or named as in optimizer.weights: iter, then the slots "
            "'<parameter>/m' of all parameters, then '<parameter>/v'",
            list(saved)[:8],
            "Files that sort names lose the order: numpy.savez(file, "
            "*optimizer.get_weights()) keeps it.",
        )
    return list(saved.values())


_SLOT = re.compile(r"(.+)/(m|v|vhat)(?::0)?")
"""The name of a slot: "AdamW/dense/kernel/m:0"."""

FORM = Form(PEER, from_tensorflow_addons, to_tensorflow_addons)
