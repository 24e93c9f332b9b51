"""Restore the parameters that were saved with a state."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.errors import at_leaf, mistyped, near
from optadamw.base.types import PyTree
from optadamw.checkpoint.fitting import fitted
from optadamw.checkpoint.matching import matched
from optadamw.checkpoint.names import PARAMS, is_in, named_params
from optadamw.checkpoint.portable import Saved
from optadamw.checkpoint.rename import Renaming, is_replaced, old_paths
from optadamw.checkpoint.source import source_of


def params_of(
    saved: Saved | Mapping[str, Any],
    like: PyTree,
    *,
    rename: Renaming = None,
    cast: bool = False,
    drop: Collection[str] = (),
) -> PyTree:
    """Return the parameters that were saved with a state.

    Args:
      saved: the result of `load` or `to_portable`.
      like: parameters, or their shapes (`jax.ShapeDtypeStruct`), which give structure,
        dtypes and shardings of the result.
      rename: maps paths of `like` to the saved paths, as in `restore`. A parameter that
        or subtree that is mapped to None, such as a new head, is taken from `like`, and
        what was saved under its path is left behind. None (default): the paths are the
        same.
      cast: whether a parameter may be converted to another dtype of its kind, such as
        float32 to bfloat16. Default: False, which refuses another dtype.
      drop: saved parameters to leave behind, by their saved paths or those of a subtree
        of them. The default drops none, and a saved parameter that is not in `like` is
        an error.

    Returns:
      A tree like `like`.

    Raises:
      DamagedCheckpoint: an entry of `saved` is missing or altered.
      ValueError: a parameter is missing, left over, or of another shape or dtype; one
        that is new has a shape alone in `like`; or `drop` names no saved parameter.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> from optadamw import checkpoint
      >>> params, tx = {"w": jnp.ones(2)}, optadamw.adamw(1e-3)
      >>> saved = checkpoint.to_portable(tx, tx.init(params), params)
      >>> checkpoint.params_of(saved, jax.eval_shape(lambda: params))["w"].tolist()
      [1.0, 1.0]
    """
    source = source_of(saved)
    target = named_params(like)
    theirs = [name for name in source.arrays if is_in(name, PARAMS)]
    if not theirs and target.names:
        raise ValueError(
            "`saved` holds no parameters. Save them with checkpoint.save(path, tx, "
            "state, params)."
        )
    theirs = _without(theirs, drop)
    old = old_paths(rename, (name.path for name in target.names))
    found = matched(target.names, theirs, {}, old)
    pairs = zip(target.names, found, strict=True)
    missing = [str(n) for n, s in pairs if s is None and old[n.path] is not None]
    surplus = [
        n
        for n in theirs
        if n not in found and not is_replaced(_path_of(n), rename, old)
    ]
    if missing or surplus:
        which = f"'{missing[0]}' was not saved" if missing else ""
        which = which or f"'{surplus[0]}' was saved and is no parameter of `like`"
        path = _path_of((missing or surplus)[0])
        ways = f"that it is new, rename={{{path!r}: None}}"
        ways = ways if missing else f"leave it behind with drop=({path!r},)"
        raise ValueError(
            f"The parameters that were saved are others: {which}. Pass `like` as it "
            f"was, say with `rename` what each was called, or {ways}."
        )
    leaves = []
    for name, like_, taken in zip(target.names, target.leaves, found, strict=True):
        if taken is None:
            leaves.append(_new(str(name), like_))
        else:
            leaves.append(fitted(str(name), source.arrays[taken], like_, cast=cast))
    return target.unflatten(leaves)


def _path_of(name: str) -> str:
    """Return the path of a parameter, which is "" for one that is the whole tree."""
    return name.removeprefix(PARAMS).removeprefix("/")


def _without(saved: list[str], drop: Collection[str]) -> list[str]:
    """Return the saved names without those that `drop` names, or whose subtree."""
    if isinstance(drop, str) or not isinstance(drop, Collection):
        raise mistyped("drop", "a tuple of saved paths", drop)
    left = saved
    for path in drop:
        gone = {name for name in saved if is_in(_path_of(name), str(path))}
        if not gone:
            known = [_path_of(n) for n in saved]
            raise ValueError(
                f"`drop` has '{path}', which is no saved parameter and no subtree of "
                f"them. Near it: {near(str(path), known)}."
            )
        left = [n for n in left if n not in gone]
    return left


def _new(name: str, like: Any) -> Any:
    """Return the array of a new parameter, a copy of that in `like`."""
    if isinstance(like, jax.ShapeDtypeStruct):
        raise at_leaf(
            name,
            "it is new, and `like` has its shape alone.",
            "Give `like` its array, or all parameters as the model is made with.",
        )
    return jnp.array(like, copy=True)
