"""How the new value of a parameter is written into its dtype.

`Nearest` rounds to nearest. A commit may keep buffers of its own (a compensation, a
full-precision copy); one that draws random bits says so and is given a `Site`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from optadamw.aliases import Array
from optadamw.numerics import as_reals, compute_dtype, from_reals
from optadamw.rule import Slot

Buffers = Mapping[str, Array]


class Site(NamedTuple):
    """Which leaf of which step is being written, for a commit that draws bits."""

    step: Array
    leaf: Array


class Commit(Protocol):
    """Reads a parameter as the number that rules see, and writes the next one."""

    draws: ClassVar[bool]
    """Whether `write` needs a `Site`."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Buffers that the commit keeps between steps."""
        ...

    def read(self, param: Any, buffers: Buffers) -> Array:
        """The parameter's value in the dtype of computation."""
        ...

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        """The parameter nearest in kind to `target`, and the commit's buffers."""
        ...


@dataclass(frozen=True)
class Nearest:
    """Round to nearest, ties to even. No buffers."""

    draws: ClassVar[bool] = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        return ()

    def read(self, param: Any, buffers: Buffers) -> Array:
        del buffers
        return as_reals(param, compute_dtype(param.dtype))

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        del site
        return from_reals(target, param.dtype), buffers
