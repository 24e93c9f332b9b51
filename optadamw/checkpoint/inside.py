"""The transformations of this library inside an Optax one."""

from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import optax

from optadamw.transforms.transformation import Init, Transformation, transformation


def transformations_in(tx: optax.GradientTransformation) -> list[Transformation]:
    """Those that `tx` is made of, in the order of their States.

    Optax keeps the parts of a chain or wrapper in closures and tells of them in no
    other way. What is built later, by `optax.inject_hyperparams`, is not found.
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
        # JAX flattens dicts by sorted keys, and Optax's states are dicts alike.
        return [value[key] for key in sorted(value, key=str)]
    if isinstance(value, MethodType):  # optax.MultiSteps
        return list(vars(value.__self__).values())
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return [_content(cell) for cell in cells]
    return []


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None
