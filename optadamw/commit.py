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

    key: Array
    """What the bits depend on in this step, uint32 (`Commit.key`)."""
    leaf: Array


class Commit(Protocol):
    """Reads a parameter as the number that rules see, and writes the next one."""

    draws: ClassVar[bool]
    """Whether `write` needs a `Site`."""
    name: ClassVar[str]

    @property
    def is_traced(self) -> bool:
        """Whether a number of it is a tracer."""
        ...

    def check(self, dtypes: list[Any], paths: tuple[str, ...]) -> None:
        """Refuse parameters for which it means nothing."""
        ...

    def skeleton(self) -> "Commit":
        """The commit without its numbers: what a leaf function depends on."""
        ...

    def key(self, step: Array) -> Array:
        """What random bits depend on in this step besides their place."""
        ...

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
    is_traced: ClassVar[bool] = False
    name: ClassVar[str] = "nearest"

    def check(self, dtypes: list[Any], paths: tuple[str, ...]) -> None:
        del dtypes, paths

    def skeleton(self) -> "Nearest":
        return self

    def key(self, step: Array) -> Array:
        return step

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
