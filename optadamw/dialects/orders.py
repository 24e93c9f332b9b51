"""The order in which an optimizer has the parameters, where a file determines it.

The model that was trained has this order, and so has its file, which a file of another
library has not. In a state dict the shapes of the moments tell it, if no two parameters
may be taken for each other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.dialects.files.models import Model
from optadamw.dialects.states.form import Form, is_chosen
from optadamw.dialects.states.naming import matched_names
from optadamw.dialects.states.state_dict import groups_with_params, is_state_dict

Shape = tuple[int, ...]
Order = tuple[list[str], str]
"""Our names in an order, and what tells it."""


def model_for(form: Form, models: Sequence[Model]) -> Model | None:
    """Return the first model of a library; None if no other has its order."""
    return next((m for m in models if m.is_of_pytorch == form.is_state_dict), None)


def order_of_model(model: Model, params: Mapping[str, Any]) -> Order | None:
    """Return the names of `params` in the order of a model."""
    names = in_order(model.order, params)
    return None if names is None else (list(names), model.told)


def order_of_state(
    form: Form,
    model: Model | None,
    saved: Any,
    params: Mapping[str, Any],
    transpose: Sequence[str],
) -> Order | None:
    """Return the names of `params` in the order of a saved state.

    The groups of a state dict are one after another, whatever their places in the
    model, so its order is that of a model only if one group has all parameters.

    Args:
      form: the library of the state.
      model: the model that has the order, or None.
      saved: the saved state.
      params: the parameters, by their names.
      transpose: the patterns of `--transpose`.
    """
    shapes = shapes_in(form, saved)
    is_split = len(groups_with_params(saved)) > 1
    if model is not None and not is_split:
        found = in_order(model.order, params)
        if found is not None and _may_be(shapes, model, list(found.values())):
            return list(found), model.told
    names = by_shape(shapes or [], params, transpose)
    return None if names is None else (names, "their shapes, no two of which are equal")


def shapes_in(form: Form, saved: Any) -> list[Shape | None] | None:
    """Return the shape of each parameter of a state dict, in their order.

    Returns:
      None in the place of a parameter that has no state, and for a state that is no
      state dict.
    """
    if not is_state_dict(saved):
        return None
    state, key = saved["state"], form.peer.keys["mu"]
    shapes: list[Shape | None] = []
    for place in (i for group in groups_with_params(saved) for i in group["params"]):
        is_key = isinstance(place, int | np.integer | str)
        own = state.get(place, state.get(str(place))) if is_key else None
        first = own.get(key) if isinstance(own, Mapping) else None
        shape = getattr(first, "shape", None)
        shapes.append(None if shape is None else tuple(int(n) for n in shape))
    return shapes


def _may_be(
    shapes: Sequence[Shape | None] | None, model: Model, places: Sequence[int]
) -> bool:
    """Whether arrays of a model have the shapes in a saved state, as far as known."""
    if shapes is None:
        return True
    arrays = list(model.params.values())
    return len(places) == len(shapes) and all(
        shape in (None, arrays[place].shape)
        for shape, place in zip(shapes, places, strict=True)
    )


def in_order(order: Sequence[str], params: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the names of `params` in an order of names that may have a prefix.

    Returns:
      Their places in the order, which may have names besides, as a model has buffers;
      None if a parameter has no name there, or may have several.
    """
    try:
        places = matched_names(list(params), order)
    except ValueError:
        return None
    found = {i: name for name, i in zip(params, places, strict=True) if i is not None}
    if len(found) < len(params):
        return None
    return {found[i]: i for i in sorted(found)}


def by_shape(
    shapes: Sequence[Shape | None], params: Mapping[str, Any], transpose: Sequence[str]
) -> list[str] | None:
    """Return the names of `params` in the order of shapes; None if two may be alike.

    Kernels may be transposed in the saved state, which nobody said of those that
    `transpose` does not choose: (6, 3) may then be (3, 6).
    """
    turned = {
        n: np.shape(x)[::-1] for n, x in params.items() if is_chosen(n, transpose)
    }
    other = {n: np.shape(x) for n, x in params.items() if n not in turned}
    alike = Counter(tuple(sorted(shape)) for shape in other.values())
    names = {shape: name for name, shape in (turned | other).items()}
    is_clear = len(names) == len(params) == len(shapes) and set(names) == set(shapes)
    if not is_clear or max(alike.values(), default=0) > 1:
        return None
    return [names[shape] for shape in shapes if shape is not None]
