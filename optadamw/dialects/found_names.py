"""Names that `optadamw convert` finds in the files, and need not be told."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optadamw.base.errors import invalid
from optadamw.dialects.conversion import FORMS
from optadamw.dialects.files import files, hdf5
from optadamw.dialects.files.models import (
    Model,
    by_shape,
    in_order,
    model_in,
    unknown_layer,
)
from optadamw.dialects.files.opening import params_beside, read_params
from optadamw.dialects.states.form import Plan
from optadamw.dialects.states.group_names import names_in
from optadamw.dialects.states.naming import Theirs, matched
from optadamw.dialects.states.state_dict import groups_with_params, is_state_dict


def params_for(plan: Plan, file: Path, params: Path | None) -> Mapping[str, Any]:
    """Return the parameters: those of `params`, or of the model in the file itself.

    Raises:
      OSError, ValueError: a file that cannot be read; no parameters in any.
    """
    if params is not None:
        return read_params(params, plan.is_limited)
    if plan.source == "optadamw":
        return read_params(file, plan.is_limited)
    model = model_in(file, plan.is_limited)
    if model is not None:
        return model.params
    if file.is_dir():
        is_state_dict = FORMS[plan.source].is_state_dict
        beside = params_beside(file, plan.key, is_state_dict, plan.is_limited)
        if beside:
            return beside
    files.check_readable(file)
    why, order = "the file holds no model", ""
    if file.suffix.lower() in hdf5.SUFFIXES:
        files.read(file, plan.is_limited)  # says what is wrong with a damaged file
        if file.suffix.lower() != ".keras":
            why = "the model in such a file is not read"
        elif unknown := unknown_layer(file, plan.is_limited):
            why = unknown
            order = (
                " Their order is that of model.trainable_variables: give it by "
                "--names. docs/guides/interchange.md lists the layers whose order is "
                "known."
            )
    raise invalid(
        "--params",
        f"given, because {why}",
        str(file),
        "It is a file of the parameters by their names: .safetensors, .npz, .pt, or a "
        "folder of Orbax." + order,
    )


def with_found_names(
    plan: Plan, saved: Any, params: Mapping[str, Any], places: Sequence[Path | None]
) -> tuple[Plan, str | None]:
    """Fill in the orders of the parameters that were not given, where a file has them.

    Args:
      plan: the arguments of the conversion.
      saved: the saved state.
      params: the parameters, by their names.
      places: the file of the state and that of the parameters, or None.

    Returns:
      The plan, and the file in which an order was found.

    Raises:
      OSError, ValueError: a file that cannot be read.
    """
    source, target = FORMS.get(plan.source), FORMS.get(plan.target)
    needs_names = source is not None and not source.has_names and plan.names is None
    needs_more = target is not None and not target.has_names and plan.to_names is None
    if not needs_names and not needs_more:
        return plan, None
    if saved_names := names_in(groups_with_params(saved)):
        names = _named_order(saved_names, params) if needs_more else None
        if names is None:
            return plan, None
        return replace(plan, to_names=names), "the names in the saved state"
    models = [
        m for m in (model_in(f, plan.is_limited) for f in places if f) if m is not None
    ]
    if needs_names:
        names, found = _order(models, params, saved)
        if names is not None:
            # `write_state` takes this list for an ordered target too.
            return replace(plan, names=names), found
    elif needs_more and not isinstance(plan.names, list):
        names, found = _order(models, params, None)
        if names is not None:
            return replace(plan, to_names=names), found
    return plan, None


def _named_order(names: Sequence[str], params: Mapping[str, Any]) -> list[str] | None:
    """Return our paths in the order of the names in a state; None if they differ."""
    theirs = [Theirs(f"'{name}'", name, is_kept=True) for name in names]
    try:
        places = matched(None, list(params), theirs, "error")
    except ValueError:
        return None
    ours = {place: path for path, place in zip(params, places, strict=True)}
    return [ours[i] for i in range(len(names))]


def _order(
    models: Sequence[Model], params: Mapping[str, Any], saved: Any
) -> tuple[list[str] | None, str | None]:
    """Return the names in the order of a model, or of shapes, and where it was found.

    The groups of a state dict are one after another, whatever their places in the
    model, so its order is that of a model only if one group has all parameters.
    """
    shapes = _shapes(saved)
    is_split = len(groups_with_params(saved)) > 1
    for model in () if is_split else models:
        own = [array.shape for array in model.params.values()]
        names = in_order(model.order, params)
        if names is not None and (not shapes or shapes == own):
            return names, f"the model in '{model.file}'"
    names = by_shape(shapes, params)
    return names, None if names is None else "their shapes, no two of which are equal"


def _shapes(saved: Any) -> list[tuple[int, ...]]:
    """The shapes of a state dict in the order of its parameters; [] if unknown."""
    if not is_state_dict(saved):
        return []
    state = saved["state"]
    shapes = []
    for place in (i for group in groups_with_params(saved) for i in group["params"]):
        is_key = isinstance(place, int | np.integer | str)
        own = state.get(place, state.get(str(place))) if is_key else None
        first = own.get("exp_avg") if isinstance(own, Mapping) else None
        shape = getattr(first, "shape", None)
        if shape is None:
            return []
        shapes.append(tuple(int(n) for n in shape))
    return shapes
