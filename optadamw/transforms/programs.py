"""The compiled programs of a composition, which equal transformations share."""

import functools
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax

from optadamw.base.hyperparameters import fitting
from optadamw.base.types import PyTree
from optadamw.store.state import State
from optadamw.walk.composition import Composition
from optadamw.walk.homes import Homes
from optadamw.walk.step import advance


@dataclass(frozen=True)
class Step:
    """The function `step(grads, state, params, **extra) -> (params, state)`."""

    composition: Composition
    __name__: ClassVar[str] = "step"  # shown in traces and profiles

    def __call__(
        self, grads: PyTree, state: State, params: PyTree, **extra: Any
    ) -> tuple[PyTree, State]:
        return advance(self.composition, grads, state, params, extra, "param")


@dataclass(frozen=True)
class JitStep:
    """A compiled `step` that reuses the memory of its parameters and state."""

    composition: Composition
    programs: "Programs" = field(compare=False, repr=False)

    def __call__(
        self, grads: PyTree, state: State, params: PyTree, **extra: Any
    ) -> tuple[PyTree, State]:
        # jit would wrap an int64 of NumPy, such as a weight, to int32.
        extra = {name: fitting(value) for name, value in extra.items()}
        return self.programs.at(params, state).in_place(params, state, grads, extra)

    def lower(
        self, grads: PyTree, state: State, params: PyTree, **extra: Any
    ) -> jax.stages.Lowered:
        """Lower the step as `jax.jit(...).lower` does, to read the compiled program."""
        return self.programs.at(params, state).in_place.lower(
            params, state, grads, extra
        )


def _in_place(
    composition: Composition,
    params: PyTree,
    state: State,
    grads: PyTree,
    extra: dict[str, Any],
) -> tuple[PyTree, State]:
    # The arguments stand in the order of the results: jit pairs donated buffers with
    # results of the same shape and dtype in order of position. In the order of `step`
    # the parameters would overwrite the first moment, and the first moment the second,
    # so that XLA would copy them all first: temporaries of twice the parameters' size.
    return advance(composition, grads, state, params, extra, "param")


class Programs:
    """The functions of one composition that are compiled.

    jit drops the compiled programs of a function when the function is deleted. Equal
    transformations hold one object of this class (`programs_of`), so that they share
    their programs, and a program takes memory as long as one of them is in use.
    """

    def __init__(self, composition: Composition) -> None:
        self.composition = composition
        self.step = Step(composition)
        self._homes = Homes(composition)
        self._elsewhere: dict[Composition, Programs] = {}
        self.in_place = jax.jit(
            functools.partial(_in_place, composition), donate_argnums=(0, 1)
        )

    def at(self, params: PyTree, state: Any) -> "Programs":
        """Return the functions for the layout of these parameters."""
        if (composition := self._homes.of(params, state)) is self.composition:
            return self
        if composition not in self._elsewhere:
            self._elsewhere[composition] = Programs(composition)
        return self._elsewhere[composition]

    def __reduce__(self) -> tuple[Any, ...]:
        return programs_of, (self.composition,)


_IN_USE: "weakref.WeakValueDictionary[Composition, Programs]"
_IN_USE = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def programs_of(composition: Composition) -> Programs:
    """Return the functions that all transformations of a composition share."""
    if composition.is_traced:
        return Programs(composition)
    with _LOCK:
        found = _IN_USE.get(composition)
        if found is None:
            found = _IN_USE[composition] = Programs(composition)
    return found
