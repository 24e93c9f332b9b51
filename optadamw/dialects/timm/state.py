"""timm's AdamWLegacy and NAdamW: PyTorch's state, with options of their own.

Its `AdamW` is PyTorch's, and so are the entries of the state; only the groups of a
state dict hold more (`caution`, `corrected_weight_decay` and what follows from it).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optadamw.base.types import PyTree
from optadamw.dialects.states.grouping import groups_of
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Names
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import Layout
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.state_dict import written
from optadamw.dialects.torch.state import PEER as TORCH
from optadamw.dialects.torch.state import entries_of
from optadamw.dialects.torch.state import from_torch as from_timm
from optadamw.transforms.transformation import Transformation

__all__ = ["from_timm", "to_timm"]

PEER = Peer("timm", TORCH.keys, TORCH.maximum, TORCH.is_pairwise, TORCH.has_gaps)
FOLLOWS = ("caution", "corrected", "nesterov")


def to_timm(
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
    """The state dict with which AdamWLegacy or NAdamW of timm goes on.

    As `to_torch`, with the options of timm in the groups. It holds NumPy arrays, of
    which PyTorch wants tensors.

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: paths in timm's order, or a mapping; see `to_torch`.
      layout: `(path, array) -> array`, the inverse of that of `from_timm`.
      groups: options of each group instead of those of `tx`, with its paths under
        "params"; all parameters where there is one group without.
      drop: buffers that are lost, such as ("ema",).
      amsgrad: the kind of `nu_max` where there is no `tx` to tell.

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors.

    Raises:
      TypeError, ValueError: a buffer that timm has no place for, its maximum of the
        wrong kind, a `tx` that timm cannot follow, names that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw.dialects import timm
      >>> params, tx = {"w": jnp.zeros(2)}, timm.NAdamW(lr=1e-3, caution=True)
      >>> saved = timm.to_timm(tx.init(params), params, tx=tx)
      >>> saved["param_groups"][0]["caution"]
      True
    """
    leaving = Departure(
        PEER, state, params, tx, names, layout, drop, amsgrad, negates_too=True
    )
    chosen = groups_of(leaving, groups, PEER.title, _options, FOLLOWS)
    return written(leaving.places, entries_of(leaving), chosen)


def _options(settings: Settings) -> dict[str, Any]:
    corrected = settings.decay_mode == "corrected"
    options = {
        "lr": settings.learning_rate,
        "betas": (settings.b1, settings.b2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "caution": settings.caution,
        "corrected_weight_decay": corrected,
        "max_lr_snapshot": settings.peak if corrected else None,
        "foreach": None,
        "maximize": settings.maximize,
        "capturable": False,
        "clipping_threshold": None,
    }
    # NAdamW has no AMSGrad; AdamWLegacy asks for the option at every step.
    return options if settings.nesterov else options | {"amsgrad": settings.amsgrad}
