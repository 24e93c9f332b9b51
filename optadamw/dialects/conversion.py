"""Convert one library's file to another's: read a bare State, write it.

`optadamw convert` runs these functions. The facts about each library are in `FORM` of
its `state.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import invalid, near
from optadamw.control.loss_scale import (
    LARGEST,
    SMALLEST,
    Counts,
    DynamicLossScale,
)
from optadamw.dialects.bitsandbytes import state as bitsandbytes
from optadamw.dialects.files import checkpoints, files, opening
from optadamw.dialects.files.checkpoints import Bare
from optadamw.dialects.files.opening import Opened
from optadamw.dialects.flux import state as flux
from optadamw.dialects.keras import state as keras
from optadamw.dialects.known_order import check_order
from optadamw.dialects.mlx import state as mlx
from optadamw.dialects.optax import state as optax
from optadamw.dialects.optimi import state as optimi
from optadamw.dialects.states.form import Form, Plan, transposing, with_known
from optadamw.dialects.states.group_numbers import PLACES, number_in, refuse_lost
from optadamw.dialects.states.state_dict import groups_in, groups_with_params
from optadamw.dialects.tensorflow import state as tensorflow
from optadamw.dialects.tensorflow_addons import state as tensorflow_addons
from optadamw.dialects.timm import state as timm
from optadamw.dialects.torch import state as torch
from optadamw.dialects.torchao import state as torchao
from optadamw.transforms.multi_steps import multi_steps
from optadamw.transforms.transformation import Transformation

FORMS = {
    form.name: form
    for form in (
        torch.FORM,
        timm.FORM,
        keras.FORM,
        tensorflow.FORM,
        tensorflow_addons.FORM,
        mlx.FORM,
        optax.FORM,
        flux.FORM,
        optimi.FORM,
        torchao.FORM,
        bitsandbytes.FORM,
    )
}
"""The saved states of other libraries; "optadamw" names our own checkpoints besides."""


def check_patterns(plan: Plan, params: Mapping[str, Any]) -> None:
    """Refuse to transpose parameters that do not exist.

    Raises:
      ValueError: a pattern that matches no parameter.
    """
    for option, patterns, form in (
        ("--transpose", plan.transpose, plan.source),
        ("--to-transpose", plan.to_transpose, plan.target),
    ):
        if patterns and form == "optadamw":
            raise ValueError(
                f"`{option}`: a checkpoint of optadamw has the arrays as the "
                "parameters are. Leave it out."
            )
        for pattern in patterns:
            if not any(fnmatchcase(path, pattern) for path in params):
                raise ValueError(
                    f"`{option}`: '{pattern}' matches no parameter. Near it: "
                    f"{near(pattern, params)}."
                )


def open_state(plan: Plan, path: str | Path) -> Opened:
    """Find the saved state in a file; `read_state` opens our own checkpoints.

    Raises:
      OSError, ValueError: as `opening.open_state`.
    """
    form = FORMS.get(plan.source)
    if form is not None:
        return opening.open_state(path, plan.key, form.is_state_dict, plan.is_limited)
    if plan.target == plan.source:
        raise ValueError(
            "A checkpoint of optadamw is one already: copy the file. In another form "
            "it is written by checkpoint.restore and checkpoint.save."
        )
    if plan.key is not None:
        raise ValueError(
            "`--key`: a checkpoint of optadamw has one State. Leave it out."
        )
    return Opened(None)


def read_state(
    plan: Plan, path: str | Path, saved: Any, params: Mapping[str, Any]
) -> Bare:
    """Read the State in a file, and the facts about it that a State does not hold.

    Args:
      plan: the arguments of the conversion.
      path: the file.
      saved: the saved state that `open_state` found in it.
      params: the parameters, by their paths.

    Raises:
      OSError, TypeError, ValueError: as `files.read` and the `from_` functions.
    """
    form = FORMS.get(plan.source)
    if form is None:
        bare = checkpoints.loaded(path, params, plan.drop, plan.is_limited)
        if None not in (plan.accumulate, bare.every) and plan.accumulate != bare.every:
            raise ValueError(
                f"`--accumulate` is {plan.accumulate}, and '{path}' was saved with "
                f"accumulate_steps={bare.every}. Leave it out."
            )
        return bare._replace(every=plan.accumulate or bare.every)
    check_order(form, plan.names, saved, params, "--names")
    state = form.reads(
        saved,
        params,
        names=plan.names,
        layout=transposing(plan.transpose),
        missing=plan.missing,
        drop=[d for d in plan.drop if d != "kahan_comp" or d in form.peer.keys],
        **form.to_read(plan),
    )
    maximum = form.peer.maximum if state.nu_max is not None else None
    every = plan.accumulate if state.accumulator is not None else None
    counts: Counts = "gradients" if state.growth is not None else "steps"
    return Bare(state, maximum, _negates(saved), every, counts)


def _negates(saved: Any) -> bool:
    signs = {bool(g.get("maximize", False)) for g in groups_with_params(saved)}
    if len(signs) > 1:
        raise ValueError(
            "Some groups of the saved state maximize and others do not, and a file has "
            "one sign for all. Convert it in Python, with the `tx` that goes on."
        )
    return signs == {True}


def with_numbers(plan: Plan, path: str | Path, opened: Opened, count: int) -> Plan:
    """Fill in the numbers that were not given and that the source holds.

    Groups must agree on a number only if the target holds it: a checkpoint of optadamw
    has none, as they are those of `tx`.

    Args:
      plan: the arguments of the conversion.
      path: the file.
      opened: the saved state, and the options that the file names beside it.
      count: the number of parameters.

    Raises:
      TypeError, ValueError: no state dict; groups that do not agree on a number; an
        option that the file contradicts.
    """
    form, target = FORMS.get(plan.source), FORMS.get(plan.target)
    if form is None:
        return plan
    saved = opened.saved
    if not form.is_state_dict:
        known = {**opened.options, **form.numbers(saved, count)}
        if known.pop("eps_root", 0) and target is not None and target.is_state_dict:
            raise ValueError(
                f"'{path}' has an eps_root, which {target.peer.title} cannot follow. "
                "Convert it in Python, with the `tx` that goes on."
            )
        return with_known(plan, known)
    groups_in(form.peer.title, saved)  # refuses what is no state dict
    groups = groups_with_params(saved)
    held: tuple[str, ...] = ()
    if target is not None and target.is_state_dict:
        refuse_lost(groups, target.peer, plan.weight_decay is not None)
    if target is not None:
        held = tuple(PLACES) if target.is_state_dict else ("learning_rate", "b1", "b2")
    found: dict[str, float] = {}
    for field in held:
        values = {number_in(group, PLACES[field]) for group in groups} - {None}
        if getattr(plan, field) is None and len(values) > 1:
            raise ValueError(
                f"The groups of '{path}' have different numbers for `{field}` "
                f"({sorted(v for v in values if v is not None)}). Give one with "
                f"--{field.replace('_', '-')}."
            )
        number = next(iter(values), None)
        if getattr(plan, field) is None and number is not None:
            found[field] = number
    return replace(plan, **found)  # type: ignore[arg-type]


def write_state(
    plan: Plan, bare: Bare, path: str | Path, params: Mapping[str, Any]
) -> None:
    """Write a State in the form of the target.

    Raises:
      OSError, TypeError, ValueError: as `files.write` and the `to_` functions.
    """
    form = FORMS.get(plan.target)
    if form is None:
        if Path(path).suffix.lower() != ".npz":
            raise invalid("--out", "a file .npz for optadamw", str(path))
        checkpoints.stored(path, bare, params, plan.source)
        return
    names = plan.to_names
    if names is None and not form.has_names:
        # From one order to another it is the same, unless it is said otherwise.
        names = plan.names if isinstance(plan.names, list) else None
        check_order(form, names, {}, params, "--to-names")
    saved = form.writes(
        bare.state,
        dict(params),
        tx=_transformation(plan, form, bare),
        names=names,
        layout=transposing(plan.to_transpose),
        **form.to_write(plan),
    )
    files.write(path, form.filed(saved))


def _transformation(plan: Plan, form: Form, bare: Bare) -> Transformation:
    """Make a transformation that would keep this State; it takes no step."""
    rate = None if plan.learning_rate == "schedule" else plan.learning_rate
    if rate is None and form.needs_rate:
        raise ValueError(
            f"A state of {plan.target} holds the learning rate, and it is not known. "
            "Give it with --learning-rate."
        )
    state = bare.state
    if state.accumulator is not None and bare.every is None:
        raise ValueError(
            "The state accumulates, and of how many gradients a step is made is not "
            "known. Give it with --accumulate."
        )
    scale = None
    if state.growth is not None:
        scale = DynamicLossScale(minimum=SMALLEST, maximum=LARGEST, counts=bare.counts)
    given: dict[str, Any] = {
        "b1": plan.b1,
        "b2": plan.b2,
        "eps": plan.eps,
        "weight_decay": plan.weight_decay,
    }
    made = adamw(
        0.0 if rate is None else rate,
        amsgrad=bare.maximum,
        ema_decay=0.0 if state.ema is not None else None,
        loss_scale=scale,
        maximize=bare.negated or None,
        **{name: value for name, value in given.items() if value is not None},
    )
    if state.accumulator is None or bare.every is None:
        return made
    return multi_steps(made, bare.every, use_grad_mean=bare.use_grad_mean)
