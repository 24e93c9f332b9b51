"""Transformations print as the call that made them."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import jax.numpy as jnp
import numpy as np

from optadamw.base.masks import Selector, selector


@dataclass(frozen=True, eq=False)
class Call:
    """The call that made a transformation; all calls compare equal.

    Equality of transformations therefore does not depend on the call that made them.
    """

    name: str
    """The name of the function that was called."""
    positional: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    """The keyword arguments that differ from their defaults, with their names."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        arguments = [_shown(value) for value in self.positional]
        arguments += [f"{name}={_shown(value)}" for name, value in self.named]
        return f"{self.name}({', '.join(arguments)})"


class Printable(Protocol):
    """A value that prints as a call."""

    def called(self, call: Call) -> Self:
        """Return an equal value that prints as `call`."""
        ...


_P = ParamSpec("_P")
_T = TypeVar("_T", bound=Printable)


def prints_as_call(factory: Callable[_P, _T], prefix: str = "") -> Callable[_P, _T]:
    """Make the transformation that `factory` returns print as the call that made it.

    Use it as a decorator. `prefix` stands before the name of the factory; default: "".
    """
    signature = inspect.signature(factory)
    starred = [
        p.name
        for p in signature.parameters.values()
        if p.kind is inspect.Parameter.VAR_POSITIONAL
    ]

    @functools.wraps(factory)
    def build(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        made = factory(*args, **kwargs)
        bound = signature.bind(*args, **kwargs).arguments
        positional: tuple[Any, ...] = ()
        for name in starred:
            positional = _kept(bound.pop(name, ()))
        named = tuple(
            (name, _kept(value))
            for name, value in bound.items()
            if not _is_default(value, signature.parameters[name].default)
        )
        if not starred and named and named[0][0] == next(iter(signature.parameters)):
            positional, named = (named[0][1],), named[1:]
        call = Call(prefix + factory.__name__, positional, named)
        return made.called(call)

    if "mask" in signature.parameters:
        parameters = tuple(signature.parameters.values())
        build.__signature__ = MaskSignature(  # type: ignore[attr-defined]
            parameters, return_annotation=signature.return_annotation
        )
    return build


class MaskSignature(inspect.Signature):
    """A signature whose `bind` returns a mask that is a function as a `Selector`.

    `optax.inject_hyperparams` binds the arguments of a call by the signature, and takes
    every callable among them for a schedule: it calls a mask with the step count and
    passes the result, which is False for most masks, so that nothing would decay. A
    `Selector` is not callable.
    """

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        bound = super().bind(*args, **kwargs)
        mask = bound.arguments.get("mask")
        if callable(mask) and not isinstance(mask, Selector):
            bound.arguments["mask"] = selector("mask", mask)
        return bound


def _is_default(value: Any, default: Any) -> bool:
    if value is default:
        return True
    plain = (bool, int, float, str)
    same_type = type(value) is type(default)
    return same_type and isinstance(value, plain) and value == default


def _kept(value: Any) -> Any:
    """Return an argument whose containers the caller cannot change any more."""
    if type(value) is dict:
        return {key: _kept(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_kept, value))
    return value.copy() if type(value) is np.ndarray else value


def _shown(value: Any) -> str:
    """Return a value as a user would type it; a dtype is shown by its name."""
    if isinstance(value, np.dtype):
        return repr(value.name)
    is_scalar_type = isinstance(value, type) and issubclass(value, np.generic)
    if is_scalar_type or type(value).__name__ == "_ScalarMeta":
        return repr(jnp.dtype(value).name)
    return repr(value)
