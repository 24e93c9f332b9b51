"""Refuse a saved state whose buffers are not those of `tx`, or mean something else."""

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.dialects.states.contents import Contents
from optadamw.dialects.states.peer import DIFFERENCE
from optadamw.dialects.states.request import Request
from optadamw.dialects.states.settings import kind_of_maximum
from optadamw.transforms.transformation import Transformation

OPTION = {
    "mu": "scale_by_adam",
    "nu": "scale_by_adam",
    "nu_max": "amsgrad",
    "ema": "ema_decay",
    "accumulator": "accumulate_steps",
    "loss_scale": "loss_scale",
}
"""The option that makes a transformation keep each buffer."""

AGREED = ("mu", "nu", "nu_max", "ema")
"""The buffers that `tx` and the saved state must both have, or neither."""


def check_agreement(request: Request, contents: Contents, fields: set[str]) -> None:
    """Refuse contents that a State, or `tx`, has no place or another meaning for.

    Args:
      request: the arguments of the `from_` function.
      contents: the saved state.
      fields: the buffers that are read from it.

    Raises:
      TypeError, ValueError: what differs, with the option that makes it so.
    """
    _check_own(request, contents)
    if request.tx is None:
        return
    request.tx.init(request.leaves.treedef.unflatten(request.leaves.arrays))
    _check_agreed(request, request.tx, fields)
    _check_meaning(request, request.tx, contents, fields)
    _check_window(request, request.tx, contents)
    _check_scale(request, request.tx, contents)


def read_in_window(request: Request, contents: Contents) -> int:
    """Return the number of gradients in the open window that is read."""
    return 0 if "accumulator" in request.left else contents.micro_step


def _check_own(request: Request, contents: Contents) -> None:
    for name in contents.own:
        if name not in request.drop:
            raise ValueError(
                f"The saved state holds '{name}', which no State has: what it holds "
                f"would be lost. Leave it behind with drop=({name!r},)."
            )


OWN = "a buffer of a rule of your own"
CALLED = {"mu_slow": "the slow mean of `b3`", "z": "the steps of schedule_free"}
"""The buffers of rules of this library that no other library has."""


def _check_agreed(request: Request, tx: Transformation, fields: set[str]) -> None:
    kept = {slot.name for slot in tx.recipe.composition.buffers}
    title = request.peer.title
    for name in AGREED:
        key, option = request.peer.key(name), OPTION[name]
        if name in fields and name not in kept:
            raise ValueError(
                f"The saved state holds `{name}` ('{key}' of {title}), which `tx` does "
                f"not keep: they differ in the option `{option}`. Make tx with it, or "
                f"leave the buffer behind with drop=({name!r},)."
            )
        if name in kept and name not in fields and name not in request.afresh:
            raise ValueError(
                f"`tx` keeps `{name}`, and the saved state of {title} does not hold "
                f"it: they differ in the option `{option}`. Make tx without it, or "
                f"start the buffer afresh with afresh=({name!r},)."
            )
    for name in request.custom:
        if name not in request.afresh:
            raise ValueError(
                f"`tx` keeps `{name}`, {CALLED.get(name, OWN)}, which no saved "
                f"state of {title} holds. Start it afresh with afresh=({name!r},)."
            )


def _check_meaning(
    request: Request, tx: Transformation, contents: Contents, fields: set[str]
) -> None:
    kind = kind_of_maximum(tx)
    used = "nu_max" in fields and "nu_max" not in request.afresh
    if used and kind != contents.maximum:
        raise ValueError(
            f"`tx` has amsgrad={kind!r}, and {request.peer.title} saved the maximum "
            f"of the {contents.maximum} second moments: {DIFFERENCE}. Use "
            f"amsgrad={contents.maximum!r}, or start the maximum afresh with "
            "afresh=('nu_max',)."
        )


def _check_window(request: Request, tx: Transformation, contents: Contents) -> None:
    count = read_in_window(request, contents)
    if not count:
        return
    accumulation = tx.recipe.composition.control.accumulation
    remedy = "Make tx as it was, or lose the window with drop=('accumulator',)."
    inside = f"The state was saved inside a window, with {count} gradients in it"
    if accumulation is None:
        raise ValueError(
            f"{inside}, and `tx` does not accumulate: they differ in the option "
            f"`accumulate_steps`. {remedy}"
        )
    if not accumulation.use_grad_mean:
        raise ValueError(f"{inside}, to be averaged, and `tx` sums them. {remedy}")
    every = int(accumulation.due(Clock.at(jnp.int32(contents.step))))
    if count >= every:
        raise ValueError(
            f"{inside}, and a window of `tx` holds {every}: they differ in the option "
            f"`accumulate_steps`. {remedy}"
        )


def _check_scale(request: Request, tx: Transformation, contents: Contents) -> None:
    scale = contents.loss_scale
    dynamic = tx.recipe.composition.control.loss_scale
    if "loss_scale" in request.left:
        return
    if scale is None:
        is_lacking = "loss_scale" in request.peer.keys
        if is_lacking and isinstance(dynamic, DynamicLossScale):
            raise ValueError(
                "`tx` keeps a dynamic loss scale, and the saved state of "
                f"{request.peer.title} does not hold one: they differ in the option "
                "`loss_scale`. Convert the state of the LossScaleOptimizer, or start "
                "the scale afresh with afresh=('loss_scale',)."
            )
        return
    remedy = "Make tx with it, or leave the scale behind with drop=('loss_scale',)."
    if not isinstance(dynamic, DynamicLossScale):
        raise ValueError(
            f"The saved state holds a dynamic loss scale of {scale!r}, which `tx` does "
            "not keep: they differ in the option `loss_scale`, a DynamicLossScale. "
            f"{remedy}"
        )
    if not dynamic.minimum <= scale <= dynamic.maximum:
        raise ValueError(
            f"The saved loss scale is {scale!r}, and that of `tx` stays in "
            f"[{dynamic.minimum!r}, {dynamic.maximum!r}]. Widen its bounds, or leave "
            "the scale behind with drop=('loss_scale',)."
        )
