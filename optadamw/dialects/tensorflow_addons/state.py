"""TensorFlow Addons' AdamW, whose weights stand slot by slot.

    [iter, m of all, v of all, vhat of all]

| here | there |
|---|---|
| `step` | `iter`, int64 |
| `mu`, `nu` | slots `m`, `v` |
| `nu_max`, "raw" | slot `vhat` |
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import mistyped
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import whole
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import Layout, Request
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(
    title="TensorFlow Addons",
    keys={"mu": "m", "nu": "v", "nu_max": "vhat"},
    maximum="raw",
)


def from_tensorflow_addons(
    saved: Sequence[Any],
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    missing: Missing = "error",
    drop: Collection[str] = (),
    afresh: Collection[str] = (),
) -> State:
    """The State that goes on where AdamW of TensorFlow Addons was saved.

    The weights have no names: the parameters are in the order in which the optimizer
    met them, which is to be that of `jax.tree.leaves(params)` or is given by `names`.
    Their number says whether there was amsgrad. `tf.keras.optimizers.legacy.Adam`
    keeps the same.

    Args:
      saved: `optimizer.get_weights()`: a list that begins with `iter`.
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on; None: a bare State.
      names: paths of `params` in the saved order, or a mapping from paths to indices.
      layout: `(path, array) -> array`, applied to each array that is read.
      missing: "zeros" starts parameters that are not there, "error" refuses them.
      drop: buffers there that are left behind.
      afresh: buffers of `tx` that start anew.

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: another number of weights, shapes that do not fit, numbers
        that are not finite, options that differ. Nothing is made.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_tensorflow_addons
      >>> saved = [np.int64(7), np.ones(2), np.ones(2)]
      >>> int(from_tensorflow_addons(saved, jnp.zeros(2)).step)
      7
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    if not isinstance(saved, Sequence) or isinstance(saved, str) or not saved:
        raise mistyped("saved", "the list optimizer.get_weights() returns", type(saved))
    count, total = len(request.leaves.paths), len(saved) - 1
    slots, rest = divmod(total, count)
    if rest or slots not in (2, 3):
        raise ValueError(
            f"The saved state has {total} arrays after `iter`, and `params` has "
            f"{count} leaves: it would be {2 * count}, or {3 * count} with amsgrad. "
            "Pass the parameters that were trained."
        )
    fields = ("mu", "nu", "nu_max")[:slots]
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


def to_tensorflow_addons(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    drop: Collection[str] = (),
    amsgrad: Maximum | None = None,
) -> list[np.ndarray]:
    """The weights with which AdamW of TensorFlow Addons goes on.

    `optimizer.set_weights` takes them once the optimizer has its slots, after a first
    `apply_gradients`.

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: paths in the order of its variables, or a mapping from paths to indices.
      layout: `(path, array) -> array`, the inverse of that of the import.
      drop: buffers that are lost, such as ("ema",).
      amsgrad: the kind of `nu_max` where there is no `tx` to tell.

    Returns:
      `[iter, m..., v..., vhat...]`.

    Raises:
      TypeError, ValueError: a buffer that it has no place for, amsgrad's maximum of the
        wrong kind, names that do not fit.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_tensorflow_addons
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> len(to_tensorflow_addons(tx.init(params), params, tx=tx))
      3
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop, amsgrad)
    fields = [field for field in PEER.keys if field != "nu_max" or leaving.has(field)]
    slots = [array for field in fields for array in leaving.column(field)]
    return [np.array(leaving.step, np.int64), *(x for x in slots if x is not None)]
