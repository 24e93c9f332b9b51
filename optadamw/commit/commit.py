"""Commits write the new value of a parameter into its dtype.

`Nearest` rounds to nearest. A commit may keep buffers of its own (a compensation, a
full-precision copy). A commit that draws random bits sets `draws` and receives a
`Site`.
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
    """Reads a parameter as the array that rules compute on, and writes the next one.

    This base class rounds to nearest and has neither buffers nor random bits.
    Subclasses override the members in which they differ.
    """

    draws: ClassVar[bool] = False
    """Whether `write` draws random bits and needs a `Site`; default: False."""
    name: ClassVar[str]
    """The text that selects this commit, as in `adamw(..., commit="kahan")`."""

    @property
    def keeps(self) -> str:
        """How a checkpoint names the commit, to tell buffers of one name apart."""
        return f"commit={self.name!r}"

    def check(self, dtypes: list[Any], paths: tuple[str, ...]) -> None:
        """Raise if the commit has no effect on these parameters; default: never."""
        del dtypes, paths

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The buffers that the commit keeps between steps; default: none."""
        return ()

    def read(self, param: Any, buffers: Buffers) -> Array:
        """Return the parameter's value in the dtype of computation."""
        del buffers
        return as_reals(param, compute_dtype(param.dtype))

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        """Return `target` in the dtype of `param`, and the commit's next buffers."""
        del site
        return from_reals(target, param.dtype), buffers

    def read_back(self, written: Array, buffers: Buffers) -> Array:
        """Return the value of a parameter that `write` has just returned.

        It is that of `read`, which may also ask whether the parameter was changed since
        it was written.
        """
        return self.read(written, buffers)


@dataclass(frozen=True)
class Nearest(Commit):
    """Round to nearest, ties to even. No buffers."""

    name: ClassVar[str] = "nearest"
