"""timm's AdamWLegacy and NAdamW: PyTorch's state, with options of their own.

Its `AdamW` is PyTorch's, and so are the entries of the state; only the groups of a
state dict hold more (`caution`, `corrected_weight_decay` and what follows from it).
"""

from dataclasses import replace
from typing import Any, Unpack

from optadamw.base.types import PyTree
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.grouping import Groups, groups_of, numbers_of
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import Maximum
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.signature import writes
from optadamw.dialects.states.state_dict import moments_and_step, written
from optadamw.dialects.torch.state import PEER as TORCH
from optadamw.dialects.torch.state import from_torch as from_timm

__all__ = ["from_timm", "to_timm"]

PEER = replace(
    TORCH,
    name="timm",
    title="timm",
    follows=("caution", "corrected", "nesterov", "update_limit"),
)


@writes(PEER)
def to_timm(
    state: PyTree,
    params: PyTree,
    *,
    groups: Groups = None,
    amsgrad: Maximum | None = None,
    **options: Unpack[ToOptions],
) -> dict[str, Any]:
    """Make the state dict with which AdamWLegacy or NAdamW of timm continues the run.

    It is that of `to_torch`, with timm's options in the groups. It holds NumPy arrays;
    `to_torch` says how to make tensors of them.

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw.dialects import timm
      >>> params, tx = {"w": jnp.zeros(2)}, timm.NAdamW(lr=1e-3, caution=True)
      >>> saved = timm.to_timm(tx.init(params), params, tx=tx)
      >>> saved["param_groups"][0]["caution"]
      True
    """
    leaving = Departure.of(PEER, state, params, options, amsgrad)
    chosen = groups_of(leaving, groups, _options)
    return written(leaving, chosen, moments_and_step(leaving))


def _options(settings: Settings) -> dict[str, Any]:
    corrected = settings.decay_mode == "corrected"
    options = numbers_of(settings) | {
        "caution": settings.caution,
        "corrected_weight_decay": corrected,
        "max_lr_snapshot": settings.peak if corrected else None,
        "foreach": None,
        "maximize": settings.maximize,
        "capturable": False,
        "clipping_threshold": settings.update_limit,
    }
    # NAdamW has no AMSGrad; AdamWLegacy asks for the option at every step.
    return options if settings.nesterov else options | {"amsgrad": settings.amsgrad}


FORM = Form(PEER, from_timm, to_timm, is_state_dict=True, needs_rate=True)
