"""Choose parameters by patterns on paths, by predicates, or by trees of bools.

These forms choose the parameters that decay, and the members of a group. A choice is
resolved once per tree into one bool per leaf. A choice that cannot be meant (a
pattern without a match, a tree of another structure) raises an error.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from optadamw.base.equality import hash_of, same
from optadamw.base.errors import mistyped, near
from optadamw.base.patterns import Patterns, are_patterns, patterns_of
from optadamw.base.tree import Keys, Leaves, flatten, hidden
from optadamw.base.types import PyTree

_FORMS = (
    "a pattern on paths, a list of patterns, a predicate `(path, array) -> bool`, a "
    "function `params -> tree of bools`, or a tree of bools"
)


@dataclass(frozen=True, eq=False)
class Predicate:
    """A function `(path, array) -> bool`.

    The array may be abstract, so the function must use only its shape and dtype.
    """

    function: Callable[[str, Any], bool]

    def resolve(self, name: str, leaves: Leaves, tree: PyTree) -> tuple[bool, ...]:
        del tree
        pairs = zip(leaves.paths, leaves.arrays, strict=True)
        return tuple(_as_bool(name, p, self.function(p, a)) for p, a in pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Predicate) and same(self.function, other.function)

    def __hash__(self) -> int:
        return hash_of(self.function)

    def __repr__(self) -> str:
        return repr(self.function)


@dataclass(frozen=True, eq=False)
class OfTree:
    """A function of the whole tree that returns a tree of bools, as in Optax."""

    function: Callable[[PyTree], PyTree]

    def resolve(self, name: str, leaves: Leaves, tree: PyTree) -> tuple[bool, ...]:
        return _from_tree(name, self.function(tree), leaves, hidden(tree))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfTree) and same(self.function, other.function)

    def __hash__(self) -> int:
        return hash_of(self.function)

    def __repr__(self) -> str:
        return repr(self.function)


@dataclass(frozen=True)
class Everything:
    """All parameters (default), or none of them."""

    chosen: bool = True

    def resolve(self, name: str, leaves: Leaves, tree: PyTree) -> tuple[bool, ...]:
        del name, tree
        return (self.chosen,) * len(leaves.paths)

    def __repr__(self) -> str:
        return repr(self.chosen)


@dataclass(frozen=True, eq=False)
class TreeOfBools:
    """A tree of bools or a prefix of one; equal if paths and bools are equal."""

    tree: PyTree

    def resolve(self, name: str, leaves: Leaves, tree: PyTree) -> tuple[bool, ...]:
        return _from_tree(name, self.tree, leaves, hidden(tree))

    def _key(self) -> tuple[object, ...]:
        flat = flatten(self.tree)
        return flat.keys, flat.arrays

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeOfBools) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return repr(self.tree)


Selector = Patterns | Predicate | OfTree | Everything | TreeOfBools


def selector(name: str, choice: Any) -> Selector:
    """Turn a choice, in any of its legal forms, into a `Selector`; None chooses all."""
    if choice is None:
        return Everything()
    if isinstance(choice, Selector):
        return choice
    if isinstance(choice, bool | np.bool_):
        return Everything(bool(choice))
    if isinstance(choice, str | re.Pattern):
        return patterns_of(name, [choice])
    if isinstance(choice, list | tuple) and are_patterns(choice):
        return patterns_of(name, choice)
    # Containers first: an Equinox module full of bools is a tree, and callable.
    if not jax.tree_util.all_leaves([choice]):
        flat = flatten(choice)
        bools = [
            _as_bool(name, path, leaf)
            for path, leaf in zip(flat.paths, flat.arrays, strict=True)
        ]
        # A copy, so that later changes to the caller's tree do not change the choice.
        return TreeOfBools(flat.treedef.unflatten(bools))
    if callable(choice):
        return _function(name, choice)
    raise mistyped(name, _FORMS, choice)


def _function(name: str, function: Callable[..., Any]) -> Selector:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return OfTree(function)
    for arguments, form in (((1,), OfTree), ((1, 2), Predicate)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return form(function)
    raise mistyped(name, _FORMS, function)


def _from_tree(
    name: str, tree: PyTree, leaves: Leaves, elsewhere: tuple[Keys, ...]
) -> tuple[bool, ...]:
    # Matched by path and not by structure: NNX shows the same parameters in two
    # structures, and a mismatch can then be named.
    flat = flatten(tree)
    given = {
        keys: _as_bool(name, path, value)
        for keys, path, value in zip(flat.keys, flat.paths, flat.arrays, strict=True)
    }
    used: set[Keys] = set()
    chosen = []
    for keys, path in zip(leaves.keys, leaves.paths, strict=True):
        covering = _covering(keys, given)
        if covering is None:
            raise ValueError(
                f"`{name}` has another structure than the parameters: it says nothing "
                f"of '{path}'. Give a bool for every leaf, or for a whole subtree."
            )
        used.add(covering)
        chosen.append(given[covering])
    used.update(k for keys in elsewhere if (k := _covering(keys, given)) is not None)
    unused = ["/".join(keys) for keys in given if keys not in used]
    if unused and leaves.paths:
        raise ValueError(
            f"`{name}` has another structure than the parameters: '{unused[0]}' is no "
            f"parameter. Paths near it: {near(unused[0], leaves.paths)}."
        )
    return tuple(chosen)


def _covering(keys: Keys, given: dict[Keys, bool]) -> Keys | None:
    """Return the keys of the leaf, or of its nearest ancestor, that have a bool."""
    prefixes = (keys[:end] for end in range(len(keys), -1, -1))
    return next((prefix for prefix in prefixes if prefix in given), None)


def _as_bool(name: str, path: str, value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    is_array = isinstance(value, np.ndarray | jax.Array)
    if is_array and value.shape == () and value.dtype == np.bool_:
        if not isinstance(value, jax.core.Tracer):
            return bool(value)
        raise mistyped(
            name, "known when the step is traced", value, "Use Python bools."
        )
    where = f" at '{path}'" if path else ""
    raise mistyped(name, f"made of bools{where}", value, f"It takes {_FORMS}.")
