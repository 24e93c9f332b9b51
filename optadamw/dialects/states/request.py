"""The arguments of a `from_` function, checked."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, invalid, kind_at_leaf, mistyped
from optadamw.base.tree import Leaves, check_parameters, dtype_of, flatten
from optadamw.base.types import PyTree
from optadamw.dialects.states.naming import Missing, Names, check_missing
from optadamw.dialects.states.options import (
    FROM_DEFAULTS,
    FromOptions,
    Layout,
    check_known,
)
from optadamw.dialects.states.peer import Peer
from optadamw.rules.amsgrad import Maximum as MaximumRule
from optadamw.rules.maximize import Maximize
from optadamw.rules.rule import Rule
from optadamw.store.dense import Dense
from optadamw.store.slot import Slot
from optadamw.store.state import BUFFERS, is_custom
from optadamw.transforms.transformation import Transformation
from optadamw.walk.plan import plan_of


@dataclass(frozen=True)
class Request:
    """The arguments that all `from_` functions share, checked."""

    peer: Peer
    params: PyTree
    tx: Transformation | None
    names: Names
    layout: Layout | None
    missing: Missing
    drop: Collection[str]
    afresh: Collection[str]

    @classmethod
    def of(cls, peer: Peer, params: PyTree, options: FromOptions) -> "Request":
        """Check the arguments of `from_<peer>`.

        Raises:
          TypeError, ValueError: an argument that it does not have, or a wrong value.
        """
        check_known(f"from_{peer.name}", options, FROM_DEFAULTS)
        given: FromOptions = {**FROM_DEFAULTS, **options}
        return cls(peer, params, **given)

    def __post_init__(self) -> None:
        check_tx(self.tx)
        check_layout(self.layout)
        check_missing(self.missing)
        check_fields("drop", self.drop, (*BUFFERS, "loss_scale", *self.peer.keys))
        scale = ("loss_scale",) if "loss_scale" in self.peer.keys else ()
        check_fields("afresh", self.afresh, (*BUFFERS, *scale, *self.custom))

    @cached_property
    def leaves(self) -> Leaves:
        """The parameters as shapes and dtypes: nothing is computed with them."""
        return shapes_of(self.params)

    @cached_property
    def custom(self) -> list[str]:
        """The buffers that rules of the user's own keep, which no peer has."""
        slots = () if self.tx is None else self.tx.recipe.composition.buffers
        return [slot.name for slot in slots if is_custom(slot.name)]

    @property
    def left(self) -> set[str]:
        """The buffers that are not read: left behind there, or started anew here."""
        return {*self.drop, *self.afresh}


def shapes_of(params: PyTree) -> Leaves:
    """The leaves of `params` as shapes with dtype and sharding.

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
            raise invalid("params", f"without two leaves called '{path}'", "two")
    pairs = zip(paths, leaves.arrays, strict=True)
    return leaves._replace(arrays=tuple(_shape(path, array) for path, array in pairs))


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


def check_complex(peer: Peer, leaves: Leaves, remedy: str) -> None:
    """Refuse complex parameters where the peer has one second moment for each."""
    if peer.is_pairwise:
        return
    for path, like in zip(leaves.paths, leaves.arrays, strict=True):
        if jnp.issubdtype(like.dtype, jnp.complexfloating):
            raise at_leaf(
                path,
                f"it is complex, and {peer.title} keeps one second moment for a "
                "complex number where we keep two, of its real and imaginary parts: "
                "the one does not tell the two.",
                remedy,
            )


def check_tx(tx: Any) -> None:
    """Refuse what is no transformation of this library."""
    if tx is not None and not isinstance(tx, Transformation):
        raise mistyped(
            "tx",
            "a transformation of optadamw, or None",
            tx,
            "Convert with the one inside its wrapper, and wrap the state.",
        )


def check_layout(layout: Any) -> None:
    """Refuse a layout that cannot be called."""
    if layout is not None and not callable(layout):
        raise mistyped("layout", "a function (path, array) -> array, or None", layout)


def turned(layout: Layout, path: str, array: np.ndarray) -> Any:
    """What a layout makes of an array.

    Raises:
      TypeError: it returns nothing.
    """
    found = layout(path, array)
    if found is None:
        raise kind_at_leaf(
            path,
            "`layout` returned None for it.",
            "Return the array, also where it stays as it is.",
        )
    return found


def check_collection(name: str, given: Any) -> None:
    """Refuse what is no collection of names."""
    if isinstance(given, str) or not isinstance(given, Collection):
        raise mistyped(name, "a tuple of names of buffers", given)


def check_fields(name: str, given: Any, legal: Sequence[str]) -> None:
    """Refuse names of buffers that do not exist."""
    check_collection(name, given)
    for field in given:
        if field not in legal:
            shown = ", ".join(dict.fromkeys(legal))
            raise invalid(name, f"made of {shown}", field)


def kind_of_maximum(tx: Transformation) -> Any:
    """Which second moments `tx` takes the maximum of; None: it takes none.

    Raises:
      ValueError: its groups take different ones.
    """
    variants = tx.recipe.composition.variants
    kinds = {r.kind for rules in variants for r in rules if isinstance(r, MaximumRule)}
    if len(kinds) > 1:
        raise ValueError(
            "Some groups of `tx` have amsgrad='raw' and others 'corrected'; other "
            "libraries have one of them. Give all groups the same."
        )
    return next(iter(kinds), None)


def has_maximum(tx: Transformation, leaves: Leaves) -> list[bool]:
    """For each leaf, whether its group takes a maximum."""
    return [
        any(isinstance(rule, MaximumRule) for rule, _ in rules)
        for rules in rules_by_leaf(tx, leaves)
    ]


def negations(tx: Transformation, leaves: Leaves) -> list[bool]:
    """For each leaf, whether the first moment of `tx` is that of negated gradients."""
    variants = tx.recipe.composition.variants
    if not any(isinstance(rule, Maximize) for rules in variants for rule in rules):
        return [False] * len(leaves.paths)
    return [
        any(isinstance(rule, Maximize) and applies for rule, applies in rules)
        for rules in rules_by_leaf(tx, leaves)
    ]


def rules_by_leaf(
    tx: Transformation, leaves: Leaves
) -> list[list[tuple[Rule | None, bool]]]:
    """For each leaf the rules of its group, and whether each applies to it."""
    composition = tx.recipe.composition
    shapes = leaves.treedef.unflatten(leaves.arrays)
    return [
        list(zip(composition.variants[row.group], row.applies, strict=True))
        for row in plan_of(composition, leaves, shapes).rows
    ]


def slots_of(tx: Transformation | None, fields: Collection[str]) -> Mapping[str, Slot]:
    """How each buffer is kept: as `tx` does, or float32 (float64) without one."""
    if tx is None:
        return {f: Slot(f, Dense()) for f in BUFFERS if f in fields}
    return {slot.name: slot for slot in tx.recipe.composition.buffers}
