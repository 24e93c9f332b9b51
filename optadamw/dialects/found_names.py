"""Names that `optadamw convert` finds in the files, and need not be told."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optadamw.base.errors import invalid
from optadamw.dialects.conversion import FORMS
from optadamw.dialects.files import files, hdf5, keras_config
from optadamw.dialects.files.models import model_in, why_none
from optadamw.dialects.files.opening import params_beside, read_params
from optadamw.dialects.orders import order_of_state, order_of_target
from optadamw.dialects.states.form import Plan
from optadamw.dialects.states.group_names import names_in
from optadamw.dialects.states.state_dict import groups_with_params


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
    order = ""
    if file.suffix.lower() in hdf5.SUFFIXES and not file.is_dir():
        files.read(file, plan.is_limited)  # says what is wrong with a damaged file
    if file.suffix.lower() == keras_config.ARCHIVE:
        order = (
            " Their order is that of model.trainable_variables: give it by --names. "
            "docs/guides/interchange.md lists the layers whose order is known."
        )
    raise invalid(
        "--params",
        f"given, because {why_none(file, plan.is_limited)}",
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
      The plan, and what tells the orders that were found.

    Raises:
      OSError, ValueError: a file that cannot be read.
    """
    source, target = FORMS.get(plan.source), FORMS.get(plan.target)
    needs_names = source is not None and not source.has_names and plan.names is None
    needs_more = target is not None and not target.has_names and plan.to_names is None
    if not needs_names and not needs_more:
        return plan, None
    found_in = [m for f in places if f and (m := model_in(f, plan.is_limited))]
    is_beside = source is not None and source.is_state_dict
    models = [
        model
        for model in found_in
        if model.is_marked
        or (is_beside and model.file == places[0] and model.is_as_made)
    ]
    told = []
    named = names_in(groups_with_params(saved))
    if source is not None and needs_names and not named:
        found = order_of_state(source, models, saved, params, plan.transpose)
        if found is not None:
            plan = replace(plan, names=found[0])
            told.append(found[1])
    if target is not None and needs_more:
        found = order_of_target(source, target, plan.names, named, models, params)
        if found is not None:
            plan = replace(plan, to_names=found[0])
            told.append(found[1])
    return plan, ", and in TO by ".join(told) or None
