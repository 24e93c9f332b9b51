"""How the new value of a parameter is written into its dtype.

`Nearest` rounds to nearest. A commit may keep buffers of its own (a compensation, a
full-precision copy); one that draws random bits says so and is given a `Site`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from optadamw.base.numerics import as_reals, compute_dtype, from_reals
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.store.slot import Slot

Buffers = Mapping[str, Array]


class Commit:
    """Reads a parameter as the number that rules see, and writes the next one.

    The base of all commits: without buffers or random bits, and rounding to nearest.
    A subclass overrides what it has.
    """

    draws: ClassVar[bool] = False
    """Whether `write` needs a `Site`."""
    name: ClassVar[str]

    def check(self, dtypes: list[Any], paths: tuple[str, ...]) -> None:
        """Refuse parameters for which it means nothing."""
        del dtypes, paths

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Buffers that the commit keeps between steps."""
        return ()

    def read(self, param: Any, buffers: Buffers) -> Array:
        """The parameter's value in the dtype of computation."""
        del buffers
        return as_reals(param, compute_dtype(param.dtype))

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        """The parameter nearest in kind to `target`, and the commit's buffers."""
        del site
        return from_reals(target, param.dtype), buffers


@dataclass(frozen=True)
class Nearest(Commit):
    """Round to nearest, ties to even. No buffers."""

    name: ClassVar[str] = "nearest"
