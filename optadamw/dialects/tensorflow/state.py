"""tf.keras 2's AdamW (TensorFlow 2.11 and later, `tf_keras`).

| here | there |
|---|---|
| `step` | `iteration`, int64 |
| `mu`, `nu` | `m/*`, `v/*` |
| `nu_max`, "raw" | `vhat/*` |
| `ema` | `average/*` |

Its learning rate is not among its variables.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from optadamw.base.types import PyTree
from optadamw.dialects.keras.state import options_of, stored
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.variables import listed, sorted_out
from optadamw.store.state import State

PEER = Peer(
    name="tensorflow",
    title="tf.keras",
    keys={"mu": "m", "nu": "v", "nu_max": "vhat", "ema": "average"},
    maximum="raw",
    outputs_first=False,
)


@reads(PEER)
def from_tensorflow(
    saved: Mapping[str, Any] | Sequence[Any],
    params: PyTree,
    *,
    amsgrad: bool | None = None,
    use_ema: bool | None = None,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of tf.keras's AdamW.

    `saved` is the list of variables that `from_keras` describes, without accumulation
    and loss scale. Unlike Keras 3's average, tf.keras's starts from the parameters, as
    it does here.

    Args:
      saved: `optimizer.variables`, a list of their values, or the store that
        `save_own_variables` filled.
      amsgrad: Whether the optimizer has AMSGrad. None (default) asks the names of the
        variables, or `tx`; without either it has none.
      use_ema: Whether the optimizer keeps an average. None (default) asks likewise.

    Raises:
      ValueError: another number of variables than these options make.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_tensorflow
      >>> saved = [np.int64(7), np.ones(2), np.ones(2)]
      >>> int(from_tensorflow(saved, jnp.zeros(2)).step)
      7
    """
    request = Request.of(PEER, params, options)
    made_with = options_of(request.tx, amsgrad, use_ema, every=1)._replace(scales=False)
    variables = listed(PEER.title, saved)
    found = sorted_out(PEER.title, variables, len(request.leaves.paths), made_with)
    contents = Contents(rows=found.rows, step=found.iteration, orders_maximum=True)
    return assembled(request, contents)


@writes(PEER)
def to_tensorflow(
    state: PyTree,
    params: PyTree,
    *,
    amsgrad: Maximum | None = None,
    **options: Unpack[ToOptions],
) -> list[np.ndarray]:
    """Make the values of the variables with which tf.keras's AdamW continues the run.

        optimizer.build(model.trainable_variables)
        optimizer.set_weights(values)

    `names` is about the order of `model.trainable_variables`.

    Returns:
      Arrays in the order of `optimizer.variables`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_tensorflow
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> [array.shape for array in to_tensorflow(tx.init(params), params, tx=tx)]
      [(), (2,), (2,)]
    """
    leaving = Departure.of(PEER, state, params, options, amsgrad)
    return stored(leaving, np.int64, "schedule")


FORM = Form(
    PEER,
    from_tensorflow,
    to_tensorflow,
    to_read=lambda plan: {"amsgrad": plan.amsgrad == "raw", "use_ema": plan.use_ema},
    read_with=("amsgrad", "use_ema"),
)
