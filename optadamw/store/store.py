"""The protocols of a buffer's format.

Only a store knows the physical form of a buffer. `Dense` stores an array of the
parameter's shape in one dtype, `BlockStore` stores blocks of 8 bits.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from optadamw.base.random_bits import Site
from optadamw.base.tree import Leaves
from optadamw.base.types import Array, PyTree


class Storage(Protocol):
    """The format of the buffers of one slot: it chooses the store of every leaf."""

    @property
    def draws(self) -> bool:
        """Whether numbers are rounded at random, so that `encode` needs a `Site`."""
        ...

    @property
    def has_scales(self) -> bool:
        """Whether numbers share scales, which a State holds as a buffer of their own.

        A number that is not finite then spoils those that share its scale.
        """
        ...

    def resolved(self, name: str, leaves: Leaves, tree: PyTree) -> "Sequence[Store]":
        """Return the store of each leaf; errors call the buffer `name`."""
        ...


class Store(Protocol):
    """Decodes a buffer for the rules, and encodes the new values.

    Rules compute on real arrays in the dtype of computation. A buffer may be any pytree
    whose shapes depend only on the shape of the parameter.
    """

    @property
    def is_lossy(self) -> bool:
        """Whether `encode` rounds, so that the stored value differs from the rules'."""
        ...

    def zeros(self, param: Any) -> PyTree:
        """Return a buffer that decodes to zeros, sharded as `param`."""
        ...

    def copy(self, param: Any) -> PyTree:
        """Return a buffer that decodes to the parameter, without sharing its memory."""
        ...

    def fitted(self, buffer: PyTree, param: Any) -> "Store":
        """Return the store of `buffer`, which may have a form of its own."""
        ...

    def check(self, path: str, buffer: PyTree, param: Any) -> None:
        """Refuse a buffer that this store did not make for such a parameter."""
        ...

    def decode(self, buffer: PyTree, param: Any) -> Array:
        """Return the numbers in the buffer, in the dtype of computation."""
        ...

    def encode(self, value: Array, param: Any, site: Site | None = None) -> PyTree:
        """Return a buffer that holds `value`; without a site rounded to nearest."""
        ...

    def summary(self, param: Any) -> tuple[str, int]:
        """Return the name of the format and the bytes of the buffer, for `describe`."""
        ...
