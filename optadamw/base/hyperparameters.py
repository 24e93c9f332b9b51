"""A hyperparameter is a number, a 0-d array (also traced), a schedule or adjustable.

Numbers stay host doubles until a rule needs them, so `1 - b2` is formed in double
precision. Arrays and schedules are cast to the dtype of computation, never to the
parameters' dtype: in bfloat16, 0.999 is 1. Hyperparameters compare and hash by value,
and so do the transformations that hold them.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.adjustable import Adjustable
from optadamw.base.clock import Clock as Clock
from optadamw.base.dynamic import Dynamic as Dynamic
from optadamw.base.equality import hash_of, same
from optadamw.base.errors import invalid, mistyped, shown
from optadamw.base.held import Held as Held
from optadamw.base.horizon import horizon_of
from optadamw.base.interval import Interval
from optadamw.base.tree import dtype_of
from optadamw.base.types import Array, ScalarOrSchedule

_F = TypeVar("_F", bound=str)


@dataclass(frozen=True)
class Constant:
    """A number known when the transformation is built."""

    value: float

    def at(self, clock: Clock) -> float:
        del clock
        return self.value

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A schedule: a function of the number of finished optimizer steps.

    Attributes:
      schedule: the function.
      name: the name of the argument, for errors.
      legal: the interval of legal values, which a guard checks at each step; None
        (default): every value is legal.
    """

    schedule: Callable[[Any], Any]
    name: str = ""
    legal: Interval | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scheduled) and same(self.schedule, other.schedule)

    def __hash__(self) -> int:
        return hash_of(self.schedule)

    @property
    def horizon(self) -> int | None:
        """The step at which the schedule ends, if it has an attribute that says so."""
        return horizon_of(self.schedule)

    def at(self, clock: Clock) -> Array:
        by = f", as the schedule {self.schedule!r} returns it,"
        return real_scalar(self.name, self.schedule(clock.step), by).astype(clock.dtype)

    def __repr__(self) -> str:
        return repr(self.schedule)


def real_scalar(name: str, value: Any, by: str = "") -> Array:
    """Return `value` as a 0-d array; raise if it is not one real number.

    The text `by` follows the name in the error; default: empty.
    """
    rule = f"`{name}`{by} must be a real scalar"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    is_masked = isinstance(value, np.ma.MaskedArray)
    dtype = None if number or is_masked else dtype_of(value)
    real = dtype is not None and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )
    if not (number or real):
        raise TypeError(f"{rule}; got {shown(value)} of type {type(value).__name__}.")
    if np.shape(value) != ():
        raise ValueError(f"{rule}; got an array of shape {np.shape(value)}.")
    return jnp.asarray(fitting(value))


def fitting(value: Any) -> Any:
    """Return an integer that int32 cannot hold as a float, everything else as it is.

    Without x64 JAX wraps an int64 of NumPy to int32, so that 3e9 becomes -1.3e9, and
    raises a bare OverflowError for an integer of Python. Beyond the largest float the
    result is infinite.
    """
    is_array = isinstance(value, np.ndarray) and value.shape == ()
    if is_array and not isinstance(value, np.ma.MaskedArray):
        value = value[()]
    if not isinstance(value, int | np.integer) or -(2**31) <= value < 2**31:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


Hyperparameter = Constant | Dynamic | Scheduled | Held

STEPS = Interval(low=-(2.0**30), high=2.0**30)
"""The legal values of a schedule of step counts; below 1 it asks for no step."""

_FORMS = "a number, a 0-d array or a schedule `step -> value`"


def hyperparameter(
    name: str,
    value: "ScalarOrSchedule | Hyperparameter",
    legal: Interval,
    remedy: str = "",
) -> Hyperparameter:
    """Check a number, an array or a schedule, and wrap it.

    The value of a tracer or of a schedule is unknown here: a guard checks it at each
    step, and nothing else does. A `Hyperparameter` was checked before.

    Raises:
      TypeError: `value` has none of the three forms (a bool, None, a string, ...).
      ValueError: `value` is known and outside `legal`, or an array with axes.
    """
    if isinstance(value, Hyperparameter):
        return value
    if isinstance(value, Adjustable):
        return _held(name, value, legal, remedy)
    if isinstance(value, bool | np.bool_ | np.ma.MaskedArray):
        raise mistyped(name, _FORMS, value, remedy)
    if isinstance(value, int | float | np.floating | np.integer):
        return Constant(_known(name, value, legal, remedy))
    if isinstance(value, np.ndarray | jax.Array):
        return _array(name, value, legal, remedy)
    if callable(value) and not isinstance(value, type):
        return _scheduled(name, value, legal)
    raise mistyped(name, _FORMS, value, remedy)


def _held(name: str, given: Adjustable, legal: Interval, remedy: str) -> Held:
    argument, name = name, given.name or name
    first = hyperparameter(name, given.value, Interval(), remedy)
    if not isinstance(first, Constant):
        raise mistyped(
            name,
            "adjustable from a number on",
            given.value,
            "Set a value that is an array or traced with tx.with_hyperparameters.",
        )
    schedule = None
    if given.schedule is not None:
        schedule = _scheduled(argument, given.schedule)
    held = Held(name, first.value, legal, given.factor, schedule)
    held.check(first.value)
    return held


def _known(name: str, value: Any, legal: Interval, remedy: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number not in legal:
        raise invalid(name, str(legal), value, remedy)
    # A rate of 1e39 would be infinity in float32, and a limit of 1e-60 would be 0.
    wide = jnp.dtype(jax.dtypes.canonicalize_dtype(np.float64))
    with np.errstate(over="ignore", under="ignore"):
        held = float(np.asarray(number).astype(wide))
    if math.isinf(held) or (legal.open_low and held == legal.low):
        raise invalid(name, f"{legal} also in {wide}", value, remedy)
    return number


def _array(name: str, value: Any, legal: Interval, remedy: str) -> Hyperparameter:
    real = jnp.issubdtype(value.dtype, jnp.floating)
    if not (real or jnp.issubdtype(value.dtype, jnp.integer)):
        raise mistyped(name, f"{_FORMS} of real numbers", value, remedy)
    if value.shape != ():
        what = f"a scalar; got an array of shape {value.shape}"
        raise ValueError(
            f"`{name}` must be {what}. Use one transformation per value (`jax.vmap` "
            "over the scalar works), or a schedule."
        )
    if legal.high == 1.0 and value.dtype.itemsize < 4:
        raise invalid(
            name,
            f"{legal}, as a number or an array of at least 32 bits",
            value,
            "Near 1 a 16-bit float has no digits left: 0.999 is 1.0 in bfloat16. With "
            "optax.inject_hyperparams pass hyperparam_dtype=jnp.float32.",
        )
    if isinstance(value, np.ndarray):
        return Constant(_known(name, value.item(), legal, remedy))
    if not isinstance(value, jax.core.Tracer) and value.is_fully_addressable:
        # device_get, not float(): explicit, so it passes a transfer guard.
        _known(name, jax.device_get(value).item(), legal, remedy)
    return Dynamic(value, legal)


def _scheduled(
    name: str, value: Callable[..., Any], legal: Interval | None = None
) -> Scheduled:
    try:
        inspect.signature(value).bind(0)
    except TypeError as error:
        raise mistyped(
            name, _FORMS, value, "A schedule takes one argument, the step."
        ) from error
    except ValueError:
        pass  # a builtin without a signature: it is called at trace time
    return Scheduled(value, name, legal)


def form_of_number(value: Any, of: Callable[[float], _F], unknown: _F) -> _F:
    """Return a form that follows from a number, where rules compute in several forms.

    Args:
      value: the number; or its form, as a skeleton has it in the place of the number.
      of: returns the form of a plain number.
      unknown: the form of arrays and schedules, whose numbers are not known.
    """
    if isinstance(value, str):
        return cast(_F, value)
    return of(value.value) if isinstance(value, Constant) else unknown


def whole_steps(name: str, value: Any) -> Constant | Dynamic:
    """Check a number of steps: a whole number of at least 1.

    A 0-d array is legal too: `optax.inject_hyperparams` makes one of every number.
    """
    rule = "a whole number of steps >= 1"
    if isinstance(value, Constant | Dynamic):
        return value
    is_array = isinstance(value, np.ndarray | jax.Array)
    if is_array and value.shape != ():
        shape = f"an array of shape {value.shape}"
        raise ValueError(f"`{name}` must be {rule}; got {shape}.")
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool | np.ma.MaskedArray) or not (is_array or is_number):
        raise mistyped(name, rule, value)
    if isinstance(value, jax.core.Tracer):
        return Dynamic(value)
    number = jax.device_get(value)
    # Steps are counted in int32. An int of Python may be too large for a float.
    if 2**31 <= number < math.inf:
        raise invalid(name, f"{rule}, below 2**31", value)
    if not math.isfinite(number) or number < 1 or number != int(number):
        raise invalid(name, rule, value)
    return Dynamic(value) if isinstance(value, jax.Array) else Constant(float(number))


def every_so_many(name: str, value: Any) -> Constant | Dynamic | Scheduled:
    """Check a step count as `whole_steps` does, or a schedule that returns one."""
    if isinstance(value, Scheduled):
        return value
    if callable(value) and not isinstance(value, type):
        return _scheduled(name, value, STEPS)
    steps = whole_steps(name, value)
    if isinstance(steps, Dynamic) and steps.is_traced:  # a guard judges its number
        return replace(steps, legal=STEPS)
    return steps


def switch(name: str, value: Any, *words: str) -> Any:
    """Check a switch: True, False or one of `words`. Numbers such as 1 are refused."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str) and words:
        if value in words:
            return value
        raise invalid(name, _one_of(words), value)
    raise mistyped(name, _one_of(words), value)


def switched(name: str, value: Any) -> bool:
    """Check a switch that is True or False; None means False."""
    return False if value is None else switch(name, value)


def _one_of(words: tuple[str, ...]) -> str:
    choices = ["True", "False", *map(repr, words)]
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
