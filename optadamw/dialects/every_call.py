"""An optimizer that accumulates, and an average that sees each of its calls.

Inside this library an average moves once for each optimizer step. Keras 3 moves it at
every gradient call, those that only accumulate too; who must reproduce its numbers
gets this pair, in which the average stands outside the accumulation.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from optadamw.aliases import PyTree
from optadamw.state import State
from optadamw.transformation import Transformation

States = tuple[State, State]


@dataclass(frozen=True)
class Init:
    """`init(params) -> (state, average)`."""

    inner: Transformation
    average: Transformation
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


class EveryCall(optax.GradientTransformationExtraArgs):
    """The pair, as an Optax transformation with a `step`."""

    __slots__ = ()

    @property
    def inner(self) -> Transformation:
        return self.init.inner

    def step(
        self, grads: PyTree, states: States, params: PyTree, **extra: Any
    ) -> tuple[PyTree, States]:
        """`step(grads, states, params) -> (params, states)`."""
        params, state = self.inner.step(grads, states[0], params, **extra)
        # Minus zero changes no parameter, so the average sees what was written.
        still = jax.tree.map(lambda p: jnp.full(p.shape, -0.0, p.dtype), params)
        updates, average = self.init.average.update(still, states[1], params)
        return optax.apply_updates(params, updates), (state, average)

    def __repr__(self) -> str:
        return f"<{self.inner!r}, averaged at every call by {self.init.average!r}>"


def at_every_call(inner: Transformation, average: Transformation) -> EveryCall:
    """`inner`, and `average` of what it leaves after each of its calls."""
    return EveryCall(Init(inner, average), Update(inner, average))
