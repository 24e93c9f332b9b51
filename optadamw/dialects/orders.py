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
from optadamw.dialects.states.prefixes import places_called, with_one_prefix
from optadamw.dialects.states.state_dict import groups_with_params, is_state_dict

Shape = tuple[int, ...]
Order = tuple[list[str], str]
"""Our names in an order, and what tells it."""


def order_of_models(
    form: Form,
    models: Sequence[Model],
    params: Mapping[str, Any],
    shapes: Sequence[Shape | None] | None = None,
) -> Order | None:
    """Return the names of `params` in the order of a library's models.

    Args:
      form: the library; a model of another one has another order.
      models: the models in the files, that beside the state first.
      params: the parameters, by their names.
      shapes: the shapes in the saved state, as `shapes_in` returns them; None: unknown.

    Returns:
      The order of the first model that has all parameters; None if there is none.
    """
    for model in models:
        if model.is_of_pytorch == form.is_state_dict:
            places = in_order(model.order, params)
            if places is not None and _may_be(shapes, model, list(places.values())):
                return list(places), model.told
    return None


def order_of_state(
    form: Form,
    models: Sequence[Model],
    saved: Any,
    params: Mapping[str, Any],
    transpose: Sequence[str],
) -> Order | None:
    """Return the names of `params` in the order of a saved state.

    The groups of a state dict are one after another, whatever their places in the
    model, so its order is that of a model only if one group has all parameters.

    Args:
      form: the library of the state.
      models: the models in the files.
      saved: the saved state.
      params: the parameters, by their names.
      transpose: the patterns of `--transpose`.
    """
    shapes = shapes_in(form, saved)
    is_split = len(groups_with_params(saved)) > 1
    by_model = None if is_split else order_of_models(form, models, params, shapes)
    if by_model is not None:
        return by_model
    names = by_shape(shapes or [], params, transpose)
    return None if names is None else (names, "their shapes, no two of which are equal")


def order_of_target(
    source: Form | None,
    target: Form,
    names: Any,
    named: Sequence[str],
    models: Sequence[Model],
    params: Mapping[str, Any],
) -> Order | None:
    """Return the order of a state that is written, and what tells it.

    A state of the same library keeps the order of FROM. That of another library has the
    order of a model of its own, if there is one.

    Args:
      source: the library that is read; None for our own checkpoints.
      target: the library that is written.
      names: what `--names` gives or a file tells.
      named: the names in the saved state.
      models: the models in the files.
      params: the parameters, by their names.
    """
    ordered = None if source is None or source.has_names else source
    is_kept = ordered is not None and ordered.is_state_dict == target.is_state_dict
    if is_kept and isinstance(names, list):
        return None  # `write_state` takes this order
    by_model = order_of_models(target, models, params)
    tells_no_order = isinstance(names, Mapping) and ordered is None
    by_names = None if tells_no_order else _order_of_names(names, named, params)
    return (by_names or by_model) if is_kept else (by_model or by_names)


def _order_of_names(
    names: Any, named: Sequence[str], params: Mapping[str, Any]
) -> Order | None:
    """Return the order that names give to a state that has an order.

    Args:
      names: a mapping to the saved state; a list, which gives no other order; or None.
      named: the names in the saved state.
      params: the parameters, by their names.
    """
    if isinstance(names, list):
        return None
    places = in_mapping(names or {}, named)
    if places is None:
        return None
    if places and places.keys() == params.keys():
        return sorted(places, key=places.__getitem__), "`--names`"
    equal = in_order(named, params) if named else None
    if equal is None or not places.items() <= equal.items():
        return None
    return list(equal), "the names in the saved state"


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
    """Return the names of `params` in an order of names, equal but for one prefix.

    Returns:
      Their places in the order, which may have names besides, as a model has buffers;
      None if a parameter has no name there, or may have several.
    """
    names = list(params)
    ways = with_one_prefix(order, names) if names else []
    if len(ways) != 1:
        return None
    found = {names[i]: place for place, i in enumerate(ways[0]) if i is not None}
    is_clear = sum(i is not None for i in ways[0]) == len(found) == len(names)
    return found if is_clear else None


def in_mapping(names: Mapping[str, Any], named: Sequence[str]) -> dict[str, int] | None:
    """Return the places in a saved state that a mapping to it gives to our names.

    Args:
      names: maps our names to the names or the positions in the saved state, or None.
      named: the names in the saved state, in its order.

    Returns:
      None if a name or position in `names` is not in the saved state: the error is
      raised where the state is read.
    """
    places = places_called(named)
    found: dict[str, int] = {}
    for ours, theirs in names.items():
        at = places(theirs) if isinstance(theirs, str) else [theirs]
        if len(at) != 1 or not isinstance(at[0], int | None):
            return None
        if at[0] is not None:
            found[ours] = at[0]
    return found


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
