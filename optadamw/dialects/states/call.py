"""The arguments that every `from_` and every `to_` function takes, checked."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, invalid, kind_at_leaf, mistyped
from optadamw.base.tree import Leaves, check_parameters, dtype_of, flatten
from optadamw.base.types import PyTree
from optadamw.control.accumulation import Accumulation
from optadamw.control.control import Control
from optadamw.dialects.states.naming import Names
from optadamw.dialects.states.peer import Peer
from optadamw.transforms.transformation import Transformation

Layout = Callable[[str, np.ndarray], Any]
"""`(path, array) -> array`: from the shape there to the shape here, or the reverse."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of a `from_` or `to_` function; `Request` and `Departure` add some.

    Their docstrings are the documentation of these arguments in `help()`
    (`signature.py`).
    """

    peer: Peer
    params: PyTree
    tx: Transformation | None = None
    names: Names = None
    layout: Layout | None = None
    drop: Collection[str] = ()

    @staticmethod
    def check_names(function: str, given: Mapping[str, Any], known: type) -> None:
        """Refuse keyword arguments that are not in `known`, a `TypedDict`.

        Raises:
          TypeError: an argument that the function does not have.
        """
        names = list(known.__annotations__)
        for name in given:
            if name not in names:
                raise TypeError(
                    f"{function}() got an unexpected keyword argument '{name}'. All "
                    f"functions of its kind take {', '.join(names)}."
                )

    def __post_init__(self) -> None:
        tx: Any = self.tx  # of any type, if no type checker saw the call
        layout: Any = self.layout
        if tx is not None and not isinstance(tx, Transformation):
            raise mistyped(
                "tx",
                "a transformation of optadamw, or None",
                tx,
                "Convert with the one inside its wrapper, and wrap the state.",
            )
        if layout is not None and not callable(layout):
            rule = "a function (path, array) -> array, or None"
            raise mistyped("layout", rule, layout)

    @cached_property
    def leaves(self) -> Leaves:
        """The parameters as shapes and dtypes: nothing is computed with them."""
        return shapes_of(self.params)

    @cached_property
    def given(self) -> tuple[Any, ...]:
        """The parameters as they were given, arrays or shapes."""
        return flatten(self.params).arrays

    @property
    def control(self) -> Control | None:
        """The control around the steps of `tx`; None without `tx`."""
        return None if self.tx is None else self.tx.recipe.composition.control

    @property
    def accumulation(self) -> Accumulation | None:
        """The accumulation of `tx`; None if it has none."""
        return None if self.control is None else self.control.accumulation

    def check_complex(self, remedy: str) -> None:
        """Refuse complex parameters if the peer has one second moment for each."""
        if self.peer.is_pairwise:
            return
        for path, like in zip(self.leaves.paths, self.leaves.arrays, strict=True):
            if jnp.issubdtype(like.dtype, jnp.complexfloating):
                raise at_leaf(
                    path,
                    f"it is complex, and {self.peer.title} keeps one second moment "
                    "for a complex number where we keep two, of its real and imaginary "
                    "parts: the one does not tell the two.",
                    remedy,
                )

    def turned(self, path: str, array: np.ndarray) -> Any:
        """Apply `layout` to an array.

        Raises:
          TypeError: `layout` returns nothing.
        """
        found = array if self.layout is None else self.layout(path, array)
        if found is None:
            raise kind_at_leaf(
                path,
                "`layout` returned None for it.",
                "Return the array, also where it stays as it is.",
            )
        return found


def shapes_of(params: PyTree) -> Leaves:
    """Return the leaves of `params` as shapes with dtype and sharding.

    Raises:
      TypeError: a leaf that an optimizer cannot move.
      ValueError: no leaf at all, or two of one path.
    """
    leaves = flatten(params)
    check_parameters(leaves)
    if not leaves.arrays:
        raise invalid("params", "a tree with arrays", params, "It has no leaf.")
    paths = leaves.paths
    for path, count in Counter(paths).items():
        if count > 1:
            raise ValueError(
                f"`params` has two leaves called '{path}': a key with a '/' in it "
                "looks like a subtree. Rename one of them."
            )
    pairs = zip(paths, leaves.arrays, strict=True)
    return replace(leaves, arrays=tuple(_shape(*pair) for pair in pairs))


def _shape(path: str, array: Any) -> jax.ShapeDtypeStruct:
    if isinstance(array, jax.core.Tracer):
        raise kind_at_leaf(
            path,
            "its value is not known while a function is traced.",
            "Convert outside of jit, vmap and scan.",
        )
    sharding = getattr(array, "sharding", None)
    if isinstance(array, jax.Array) and not array.committed:
        sharding = None
    dtype = jax.dtypes.canonicalize_dtype(dtype_of(array))
    return jax.ShapeDtypeStruct(np.shape(array), dtype, sharding=sharding)


def check_collection(name: str, given: Any) -> None:
    """Refuse every argument but a collection of names."""
    if isinstance(given, str) or not isinstance(given, Collection):
        raise mistyped(name, "a tuple of names of buffers", given)


def check_fields(name: str, given: Any, legal: Sequence[str]) -> None:
    """Refuse names of buffers that do not exist."""
    check_collection(name, given)
    for field in given:
        if field not in legal:
            shown = ", ".join(dict.fromkeys(legal))
            raise invalid(name, f"made of {shown}", field)
