"""The functions of an implementation that the timing and the check call."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.reference import OURS, Conventions
from benchmarks.workloads import Config


class UnavailableError(Exception):
    """An installed implementation cannot run here; the message says why."""


class Timed(Protocol):
    """A step with its arrays, resident on the device."""

    def move(self) -> None:
        """Copies everything that a step reads or writes to newly allocated memory."""
        ...

    def step(self) -> None:
        """Starts one step, in place; of a window, the call that is next."""
        ...

    def wait(self) -> None:
        """Returns when everything that was started has finished."""
        ...


class Session(Timed, Protocol):
    """Parameters, gradients and optimizer state, resident on the device."""

    def load(self, gradients: Iterable[np.ndarray]) -> None:
        """Puts the gradients of the following steps on the device."""
        ...

    def parameters(self) -> list[np.ndarray]:
        """Copies the sampled elements of each parameter to the host."""
        ...

    def average(self) -> list[np.ndarray]:
        """Copies the sampled elements of each parameter's moving average."""
        ...


class Program(NamedTuple):
    """A step as a pure function, for implementations on JAX.

    `carry` is everything that a step replaces, and all of it is donated.

    Attributes:
        step: `(gradients, carry) -> carry`.
        init: `parameters -> carry`.
        parameters: `carry -> parameters`.
        average: `carry -> moving average of the parameters`.
        compiled: `(gradients, carry) -> compiled step`, of an implementation that
            compiles its step itself; read for its memory.
    """

    step: Callable[[Any, Any], Any]
    init: Callable[[Any], Any]
    parameters: Callable[[Any], Any]
    average: Callable[[Any], Any]
    compiled: Callable[[Any, Any], jax.stages.Compiled] | None = None


def _as_it_is(config: Config) -> Config:
    return config


@dataclasses.dataclass(frozen=True)
class Contender:
    """An implementation and how it is run.

    Attributes:
        open: Makes a session from a configuration, a tree of shapes, and parameters.
        program: The step as a function, made anew by each call from a configuration
            and a tree of shapes; None if the implementation is not on JAX.
        conventions: Where its numbers differ by design.
        own: What it does of a configuration, or does besides.
        checked: Whether it is an optimizer in float32, whose results can be checked.
        dtype: In which it keeps the parameters, and gets the gradients.
    """

    open: Callable[[Config, Any, Iterable[np.ndarray]], Session]
    program: Callable[[Config, Any], Program] | None
    conventions: Conventions = OURS
    own: Callable[[Config], Config] = _as_it_is
    checked: bool = True
    dtype: str = "float32"

    def cast(self, tree: Any) -> Any:
        """A tree of shapes in the dtype in which it keeps parameters."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(self.dtype)), tree
        )
