"""PyTorch's AdamW and Adam (timm's keep the same state: `timm.py`).

| here | there |
|---|---|
| `step` | `step`, a float32 of each parameter; all must agree |
| `mu`, `nu` | `exp_avg`, `exp_avg_sq` |
| `nu_max`, "raw" | `max_exp_avg_sq` |
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from optadamw.base.types import PyTree
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.grouping import groups_of
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import Layout, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.state_dict import (
    Saved,
    check_decay,
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
    title="PyTorch",
    keys={"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    maximum="raw",
    is_pairwise=True,
    has_gaps=True,
)


def from_torch(
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
    """The State that goes on where an optimizer of PyTorch was saved.

    PyTorch keeps a count of steps for each parameter and a State one for all, so they
    must agree. The parameters are taken by their names where the state has them
    (`param_names`, from `AdamW(model.named_parameters())`), else in the order of the
    optimizer's groups: the leaves of `params` in the order of `jax.tree.leaves`, which
    sorts the keys of a dict. Every shape is checked; two parameters of one shape can
    be told apart only by their names.

    A state that was saved before the first step is taken as zeros. Adam that is not
    decoupled (`torch.optim.Adam` with a weight decay) is refused where its groups say
    so, which they do since PyTorch 2.6.

    Args:
      saved: `optimizer.state_dict()`, of tensors or arrays.
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on. Without it the result is a State with
        what was saved, in float32 (float64 for float64 parameters).
      names: paths of `params` in the saved order (None for one that is not there), or
        a mapping from paths to PyTorch's names or indices.
      layout: `(path, array) -> array`, applied to each array that is read, such as
        `lambda path, x: x.T if path.endswith("kernel") else x`.
      missing: "zeros" starts parameters that have no state there, "error" refuses.
      drop: buffers there that are left behind, such as ("nu_max",).
      afresh: buffers of `tx` that start anew, such as ("ema",).

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: another kind of state, parameters, shapes, names, numbers
        that are not finite, steps that differ, options that differ. Nothing is made.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optadamw
      >>> from optadamw.interchange import from_torch
      >>> moments = {"exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}
      >>> saved = {
      ...     "state": {0: {"step": np.float32(7), **moments}},
      ...     "param_groups": [{"lr": 1e-3, "params": [0]}],
      ... }
      >>> params = {"w": jnp.zeros(2)}
      >>> state = from_torch(saved, params, tx=optadamw.adamw(1e-3))
      >>> int(state.step), state.mu["w"].tolist()
      (7, [1.0, 1.0])
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    found, groups = read(PEER.title, saved)
    rows, steps = [], {}
    for one in found:
        group = groups[one.group]
        check_decay(one, group)
        negated = bool(group.get("maximize", False))
        rows.append(Row(one.label, one.name, _buffers(one), negated))
        if one.entries is not None:
            steps[one.label] = one.entries["step"]
    step = common_step(steps, PEER.title)
    return assembled(request, Contents(rows, step, starts=starts(found, groups)))


def _buffers(one: Saved) -> dict[str, Any] | None:
    if one.entries is None:
        return None
    needed = ("step", "exp_avg", "exp_avg_sq")
    check_entries(PEER.title, one, needed, (*needed, "max_exp_avg_sq"))
    return {f: one.entries[k] for f, k in PEER.keys.items() if k in one.entries}


def to_torch(
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
    """The state dict with which an optimizer of PyTorch goes on.

    It holds NumPy arrays; PyTorch wants tensors:

        saved = jax.tree.map(
            lambda x: torch.as_tensor(x) if isinstance(x, np.ndarray) else x, saved
        )
        optimizer.load_state_dict(saved)

    PyTorch takes the options of the groups from it as well: the numbers of `tx` in the
    next step (of a schedule its value there). Parameters with other numbers than the
    first, such as those that are not decayed, come in groups of their own, in the
    order of their first members; build the optimizer with such groups.

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: paths in PyTorch's order (None for a parameter there that is not here), or
        a mapping from paths to its names or indices.
      layout: `(path, array) -> array`, the inverse of that of `from_torch`.
      groups: options of each group instead of those of `tx`, with its paths under
        "params"; all parameters where there is one group without.
      drop: buffers that are lost, such as ("ema",).
      amsgrad: the kind of `nu_max` where there is no `tx` to tell.

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors.

    Raises:
      TypeError, ValueError: a buffer that PyTorch has no place for, its maximum of the
        wrong kind, a `tx` that PyTorch cannot follow, names that do not fit.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_torch
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_torch(tx.init(params), params, tx=tx)
      >>> saved["state"][0]["exp_avg"].tolist(), saved["param_groups"][0]["lr"]
      ([0.0, 0.0], 0.001)
    """
    leaving = Departure(
        PEER, state, params, tx, names, layout, drop, amsgrad, negates_too=True
    )
    chosen = groups_of(leaving, groups, PEER.title, _options)
    return written(leaving.places, entries_of(leaving), chosen)


def entries_of(leaving: Departure) -> Callable[[int], dict[str, Any]]:
    """The entry of each parameter, by its place."""
    keys = leaving.peer.keys
    fields = [field for field in keys if field != "nu_max" or leaving.has(field)]
    columns = {keys[field]: leaving.column(field) for field in fields}

    def entries(place: int) -> dict[str, Any]:
        arrays = {key: column[place] for key, column in columns.items()}
        return {"step": step_array(leaving.step), **arrays}

    return entries


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "lr": settings.learning_rate,
        "betas": (settings.b1, settings.b2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "amsgrad": settings.amsgrad,
        "maximize": settings.maximize,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": True,
    }
