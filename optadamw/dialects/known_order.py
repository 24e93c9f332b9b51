"""Refuse to convert a state whose order of parameters nobody has told."""

from collections.abc import Mapping
from typing import Any

from optadamw.dialects.states.form import Form
from optadamw.dialects.states.group_names import names_in
from optadamw.dialects.states.state_dict import groups_with_params


def check_order(
    form: Form, names: Any, saved: Any, params: Mapping[str, Any], flag: str
) -> None:
    """Refuse to guess an order: that of a file of parameters says nothing.

    Args:
      form: the library whose state has an order.
      names: the names that were given; None: none.
      saved: the saved state; {} for a state that is written.
      params: the parameters, by their paths.
      flag: the option that gives names, for the message.

    Raises:
      ValueError: no names were given, and neither the state nor `params` has them.
    """
    if form.has_names or names is not None or len(params) == 1:
        return
    groups = groups_with_params(saved)
    found = names_in(groups)
    # Other names say nothing of parameters that are called by numbers, as in a list.
    if found and (set(found) == set(params) or not all(map(str.isdigit, params))):
        return
    file = "'model.pt' that torch.save(model.state_dict(), 'model.pt') writes"
    maker = "model.parameters()"
    if not form.is_state_dict:
        file = "'model.keras' that model.save('model.keras') of Keras writes"
        maker = "model.trainable_variables"
    model = (
        f"A file {file} has the order of {maker}: if it is the optimizer's, give the "
        "file with `--params`."
    )
    count = sum(len(group["params"]) for group in groups)
    if groups and count != len(params):
        model = (
            f"It has {count} parameters and the file of parameters {len(params)}, so "
            "the order of a model does not tell: layers that are not trained have no "
            "state. Give a file without them by `--params`, or names and "
            "`--missing zeros`."
        )
    elif len(groups) > 1:
        sizes = " and ".join(str(len(group["params"])) for group in groups)
        model = (
            f"The order of a model does not tell: its {len(groups)} groups, of {sizes} "
            "parameters, are one after another."
        )
    raise ValueError(
        f"A state of {form.name} has its parameters in an order. Say which is which "
        f"with `{flag} FILE.json`: a list of the names in the file of parameters, in "
        f"that order, or a mapping from them to names or indices. {model}"
    )
