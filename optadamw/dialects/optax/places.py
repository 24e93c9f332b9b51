"""Put the buffers of a State into the records of a state of Optax."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf
from optadamw.base.tree import flatten
from optadamw.checkpoint.fitting import fitted
from optadamw.dialects.optax.records import fields_of
from optadamw.dialects.states.arrays import to_numpy, widened
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.nesting import nested


def check_places(
    leaving: Departure, adam: Mapping[str, Any], accumulates: bool
) -> None:
    """Refuse an `into` without a place for a buffer, or with one that stays empty."""
    if leaving.has("nu_max") != ("nu_max" in adam):
        has, lacks = ("state", "into") if leaving.has("nu_max") else ("into", "state")
        raise ValueError(
            f"`{has}` keeps the maximum of the second moments and `{lacks}` does not: "
            "they differ in amsgrad. Give both the same, or lose it with "
            "drop=('nu_max',)."
        )
    if leaving.filled and not accumulates:
        raise ValueError(
            f"`state` holds an open window of {leaving.filled} gradients, and `into` "
            "does not accumulate. Wrap it in optax.MultiSteps, or lose the window with "
            "drop=('accumulator',)."
        )


def params_there(leaving: Departure) -> Any:
    """Return the parameters by the names and in the shapes that `into` has.

    With other names in `names` they are nested dicts by these, or lists for 0, 1, 2.
    """
    is_named = any(
        name is not None and name != leaving.paths[leaf or 0]
        for leaf, name in leaving.places
    )
    if leaving.layout is None and not is_named:
        return leaving.params
    leaves = flatten(leaving.params)
    arrays = leaves.arrays
    if leaving.layout is not None:
        pairs = zip(leaves.paths, arrays, strict=True)
        arrays = tuple(_turned(leaving, path, leaf) for path, leaf in pairs)
    if not is_named:
        return leaves.treedef.unflatten(arrays)
    return nested({str(name): arrays[leaf or 0] for leaf, name in leaving.places})


def _turned(leaving: Departure, path: str, leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise kind_at_leaf(
            path,
            "`params` has its shape alone, and `layout` turns arrays.",
            "Pass the parameters.",
        )
    array = leaving.turned(path, widened(to_numpy(path, leaf)))
    return jnp.asarray(array, jax.dtypes.canonicalize_dtype(leaf.dtype))


def filled(leaving: Departure, field: str, like: Any) -> Any:
    """Fill the tree `like` with a buffer of the State."""
    column = [array for array in leaving.column(field) if array is not None]
    return in_place(leaving, field, column, like)


def in_place(
    leaving: Departure, field: str, column: list[np.ndarray], like: Any
) -> Any:
    """Fill the tree `like` with the arrays of a column, which `names` finds there."""
    paths = [place.name or leaving.paths[place.leaf or 0] for place in leaving.places]
    arrays = dict(zip(paths, column, strict=True))
    leaves = flatten(like)
    made = []
    for path, old in zip(leaves.paths, leaves.arrays, strict=True):
        if path not in arrays:
            raise at_leaf(
                path,
                "`into` keeps moments of it, and `state` has none.",
                "Say with `names` what each is called in into.init(params).",
            )
        array = arrays.pop(path)
        made.append(fitted(f"{field}/{path}", array, old, cast=True))
    for path, array in arrays.items():
        if np.any(array):
            raise at_leaf(
                path,
                f"`state` keeps `{field}` of it, and `into` has no place for it.",
                "Make `into` without the mask.",
            )
    return leaves.treedef.unflatten(made)


def replaced(
    tree: Any,
    trees: Mapping[str, Any],
    counts: Mapping[str, int],
    kept: Collection[str] = (),
    path: str = "",
) -> Any:
    """Put trees and counts into all fields of these names in the records of `tree`.

    Args:
      tree: a state of Optax.
      trees: the trees by the names of fields.
      counts: the numbers by the names of scalar fields.
      kept: the paths of records that stay as they are: they count the steps of numbers
        of their own, which start with `tree`. Default: none.
      path: the path of `tree`. Default: it is the root.
    """
    if path in kept:
        return tree

    def below(name: Any, child: Any) -> Any:
        return replaced(child, trees, counts, kept, f"{path}/{name}" if path else name)

    named = fields_of(tree)
    if isinstance(tree, tuple) and named is not None:
        fields = {}
        for name, value in named.items():
            if name in trees:
                fields[name] = trees[name]
            elif name in counts and np.shape(value) == ():
                whole_count = np.asarray(counts[name])
                fields[name] = fitted(name, whole_count, value, cast=True)
            else:
                fields[name] = below(name, value)
        return type(tree)(**fields)
    if isinstance(tree, tuple | list):
        return type(tree)(below(str(i), child) for i, child in enumerate(tree))
    if isinstance(tree, dict):
        return {key: below(str(key), child) for key, child in tree.items()}
    return tree


def with_nested_trees(saved: Any) -> Any:
    """Nest the trees of a state by the paths of parameters, as models have them.

    A tree with a parameter at the path of a module stays as it is.
    """

    def made(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        try:
            return nested(node)
        except ValueError:
            return node

    return jax.tree.map(made, saved, is_leaf=lambda node: isinstance(node, dict))
