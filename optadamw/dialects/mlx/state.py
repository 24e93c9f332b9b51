"""MLX's AdamW and Adam.

    {"step": ..., "learning_rate": ..., "layers": [{"weight": {"m": ..., "v": ...}}]}

| here | there |
|---|---|
| `step` | `step`, uint64 |
| `mu`, `nu` | `m`, `v`, in the dtype of the gradients |
"""

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from optadamw.base.errors import at_leaf, invalid, mistyped
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import to_numpy, whole
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.nesting import (
    dotted,
    flattened,
    moments_by_path,
    nested,
    text_dicts,
)
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.rates import rate_by_key
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.signature import reads, writes
from optadamw.store.state import State

PEER = Peer(
    name="mlx",
    title="MLX",
    keys={"mu": "m", "nu": "v"},
    outputs_first=True,
)

RESERVED = ("step", "learning_rate")


@reads(PEER)
def from_mlx(
    saved: Mapping[str, Any],
    params: PyTree,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of an optimizer of MLX.

    Parameters are matched by their names, which MLX's state has. Whether MLX corrected
    the bias (it does not by default) changes the steps and not the state.

    Args:
      saved: `optimizer.state`, nested, or flat as `mlx.utils.tree_flatten` makes it
        ("layers.0.weight.m").

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_mlx
      >>> saved = {"step": np.uint64(7), "learning_rate": np.float32(1e-3)}
      >>> saved["w"] = {"m": np.ones(2), "v": np.ones(2)}
      >>> int(from_mlx(saved, {"w": jnp.zeros(2)}).step)
      7
    """
    request = Request.of(PEER, params, options)
    remedy = "Pass optimizer.state."
    if not isinstance(saved, Mapping):
        raise mistyped("saved", "the state of an optimizer of MLX", saved, remedy)
    if "step" not in saved or isinstance(saved["step"], Mapping):
        raise invalid("saved", "a dict with 'step'", sorted(map(str, saved)), remedy)
    rest = {key: value for key, value in saved.items() if key not in RESERVED}
    rows = []
    for path, record in flattened(_unflattened(rest), _is_record).items():
        if record is not None and set(record) != {"m", "v"}:
            raise at_leaf(
                path,
                f"the saved state has {sorted(map(str, record))} for it; Adam and "
                "AdamW of MLX have 'm' and 'v'.",
            )
        buffers = record and {"mu": record["m"], "nu": record["v"]}
        rows.append(Row(f"'{path}'", path, buffers))
    contents = Contents(rows=rows, step=whole("step", saved["step"]))
    return assembled(request, contents)


def _is_record(node: Any) -> bool:
    """Whether a dict holds arrays and not further parameters."""
    if not isinstance(node, Mapping) or not node:
        return False
    return not any(
        child is None or isinstance(child, Mapping | list | tuple)
        for child in node.values()
    )


def _unflattened(flat: Mapping[str, Any]) -> Any:
    """Group a state whose keys are whole paths by parameter."""
    if not any(
        str(key).endswith((".m", ".v")) and not isinstance(value, Mapping)
        for key, value in flat.items()
    ):
        return flat
    records: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        path, _, field = str(key).rpartition(".")
        records.setdefault(path, {})[field] = value
    return records


@writes(PEER)
def to_mlx(
    state: PyTree,
    params: PyTree,
    *,
    learning_rate: float | None = None,
    **options: Unpack[ToOptions],
) -> dict[str, Any]:
    """Make the state with which AdamW of MLX continues the run.

    It holds NumPy arrays; MLX wants its own:

        optimizer.state = mlx.utils.tree_map(mx.array, saved)

    Args:
      names: A mapping from paths of `params` to MLX's names. None (default) keeps the
        paths.
      learning_rate: The learning rate in MLX's state. None (default) takes that of `tx`
        in the next step.

    Returns:
      Nested dicts, and lists if the names are numbers. If `params` has lists, its dicts
      with texts as keys stay dicts.

    Raises:
      ValueError: no learning rate; a parameter called "step" or "learning_rate".

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_mlx
      >>> params, tx = {"layers": [{"w": jnp.zeros(2)}]}, optadamw.adamw(1e-3)
      >>> to_mlx(tx.init(params), params, tx=tx)["layers"][0]["w"]["m"].tolist()
      [0.0, 0.0]
    """
    leaving = Departure.of(PEER, state, params, options)
    rate = _rate(leaving) if learning_rate is None else learning_rate
    flat = {p: {"m": m, "v": v} for p, (m, v) in moments_by_path(leaving).items()}
    for path in flat:
        if not path or path.partition("/")[0] in RESERVED:
            raise at_leaf(
                path,
                "MLX keeps its parameters by names beside 'step' and 'learning_rate'.",
                "Give it another name with `names`.",
            )
    made = nested(flat, fills_gaps=True, dicts=text_dicts(leaving))
    if isinstance(made, list):
        made = {str(i): value for i, value in enumerate(made) if value != {}}
    return {
        "step": np.array(leaving.step, np.uint64),
        "learning_rate": np.array(to_numpy("learning_rate", rate), np.float32),
        **made,
    }


def _rate(leaving: Departure) -> Any:
    known = leaving.learning_rate()
    if known is None:
        raise ValueError(
            "MLX keeps the learning rate in its state, and it is not known. Pass `tx` "
            "or learning_rate=."
        )
    return known.at(leaving.clock)


FORM = Form(
    PEER,
    from_mlx,
    to_mlx,
    has_names=True,
    needs_rate=True,
    numbers=rate_by_key,
    filed=dotted,
    written_with=("learning_rate",),
)
