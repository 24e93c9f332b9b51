"""A hyperparameter that is an array: equal by value, or by identity inside a trace."""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.clock import Clock
from optadamw.base.interval import Interval
from optadamw.base.types import Array


@dataclass(frozen=True, eq=False)
class Dynamic:
    """A 0-d array; equal if value and dtype are, a tracer only if it is the same.

    Attributes:
      value: the array.
      legal: the interval of legal values, which a guard checks at each step; None
        (default): every value is legal.
    """

    value: Array
    legal: Interval | None = None

    def at(self, clock: Clock) -> Array:
        return jnp.asarray(self.value).astype(clock.dtype)

    @property
    def is_traced(self) -> bool:
        """Whether the array is known only inside a trace."""
        return isinstance(self.value, jax.core.Tracer)

    @cached_property
    def _key(self) -> tuple[object, ...]:
        # Kept, so that equal transformations are found without a copy to the host, and
        # when Python shuts down, where JAX cannot make one.
        if self.is_traced:
            return ("traced", id(self.value))
        host = np.asarray(jax.device_get(self.value))
        return (str(host.dtype), host.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dynamic) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return repr(self.value)
