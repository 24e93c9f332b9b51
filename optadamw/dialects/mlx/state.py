"""MLX's AdamW and Adam.

    {"step": ..., "learning_rate": ..., "layers": [{"weight": {"m": ..., "v": ...}}]}

| here | there |
|---|---|
| `step` | `step`, uint64 |
| `mu`, `nu` | `m`, `v`, in the dtype of the gradients |
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, invalid, mistyped
from optadamw.base.hyperparameters import Clock
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import to_numpy, whole
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.nesting import flattened, nested
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.request import Layout, Request
from optadamw.dialects.states.settings import learning_rate_of
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(title="MLX", keys={"mu": "m", "nu": "v"})

RESERVED = ("step", "learning_rate")


def from_mlx(
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
    """The State that goes on where an optimizer of MLX was saved.

    Parameters are matched by their names, which MLX's state has. Whether MLX corrected
    the bias (it does not by default) changes the steps and not the state.

    Args:
      saved: `optimizer.state`, nested, or flat as `mlx.utils.tree_flatten` makes it
        ("layers.0.weight.m").
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on; None: a bare State in float32.
      names: a mapping from paths of `params` to MLX's names ("layers.0.weight"), or
        paths in the order in which the state has them.
      layout: `(path, array) -> array`, applied to each array that is read.
      missing: "zeros" starts parameters without state there, "error" refuses them.
      drop: buffers there that are left behind.
      afresh: buffers of `tx` that start anew.

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: the state of another optimizer, names or shapes that do
        not fit, numbers that are not finite, options that differ. Nothing is made.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_mlx
      >>> saved = {"step": np.uint64(7), "learning_rate": np.float32(1e-3)}
      >>> saved["w"] = {"m": np.ones(2), "v": np.ones(2)}
      >>> int(from_mlx(saved, {"w": jnp.zeros(2)}).step)
      7
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
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
    """A state whose keys are whole paths, nested as far as its moments."""
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


def to_mlx(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    learning_rate: float | None = None,
    drop: Collection[str] = (),
) -> dict[str, Any]:
    """The state with which AdamW of MLX goes on.

    It holds NumPy arrays; MLX wants its own:

        optimizer.state = mlx.utils.tree_map(mx.array, saved)

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: a mapping from paths to MLX's names; None: our paths are its names.
      layout: `(path, array) -> array`, the inverse of that of `from_mlx`.
      learning_rate: what MLX keeps in its state; None: that of `tx` in the next step.
      drop: buffers that are lost, such as ("ema",).

    Returns:
      Nested dicts, and lists where the names are numbers.

    Raises:
      TypeError, ValueError: a buffer that MLX has no place for, no learning rate, names
        that do not fit.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_mlx
      >>> params, tx = {"layers": [{"w": jnp.zeros(2)}]}, optadamw.adamw(1e-3)
      >>> to_mlx(tx.init(params), params, tx=tx)["layers"][0]["w"]["m"].tolist()
      [0.0, 0.0]
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop)
    rate = _rate(leaving) if learning_rate is None else learning_rate
    flat = {}
    mu, nu = leaving.column("mu"), leaving.column("nu")
    for (leaf, name), m, v in zip(leaving.places, mu, nu, strict=True):
        assert leaf is not None
        path = leaving.paths[leaf] if name is None else name.replace(".", "/")
        flat[path] = {"m": m, "v": v}
    for path in flat:
        if not path or path.partition("/")[0] in RESERVED:
            raise at_leaf(
                path,
                "MLX keeps its parameters by names beside 'step' and 'learning_rate'.",
                "Give it another name with `names`.",
            )
    made = nested(flat)
    if isinstance(made, list):
        made = {str(i): value for i, value in enumerate(made)}
    return {
        "step": np.array(leaving.step, np.uint64),
        "learning_rate": np.array(to_numpy("learning_rate", rate), np.float32),
        **made,
    }


def _rate(leaving: Departure) -> Any:
    known = None if leaving.tx is None else learning_rate_of(leaving.tx)
    if known is None:
        raise ValueError(
            "MLX keeps the learning rate in its state, and it is not known. Pass `tx` "
            "or learning_rate=."
        )
    step, wide = leaving.step, jax.dtypes.canonicalize_dtype(np.float64)
    return known.at(Clock(jnp.int32(step), jnp.int32(step + 1), jnp.dtype(wide)))
