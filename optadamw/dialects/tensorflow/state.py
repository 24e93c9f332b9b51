"""tf.keras 2's AdamW (TensorFlow 2.11 and later, `tf_keras`).

| here | there |
|---|---|
| `step` | `iteration`, int64 |
| `mu`, `nu` | `m/*`, `v/*` |
| `nu_max`, "raw" | `vhat/*` |
| `ema` | `average/*` |

Its learning rate is not among its variables.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import mistyped
from optadamw.base.types import PyTree
from optadamw.dialects.keras.state import stored
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import Layout, Request
from optadamw.dialects.states.variables import Options, listed, sorted_out
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(
    title="tf.keras",
    keys={"mu": "m", "nu": "v", "nu_max": "vhat", "ema": "average"},
    maximum="raw",
)


def from_tensorflow(
    saved: Mapping[str, Any] | Sequence[Any],
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    missing: Missing = "error",
    drop: Collection[str] = (),
    afresh: Collection[str] = (),
    amsgrad: bool | None = None,
    use_ema: bool | None = None,
) -> State:
    """The State that goes on where tf.keras's AdamW was saved.

    As `from_keras`, whose list of variables it has, without accumulation and loss
    scale. Unlike Keras 3's, its average starts from the parameters, as ours does.

    Args:
      saved: `optimizer.variables`, a list of their values, or the store that
        `save_own_variables` filled.
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on; None: a bare State.
      names: paths of `params` in the order of `model.trainable_variables`, or a mapping
        from paths to the variables' names or indices.
      layout: `(path, array) -> array`, applied to each array that is read.
      missing: "zeros" starts parameters that are not there, "error" refuses them.
      drop: buffers there that are left behind.
      afresh: buffers of `tx` that start anew.
      amsgrad: whether the optimizer had it; None: as `tx`, else no.
      use_ema: the same.

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: as `from_keras`.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_tensorflow
      >>> saved = [np.int64(7), np.ones(2), np.ones(2)]
      >>> int(from_tensorflow(saved, jnp.zeros(2)).step)
      7
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    for name, value in (("amsgrad", amsgrad), ("use_ema", use_ema)):
        if value is not None and not isinstance(value, bool):
            raise mistyped(name, "True, False or None", value)
    if tx is not None:
        kept = {slot.name for slot in tx.recipe.composition.buffers}
        amsgrad = "nu_max" in kept if amsgrad is None else amsgrad
        use_ema = "ema" in kept if use_ema is None else use_ema
    options = Options(amsgrad, use_ema, accumulates=False, scales=False)
    variables = listed(PEER.title, saved)
    found = sorted_out(PEER.title, variables, len(request.leaves.paths), options)
    contents = Contents(rows=found.rows, step=found.iteration, orders_maximum=True)
    return assembled(request, contents)


def to_tensorflow(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    drop: Collection[str] = (),
    amsgrad: Maximum | None = None,
) -> list[np.ndarray]:
    """The values of the variables with which tf.keras's AdamW goes on.

        optimizer.build(model.trainable_variables)
        optimizer.set_weights(values)

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: paths in the order of `model.trainable_variables`, or a mapping from paths
        to indices there.
      layout: `(path, array) -> array`, the inverse of that of `from_tensorflow`.
      drop: buffers that are lost, such as ("ema",).
      amsgrad: the kind of `nu_max` where there is no `tx` to tell.

    Returns:
      Arrays in the order of `optimizer.variables`.

    Raises:
      TypeError, ValueError: a buffer that it has no place for, amsgrad's maximum of the
        wrong kind, names that do not fit.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_tensorflow
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> [array.shape for array in to_tensorflow(tx.init(params), params, tx=tx)]
      [(), (2,), (2,)]
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop, amsgrad)
    return stored(leaving, np.int64, "schedule")
