"""Find the transformations of this library inside an Optax transformation."""

from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import optax

from optadamw.transforms.transformation import Init, Transformation, transformation


def transformations_in(tx: optax.GradientTransformation) -> list[Transformation]:
    """Return the transformations of this library in `tx`, in the order of their States.

    Optax keeps the parts of a chain or wrapper only in closures, which are searched
    here. A transformation that `optax.inject_hyperparams` builds later is not found.
    """
    return list(_found(tx, ()))


def _found(value: Any, above: tuple[int, ...]) -> Iterator[Transformation]:
    if id(value) in above:
        return
    above = (*above, id(value))
    if isinstance(value, Transformation):
        yield value
    elif isinstance(value, Init):
        yield transformation(value.recipe.composition, value.recipe.call)
    elif isinstance(value, optax.GradientTransformation):
        yield from _found(value.init, above)
    else:
        for part in _parts(value):
            yield from _found(part, above)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return [value[key] for key in _in_order(value)]
    if isinstance(value, MethodType):  # optax.MultiSteps
        return list(vars(value.__self__).values())
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return [_content(cell) for cell in cells]
    return []


def _in_order(keys: Iterable[Any]) -> list[Any]:
    """Sort keys as JAX does when it flattens a dict: 2 before 10, "10" before "2"."""
    try:
        return sorted(keys)
    except TypeError:  # JAX refuses such a dict
        return sorted(keys, key=str)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None
