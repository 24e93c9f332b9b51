"""Restore the parameters that were saved with a state."""

from collections.abc import Mapping
from typing import Any

from optadamw.base.types import PyTree
from optadamw.checkpoint.fitting import fitted
from optadamw.checkpoint.matching import matched
from optadamw.checkpoint.names import PARAMS, named_params
from optadamw.checkpoint.portable import Saved
from optadamw.checkpoint.rename import Renaming
from optadamw.checkpoint.source import source_of


def params_of(
    saved: Saved | Mapping[str, Any],
    like: PyTree,
    *,
    rename: Renaming = None,
    cast: bool = False,
) -> PyTree:
    """Return the parameters that were saved with a state.

    Args:
      saved: the result of `load` or `to_portable`.
      like: parameters, or their shapes (`jax.ShapeDtypeStruct`), which give structure,
        dtypes and shardings of the result.
      rename: maps paths of `like` to the saved paths, as in `restore`. None (default):
        the paths are the same.
      cast: whether a parameter may be converted to another dtype of its kind, such as
        float32 to bfloat16. Default: False, which refuses another dtype.

    Returns:
      A tree like `like`.

    Raises:
      DamagedCheckpoint: an entry of `saved` is missing or altered.
      ValueError: a parameter is missing, left over, or of another shape or dtype.

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
    theirs = [n for n in source.arrays if n == PARAMS or n.startswith(f"{PARAMS}/")]
    if not theirs:
        raise ValueError(
            "`saved` holds no parameters. Save them with checkpoint.save(path, tx, "
            "state, params)."
        )
    found = matched(target.names, theirs, {}, rename)
    missing = [str(n) for n, s in zip(target.names, found, strict=True) if s is None]
    surplus = [n for n in theirs if n not in found]
    if missing or surplus:
        which = f"'{missing[0]}' was not saved" if missing else ""
        which = which or f"'{surplus[0]}' was saved and is no parameter of `like`"
        raise ValueError(
            f"The parameters that were saved are others: {which}. Pass `like` as it "
            "was, or say with `rename` what each was called."
        )
    leaves = []
    for name, like_, taken in zip(target.names, target.leaves, found, strict=True):
        assert taken is not None
        leaves.append(fitted(str(name), source.arrays[taken], like_, cast=cast))
    return target.unflatten(leaves)
