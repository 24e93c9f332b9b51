"""optimi's AdamW and Adam, which keep the corrected moments.

| here | there |
|---|---|
| `step` | `step` of each group (of each parameter with gradient release) |
| `mu` | `exp_avg` * (1 - b1^t) |
| `nu` | `exp_avg_sq` * (1 - b2^t) |

The factor is formed in doubles and the product rounded once, so there and back again
a moment may move by an ulp.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import numbers, scalar, to_numpy
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.grouping import groups_of
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.request import Layout, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.state_dict import (
    Saved,
    check_entries,
    common_step,
    read,
    starts,
    written,
)
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(
    title="optimi",
    keys={"mu": "exp_avg", "nu": "exp_avg_sq", "kahan_comp": "kahan_comp"},
    is_pairwise=False,
    has_gaps=True,
)


def from_optimi(
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
    """The State that goes on where AdamW of optimi was saved.

    optimi keeps the moments after the correction of their bias; ours are before it.
    Its betas are read from its groups. A parameter that had its first gradient late
    counts as old there, and so it does here.

    Args:
      saved: `optimizer.state_dict()`, of tensors or arrays.
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on; None: a bare State in float32.
      names: paths of `params` in the saved order (None for one that is not there), or
        a mapping from paths to names or indices; see `from_torch`.
      layout: `(path, array) -> array`, applied to each array that is read.
      missing: "zeros" starts parameters without state there, "error" refuses them.
      drop: buffers there that are left behind. ("kahan_comp",) gives up the low bits of
        16-bit parameters that optimi keeps apart; add them to float32 parameters first
        to keep them.
      afresh: buffers of `tx` that start anew.

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: another kind of state, groups at different steps, names or
        shapes that do not fit, a compensation that would be lost, options that differ.
        Nothing is made.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from optadamw.interchange import from_optimi
      >>> moments = {"exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}
      >>> group = {"beta1": 0.75, "beta2": 0.5, "step": 1, "params": [0]}
      >>> saved = {"state": {0: moments}, "param_groups": [group]}
      >>> state = from_optimi(saved, [jnp.zeros(2)])
      >>> state.mu[0].tolist(), state.nu[0].tolist()
      ([0.25, 0.25], [0.5, 0.5])
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    found, groups = read(PEER.title, saved)
    kept = [one for one in found if one.entries is not None]
    steps = {one.label: _step(one, groups[one.group]) for one in kept}
    step = common_step(steps, PEER.title)
    is_compensated = any(_is_compensated(one) for one in kept)
    return assembled(
        request,
        Contents(
            rows=[_row(one, groups[one.group], step) for one in found],
            step=step,
            own=("kahan_comp",) if is_compensated else (),
            starts=starts(found, groups),
        ),
    )


def _step(one: Saved, group: Mapping[str, Any]) -> Any:
    assert one.entries is not None
    step = one.entries.get("step", group.get("step"))
    if step is None:
        raise at_leaf(
            one.label,
            "neither it nor its group has a 'step'.",
            "optimi keeps one in its groups; PyTorch's state goes to from_torch.",
        )
    return step


def _row(one: Saved, group: Mapping[str, Any], step: int) -> Row:
    if one.entries is None:
        return Row(one.label, one.name, None)
    needed = ("exp_avg", "exp_avg_sq")
    check_entries(PEER.title, one, needed, (*needed, "kahan_comp", "step", "group"))
    for key in ("beta1", "beta2"):
        if key not in group:
            raise at_leaf(
                one.label,
                f"its group has no '{key}': {', '.join(map(str, group))}.",
                "It is not the state of optimi's AdamW.",
            )
    buffers = {}
    for field, key, beta in (("mu", needed[0], "beta1"), ("nu", needed[1], "beta2")):
        factor = weight(scalar(f"'{beta}' of {one.label}", group[beta]), step)
        buffers[field] = _scaled(one.entries[key], factor)
    return Row(one.label, one.name, buffers)


def _scaled(value: Any, factor: float) -> Callable[[str], np.ndarray]:
    return lambda where: times(numbers(where, value), factor)


def times(array: np.ndarray, factor: float) -> np.ndarray:
    """`array` times a double, in doubles, rounded once (float32 and wider)."""
    wide = np.result_type(array.dtype, np.float32)
    # An array still where it has no axes, of which arithmetic makes a scalar.
    return np.asarray(array.astype(np.float64) * factor, wide)


def weight(beta: float, step: int) -> float:
    """`1 - beta^t`, by which the corrected moment is less; of no gradient, 1."""
    if step == 0 or beta == 0:
        return 1.0
    return -math.expm1(step * math.log(beta))


def _is_compensated(one: Saved) -> bool:
    assert one.entries is not None
    kept = one.entries.get("kahan_comp")
    if kept is None:
        return False
    array = to_numpy(f"'kahan_comp' of {one.label}", kept)
    # Triton's placeholder is a byte; zeros compensate for nothing.
    return array.dtype.kind not in "iub" and bool(np.any(array))


def to_optimi(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    drop: Collection[str] = (),
) -> dict[str, Any]:
    """The state dict with which AdamW of optimi goes on, as NumPy arrays.

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: paths in optimi's order, or a mapping; see `to_torch`.
      layout: `(path, array) -> array`, the inverse of that of `from_optimi`.
      groups: options of each group instead of those of `tx`, with its paths under
        "params"; they need "lr", "beta1" and "beta2".
      drop: buffers that are lost, such as ("ema",).

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors; see `to_torch`.

    Raises:
      TypeError, ValueError: a buffer that optimi has no place for, a `tx` that it
        cannot follow, names that do not fit.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_optimi
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_optimi(tx.init(params), params, tx=tx)
      >>> int(saved["param_groups"][0]["step"])
      0
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop)
    chosen = []
    betas: dict[int, tuple[float, float]] = {}
    chosen_groups = groups_of(leaving, groups, PEER.title, _options, ("schedule",))
    for given, members in chosen_groups:
        for key in ("lr", "beta1", "beta2"):
            if key not in given:
                raise ValueError(f"`groups` lack '{key}', without which optimi stops.")
        options: dict[str, Any] = _DEFAULTS | given
        options["step"] = np.array(leaving.step, np.int32)
        chosen.append((options, members))
        pair = scalar("beta1", options["beta1"]), scalar("beta2", options["beta2"])
        betas.update(dict.fromkeys(members, pair))
    columns = leaving.column("mu"), leaving.column("nu")

    def entries(place: int) -> dict[str, Any]:
        scaled = []
        for column, beta in zip(columns, betas[place], strict=True):
            array = column[place]
            assert array is not None
            scaled.append(times(array, 1 / weight(beta, leaving.step)))
        return {"exp_avg": scaled[0], "exp_avg_sq": scaled[1], "kahan_comp": None}

    return written(leaving.places, entries, chosen)


_DEFAULTS: dict[str, Any] = {
    "eps": 1e-6,
    "weight_decay": 1e-2,
    "decouple_wd": True,
    "decouple_lr": False,
    "max_lr": None,
    "kahan_sum": None,
    "foreach": None,
    "triton": False,
    "gradient_release": False,
    "setup": True,
}
"""What optimi reads of a group at every step, as its constructor sets it."""


def _options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "beta1": settings.b1,
        "beta2": settings.b2,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.decay_mode == "schedule" and settings.weight_decay:
        peak = settings.learning_rate if settings.peak is None else settings.peak
        options |= {"decouple_lr": True, "max_lr": peak}
    return _DEFAULTS | options
