"""Warn of a saved run that fits `tx` and `params`, and may mean something else."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.numerics import is_narrow
from optadamw.dialects.states.arrays import scalar, to_numpy
from optadamw.dialects.states.contents import Contents
from optadamw.dialects.states.request import Request
from optadamw.dialects.states.settings import Settings, constants_of, frozen_leaves
from optadamw.transforms.transformation import Transformation

NUMBERS = ("b1", "b2", "eps", "weight_decay")


def warn_of_others(
    request: Request,
    tx: Transformation,
    contents: Contents,
    places: Sequence[int | None],
    stacklevel: int,
) -> None:
    """Warn once of all options of the saved run that differ from those of `tx`.

    The learning rate is not compared, which a schedule may have changed; nor is a
    number that `tx` computes in each step.

    Args:
      request: the arguments of the `from_` function.
      tx: the transformation that continues the run.
      contents: the saved state.
      places: for each leaf the index of its row in `contents`.
      stacklevel: that of `warnings.warn`, as seen from here.
    """
    if all(row.options is None for row in contents.rows):
        return
    ours = constants_of(tx, request.leaves)
    frozen = frozen_leaves(tx, request.leaves)
    has_rate = tx.recipe.composition.is_whole
    has_decay = any(one.weight_decay for one in ours)
    found: dict[tuple[str, str, str], list[str]] = {}
    for i, place in enumerate(places):
        options = None if place is None else contents.rows[place].options
        if options is None or frozen[i]:
            continue
        left = {"amsgrad"} if "nu_max" in request.left else set()
        if not has_rate:  # the decay may be another part of the chain
            left |= {"weight_decay", "weight_decay_mode"}
        if contents.hides_masks and has_decay and not ours[i].weight_decay:
            left |= {"weight_decay"}
        for name, there, here in _others(options, ours[i]):
            if name not in left:
                key = name, _shown(there), _shown(here)
                found.setdefault(key, []).append(request.leaves.paths[i])
    if found:
        texts = (
            f"{name}={there}, where `tx` has {here} {_for(paths, len(places))}"
            for (name, there, here), paths in found.items()
        )
        warnings.warn(
            f"The saved run of {request.peer.title} had other hyperparameters than "
            f"`tx`: {'; '.join(texts)}. The training continues with those of `tx`. "
            "Make `tx` with the saved ones, unless the change is meant.",
            UserWarning,
            stacklevel=stacklevel,
        )


def warn_of_kernels(request: Request, paths: Sequence[str], stacklevel: int) -> None:
    """Warn of square kernels that nobody transposed.

    Args:
      request: the arguments of the `from_` function.
      paths: the paths of these kernels.
      stacklevel: that of `warnings.warn`, as seen from here.
    """
    if paths:
        rest = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        warnings.warn(
            f"'{paths[0]}'{rest} is square and was not transposed. Weights of dense "
            f"layers are (outputs, inputs) in {request.peer.title}, and kernels of "
            "Flax and Keras are (inputs, outputs), which a square shape does not tell. "
            "Transpose it with layout=lambda path, x: x.T if path.endswith('kernel') "
            "else x.",
            UserWarning,
            stacklevel=stacklevel,
        )


def _others(
    options: Mapping[str, Any], ours: Settings
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the options that differ: name, saved value, value of `tx`."""
    for name in NUMBERS:
        there, here = options.get(name), getattr(ours, name)
        if there is not None and here is not None and not _are_equal(there, here):
            yield name, there, here
    if options.get("weight_decay") and ours.weight_decay:
        there = options.get("weight_decay_mode", "lr")
        if there != ours.decay_mode:
            yield "weight_decay_mode", there, ours.decay_mode
        there = options.get("max_learning_rate")
        if there and ours.peak and not _are_equal(there, ours.peak):
            yield "max_learning_rate", there, ours.peak
    there = options.get("clip_update_rms")
    if there is not None and not _are_equal(there, ours.update_limit or 0.0):
        yield "clip_update_rms", there or None, ours.update_limit
    for name in ("amsgrad", "caution"):
        if name in options and options[name] != getattr(ours, name):
            yield name, options[name], getattr(ours, name)


def _are_equal(there: Any, here: float) -> bool:
    """Compare two numbers in float32, or in the 16 bits of an array that was saved."""
    saved = to_numpy("a hyperparameter", there)
    kept = saved.dtype if is_narrow(saved.dtype) else np.dtype(np.float32)
    with np.errstate(over="ignore"):  # infinity, which is another number
        return bool(np.all(saved.astype(kept) == np.asarray(here).astype(kept)))


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool | str):
        return repr(value)
    return f"{scalar('a hyperparameter', value):.7g}"


def _for(paths: Sequence[str], count: int) -> str:
    if len(paths) == count:
        return "for all parameters"
    rest = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"for '{paths[0]}'{rest}"
