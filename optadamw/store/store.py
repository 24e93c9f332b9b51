"""How a buffer is kept between steps.

A store is the only thing that knows the physical form of a buffer. `Dense` keeps an
array of the parameter's shape in one dtype, `optadamw.store.blockwise` one in 8 bits.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from optadamw.base.random_bits import Site
from optadamw.base.tree import Leaves
from optadamw.base.types import Array, PyTree


class Storage(Protocol):
    """How the buffers of one slot are kept: it knows the store of every leaf."""

    @property
    def draws(self) -> bool:
        """Whether numbers are rounded at random, so that `encode` needs a `Site`."""
        ...

    @property
    def has_scales(self) -> bool:
        """Whether numbers share scales, which are a field of State of their own.

        One that is not finite then spoils those beside it.
        """
        ...

    def resolved(self, name: str, leaves: Leaves, tree: PyTree) -> "Sequence[Store]":
        """The store of each leaf; errors speak of the buffer `name`."""
        ...


class Store(Protocol):
    """Decodes a buffer for the rules and encodes what they return.

    Rules see real arrays in the dtype of computation. A buffer may be any pytree whose
    shapes depend on the parameter's alone.
    """

    @property
    def is_lossy(self) -> bool:
        """Whether `encode` rounds, so that the rules' value is another than is kept."""
        ...

    def zeros(self, param: Any) -> PyTree:
        """The buffer that decodes to zeros, sharded as `param`."""
        ...

    def copy(self, param: Any) -> PyTree:
        """The buffer that decodes to the parameter; it never shares its memory."""
        ...

    def check(self, path: str, buffer: PyTree, param: Any) -> None:
        """Refuse a buffer that is not one of this store for this parameter."""
        ...

    def decode(self, buffer: PyTree, param: Any) -> Array:
        """The numbers in the buffer."""
        ...

    def encode(self, value: Array, param: Any, site: Site | None = None) -> PyTree:
        """The buffer that holds `value`; without a site rounded to nearest."""
        ...

    def summary(self, param: Any) -> tuple[str, int]:
        """What `describe` shows: the form's name and the bytes it takes."""
        ...
