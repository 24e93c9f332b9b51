"""An optimizer that accumulates, and an average that sees each of its calls.

Inside this library an average moves once for each optimizer step. Keras 3 moves it at
every gradient call, also at calls that only accumulate. To reproduce its numbers, this
pair keeps the average outside the accumulation.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from optadamw.base.types import PyTree
from optadamw.store.state import State
from optadamw.transforms.call import Call
from optadamw.transforms.transformation import Transformation

States = tuple[State, State]


@dataclass(frozen=True)
class Init:
    """`init(params) -> (state, average)`."""

    inner: Transformation
    average: Transformation
    call: Call | None = field(default=None, compare=False)
    __name__: ClassVar[str] = "init"

    def __call__(self, params: PyTree) -> States:
        return self.inner.init(params), self.average.init(params)


@dataclass(frozen=True)
class Update:
    """`update(grads, states, params, **extra) -> (updates, states)`."""

    inner: Transformation
    average: Transformation
    __name__: ClassVar[str] = "update"

    def __call__(
        self, grads: PyTree, states: States, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, States]:
        updates, state = self.inner.update(grads, states[0], params, **extra)
        updates, average = self.average.update(updates, states[1], params)
        return updates, (state, average)


@dataclass(frozen=True)
class Step:
    """`step(grads, states, params) -> (params, states)`."""

    inner: Transformation
    average: Transformation
    __name__: ClassVar[str] = "step"

    def __call__(
        self, grads: PyTree, states: States, params: PyTree, **extra: Any
    ) -> tuple[PyTree, States]:
        params, state = self.inner.step(grads, states[0], params, **extra)
        # Minus zero changes no parameter, so the average sees what was written.
        still = jax.tree.map(lambda p: jnp.full(p.shape, -0.0, p.dtype), params)
        updates, average = self.average.update(still, states[1], params)
        return optax.apply_updates(params, updates), (state, average)


# Kept, as jit forgets what it compiled for a function that died.
@functools.lru_cache(maxsize=16)
def _step_of(inner: Transformation, average: Transformation) -> Step:
    return Step(inner, average)


class EveryCall(optax.GradientTransformationExtraArgs):
    """An optimizer and its average, as an Optax transformation with a `step`."""

    __slots__ = ()

    @property
    def inner(self) -> Transformation:
        """The optimizer without its average."""
        return self.init.inner

    @property
    def step(self) -> "Step":
        """`step(grads, states, params) -> (params, states)`."""
        return _step_of(self.inner, self.init.average)

    def called(self, call: Call) -> "EveryCall":
        """Return an equal transformation that prints as `call`."""
        return EveryCall(replace(self.init, call=call), self.update)

    def __repr__(self) -> str:
        return repr(self.init.call or (self.inner, self.init.average))


def at_every_call(inner: Transformation, average: Transformation) -> EveryCall:
    """Run `inner`, and move `average` at each of its gradient calls."""
    return EveryCall(Init(inner, average), Update(inner, average))
