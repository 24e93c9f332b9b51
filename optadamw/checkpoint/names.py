"""Names for the leaves of a state, also inside Optax's chains and wrappers.

step                        a field of the State
mu/dense/kernel             a leaf of a field, with its path as patterns match it
slow/dense/kernel           a leaf of `State.custom["slow"]`, a buffer of a user's rule
around/0/count              a leaf of an Optax wrapper around the State
states/1/mu/dense/kernel    a leaf of the second of several States
params/dense/kernel         a parameter
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from optadamw.base.tree import Keys, flatten
from optadamw.base.types import PyTree
from optadamw.store.state import State, Swapped, refuse_swapped, swapped_state

AROUND, STATES, PARAMS = "around", "states", "params"


class Name(NamedTuple):
    """The name of one leaf, in parts."""

    scope: str
    """Empty for a single State, "states/1" for one of several, "around", "params"."""
    field: str
    """The field of the State, or the key of its `custom`; empty elsewhere."""
    path: str
    """The path of the leaf inside the field."""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Named(NamedTuple):
    """A tree as names and leaves, from which it can be built again."""

    names: tuple[Name, ...]
    leaves: tuple[Any, ...]
    treedef: Any
    fields: dict[str, tuple[str, ...]]
    """The fields and the keys of `custom` that each State has, by its scope."""

    def unflatten(self, leaves: Sequence[Any]) -> PyTree:
        return self.treedef.unflatten(leaves)


def named_state(state: PyTree, what: str = "state") -> Named:
    """Name the leaves of a state.

    Args:
      state: a State, the state of an Optax chain or wrapper around one or more, or the
        nested dicts that Orbax makes of these.
      what: the name of the state in errors.

    Raises:
      ValueError: there is no State in it, or two leaves have the same name.
    """
    refuse_swapped(state)
    leaves = flatten(state)
    found = _states(state)
    if not found:
        raise ValueError(
            f"`{what}` holds no State of this library; got {type(state).__name__}. "
            "Pass what tx.init or a step returned, or what was saved of it."
        )
    dicts = [keys for keys, node in found if not isinstance(node, State)]
    if any(_is_swapped(keys, leaves.keys) for keys in dicts):
        raise swapped_state()
    alone = len(found) == 1
    scopes = {keys: "" if alone else "/".join((STATES, *keys)) for keys, _ in found}
    names = [_name(keys, scopes) for keys in leaves.keys]
    _check_distinct(names)
    fields = {scopes[keys]: _fields(node) for keys, node in found}
    return Named(tuple(names), leaves.arrays, leaves.treedef, fields)


def _is_swapped(keys: Keys, leaves: Sequence[Keys]) -> bool:
    """Return whether a dict of a State is the one field of a dict of a `Swapped`."""
    if keys[-1:] != Swapped._fields:
        return False
    parent = keys[:-1]
    return all(k[: len(keys)] == keys for k in leaves if k[: len(parent)] == parent)


def is_in(name: str, stem: str) -> bool:
    """Return whether a name is `stem`, or that of a leaf below it."""
    return name == stem or name.startswith(f"{stem}/")


def parents(path: str) -> list[str]:
    """Return the paths of the subtrees that a path lies in, the nearest first."""
    cuts = [i for i, char in enumerate(path) if char == "/"]
    return [path[:cut] for cut in reversed(cuts)]


def named_params(params: PyTree) -> Named:
    """Name the leaves of a tree of parameters."""
    leaves = flatten(params)
    names = [Name(PARAMS, "", path) for path in leaves.paths]
    _check_distinct(names)
    return Named(tuple(names), leaves.arrays, leaves.treedef, {})


def _states(tree: PyTree) -> list[tuple[Keys, Any]]:
    """Return every State in a tree, with the keys that lead to it.

    Where there is none, the dicts that Orbax makes of States count. Beside one, a dict
    with the key "step" belongs to another transformation, or holds parameters.
    """
    for is_state in (_is_state, _has_all_fields, _is_of_orbax, _has_fields):
        nodes = jax.tree.leaves(tree, is_leaf=is_state)
        if any(map(is_state, nodes)):
            break
    found = []

    def marked(node: Any) -> Any:
        if is_state(node):
            found.append(node)
            return _Mark()
        return 0

    marks = flatten(jax.tree.map(marked, tree, is_leaf=is_state))
    pairs = zip(marks.keys, marks.arrays, strict=True)
    keys = [key for key, mark in pairs if isinstance(mark, _Mark)]
    return list(zip(keys, found, strict=True))


class _Mark:
    """A placeholder for a State."""


def _is_state(node: Any) -> bool:
    return isinstance(node, State)


def _has_all_fields(node: Any) -> bool:
    """Return whether `node` is a dict of a State that also has the fields of None."""
    return _has_fields(node) and len(node) == len(State._fields)


def _is_of_orbax(node: Any) -> bool:
    """Return whether `node` is a dict of a State with buffers."""
    return _has_fields(node) and len(node) > 1


def _has_fields(node: Any) -> bool:
    """Return whether `node` is a dict of fields of a State, perhaps of a step alone.

    So is the state of another transformation that counts its steps.
    """
    if not isinstance(node, Mapping) or not set(node) <= set(State._fields):
        return False
    step: Any = node.get("step")
    # A parameter called "step" is a tree, or has a floating dtype.
    is_array = isinstance(step, jax.Array | np.ndarray | np.generic)
    return isinstance(step, int) or (is_array and np.issubdtype(step.dtype, np.integer))


def _fields(state: Any) -> tuple[str, ...]:
    held = state if isinstance(state, Mapping) else state._asdict()
    present = {name for name, value in held.items() if value is not None} - {"custom"}
    custom = held.get("custom") or {}
    return (*(name for name in State._fields if name in present), *sorted(custom))


def _name(keys: Keys, scopes: dict[Keys, str]) -> Name:
    for length in range(len(keys) + 1):
        scope = scopes.get(keys[:length])
        if scope is not None:
            below = keys[length + 1 :] if keys[length] == "custom" else keys[length:]
            return Name(scope, below[0], "/".join(below[1:]))
    return Name(AROUND, "", "/".join(keys))


def _check_distinct(names: Sequence[Name]) -> None:
    seen: set[str] = set()
    for name in map(str, names):
        if name in seen:
            raise ValueError(
                f"Two leaves are called '{name}': a key with a '/' in it looks like a "
                "subtree. Rename one of them."
            )
        seen.add(name)
