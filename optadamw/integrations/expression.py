"""Read a transformation back from the text that it prints as.

A transformation prints as the call that made it: `adamw(0.001, mask='*/kernel')`. A
saved file that holds this text can be read by people, and needs no pickle. Only the
functions of this library are called, with literals, with scalars of NumPy and JAX, and
with each other.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from optadamw import schedules
from optadamw.adamw import adamw
from optadamw.base.adjustable import Adjustable, adjustable
from optadamw.base.patterns import exclude, only
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.dialects.catalogue import CALLS
from optadamw.store.formats import blockwise, stochastic
from optadamw.transforms.freeze import freeze
from optadamw.transforms.options import ATOMS, WRAPPERS
from optadamw.transforms.param_groups import param_groups
from optadamw.transforms.scale_by_second_moment import scale_by_second_moment
from optadamw.transforms.schedule_free import schedule_free, schedule_free_adamw
from optadamw.transforms.transformation import Transformation
from optadamw.transforms.with_pallas import with_pallas

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(schedules, name) for name in schedules.__all__},
    **{part.make.__name__: part.make for part in (*ATOMS, *WRAPPERS)},
    **{f.__name__: f for f in (adamw, param_groups, with_pallas, blockwise)},
    **{f.__name__: f for f in (stochastic, only, exclude, DynamicLossScale)},
    **{f.__name__: f for f in (adjustable, freeze, scale_by_second_moment)},
    **{f.__name__: f for f in (schedule_free, schedule_free_adamw)},
    **{
        f"{call.module}.{function.__name__}": function
        for call in CALLS.values()
        for function in (call.function, *call.others)
    },
    "re.compile": re.compile,
}
"""The functions that a text may call, by the names that they print."""

SCALARS = {
    f"np.{kind.__name__}": kind
    for kind in (np.float16, np.float32, np.float64, np.int32, np.int64)
}
"""The scalars of NumPy that a text may have in the place of a number."""

ARRAYS: dict[str, Callable[..., Any]] = {"array": np.asarray, "Array": jnp.asarray}
"""The arrays without axes that a text may have, as NumPy and JAX print them."""


def read_call(text: str) -> Transformation:
    """Return the transformation that prints as `text`.

    Raises:
      ValueError: the text is no call of this library with literal arguments.
    """
    try:
        made = _value(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no call that can be read back.") from error
    if not isinstance(made, Transformation):
        raise ValueError(f"{text!r} is no transformation of optadamw.")
    return made


def text_of(tx: Transformation) -> str:
    """Return the text from which `read_call` makes an equal transformation.

    Raises:
      ValueError: an argument is no literal, such as a function or an array with axes.
    """
    # As many digits as tell a number from all others of its dtype: 8, by default, are
    # too few for a float32.
    with np.printoptions(floatmode="unique"):
        text = repr(tx)
    try:
        is_equal = read_call(text) == tx
    except (ValueError, TypeError) as error:
        raise ValueError(_unreadable(text)) from error
    if not is_equal:
        raise ValueError(_unreadable(text))
    return text


def _unreadable(text: str) -> str:
    return (
        f"{text} cannot be saved: it is written as text, and an argument that is a "
        "function or an array with axes cannot be read back. Use a pattern in place of "
        "a function that chooses parameters, a schedule of optadamw.schedules in place "
        "of another, and bools in place of arrays."
    )


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
        case ast.Name("inf" | "nan" as name):
            return float(name)
        case ast.Attribute(ast.Name("np"), "True_" | "False_" as name):
            return name == "True_"
        case ast.BinOp(left, ast.Mult(), right):
            number = _value(left)
            if isinstance(number, Adjustable):
                return number * _value(right)
        case ast.List(items):
            return [_value(item) for item in items]
        case ast.Tuple(items):
            return tuple(_value(item) for item in items)
        case ast.Dict(keys, values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {_value(key): _value(value) for key, value in pairs if key}
        case ast.Call(ast.Name("array" | "Array" as name), [number], named):
            dtypes = [k.value for k in named if k.arg == "dtype"]
            given = jnp.dtype(ast.unparse(dtypes[0])) if dtypes else None
            return ARRAYS[name](_number(number), dtype=given)
        case ast.Call(ast.Attribute(), [number]) if ast.unparse(node.func) in SCALARS:
            return SCALARS[ast.unparse(node.func)](_number(number))
        case ast.Call(function, positional, named) if all(k.arg for k in named):
            keywords = {str(k.arg): _value(k.value) for k in named}
            return _function(function)(*map(_value, positional), **keywords)
    raise ValueError(f"`{ast.unparse(node)}` is neither a literal nor a known call.")


def _number(node: ast.expr) -> int | float:
    number = _value(node)
    if isinstance(number, int | float):
        return number
    raise ValueError(f"`{ast.unparse(node)}` is no number.")


def _function(node: ast.expr) -> Callable[..., Any]:
    name = ast.unparse(node)
    if name not in FUNCTIONS:
        raise ValueError(f"`{name}` is no function of optadamw that can be read back.")
    return FUNCTIONS[name]
