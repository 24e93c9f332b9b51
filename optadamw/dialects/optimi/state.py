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
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import numbers, scalar, to_numpy
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Saved
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.grouping import Groups, groups_of
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.state_dict import (
    as_saved,
    contents_of,
    read,
    written,
)
from optadamw.store.state import State

PEER = Peer(
    name="optimi",
    title="optimi",
    keys={"mu": "exp_avg", "nu": "exp_avg_sq", "kahan_comp": "kahan_comp"},
    has_gaps=True,
    has_groups=True,
    follows=("schedule",),
    outputs_first=True,
)


@reads(PEER)
def from_optimi(
    saved: Mapping[str, Any],
    params: PyTree,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of an AdamW of optimi.

    optimi keeps the moments after their bias is corrected, a State before; the betas
    that tell one from the other are read from the groups. optimi has one step for all
    parameters of a group, also for those whose first gradient came late, and so has the
    State.

    Args:
      saved: `optimizer.state_dict()`, of tensors or arrays.
      drop: Saved buffers to leave behind. ("kahan_comp",) gives up the low bits of
        16-bit parameters that optimi keeps apart; to keep them, add them to float32
        parameters first. The default leaves none.

    Raises:
      ValueError: groups at different steps; a Kahan compensation that would be lost.

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
    request = Request.of(PEER, params, options)
    found = read(PEER.title, saved)
    contents = contents_of(
        PEER, found, needed=(), beside=("step", "group"), step_of=_step, value_of=_value
    )
    if any(_is_compensated(one) for one in found):
        contents = replace(contents, own=("kahan_comp",))
    return assembled(request, contents)


def _step(one: Saved) -> Any:
    step = one.entries.get("step", one.options.get("step"))
    if step is None:
        raise at_leaf(
            one.label,
            "neither it nor its group has a 'step'.",
            "optimi keeps one in its groups; PyTorch's state goes to from_torch.",
        )
    return step


def _value(one: Saved, key: str, step: int) -> Callable[[str], np.ndarray]:
    beta = "beta1" if key == PEER.keys["mu"] else "beta2"
    if beta not in one.options:
        raise at_leaf(
            one.label,
            f"its group has no '{beta}': {', '.join(map(str, one.options))}.",
            "It is not the state of optimi's AdamW.",
        )
    factor = weight(scalar(f"'{beta}' of {one.label}", one.options[beta]), step)
    moment = as_saved(one, key, step)
    return lambda where: times(numbers(where, moment), factor)


def times(array: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by a double, in doubles, and round once (float32 or wider)."""
    wide = np.result_type(array.dtype, np.float32)
    # An array still where it has no axes, of which arithmetic makes a scalar.
    return np.asarray(array.astype(np.float64) * factor, wide)


def weight(beta: float, step: int) -> float:
    """Return `1 - beta^t`, the bias correction's factor; 1 before the first step."""
    if step == 0 or beta == 0:
        return 1.0
    return -math.expm1(step * math.log(beta))


def _is_compensated(one: Saved) -> bool:
    kept = one.entries.get("kahan_comp")
    if kept is None:
        return False
    array = to_numpy(f"'kahan_comp' of {one.label}", kept)
    # Triton's placeholder is a byte; zeros compensate for nothing.
    return array.dtype.kind not in "iub" and bool(np.any(array))


@writes(PEER)
def to_optimi(
    state: PyTree,
    params: PyTree,
    *,
    groups: Groups = None,
    **options: Unpack[ToOptions],
) -> dict[str, Any]:
    """Make the state dict with which AdamW of optimi continues the run.

    Groups that are given with `groups` need "lr", "beta1" and "beta2".

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors; `to_torch` says how
      to make tensors of them.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_optimi
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_optimi(tx.init(params), params, tx=tx)
      >>> int(saved["param_groups"][0]["step"])
      0
    """
    leaving = Departure.of(PEER, state, params, options)
    chosen = []
    betas: dict[int, tuple[float, float]] = {}
    for given, members in groups_of(leaving, groups, _options):
        for key in ("lr", "beta1", "beta2"):
            if key not in given:
                raise ValueError(f"`groups` lack '{key}', without which optimi stops.")
        group: dict[str, Any] = _DEFAULTS | given
        group["step"] = np.array(leaving.step, np.int32)
        chosen.append((group, members))
        pair = scalar("beta1", group["beta1"]), scalar("beta2", group["beta2"])
        betas.update(dict.fromkeys(members, pair))
    columns = leaving.columns()

    def entries(place: int) -> dict[str, Any]:
        scaled: dict[str, Any] = {}
        for (key, column), beta in zip(columns.items(), betas[place], strict=True):
            array = column[place]
            assert array is not None
            scaled[key] = times(array, 1 / weight(beta, leaving.step))
        return {**scaled, "kahan_comp": None}

    return written(leaving, chosen, entries)


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
"""The options that optimi reads from a group at every step, as its constructor sets
them."""


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


FORM = Form(PEER, from_optimi, to_optimi, is_state_dict=True, needs_rate=True)
