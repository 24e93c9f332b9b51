"""Read and write a State in our own checkpoints, for `optadamw convert`."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from optadamw import checkpoint
from optadamw.base.errors import invalid, some_leaves
from optadamw.checkpoint import zipped
from optadamw.checkpoint.arrays import plain
from optadamw.checkpoint.kinds import SIGN
from optadamw.checkpoint.names import (
    AROUND,
    PARAMS,
    Name,
    is_in,
    named_params,
    named_state,
)
from optadamw.checkpoint.portable import Gathered, Saved, record_of
from optadamw.checkpoint.record import ENTRY
from optadamw.checkpoint.replacing import replacing
from optadamw.control.counters import EVENTS
from optadamw.control.loss_scale import LARGEST, SMALLEST, Counts
from optadamw.dialects.files import hdf5, torch
from optadamw.dialects.states.arrays import to_numpy
from optadamw.dialects.states.peer import Maximum
from optadamw.store.state import (
    BUFFERS,
    TREES,
    State,
    is_buffer,
    scales_of,
    state_of,
)

OTHERS = (*torch.SUFFIXES, *hdf5.SUFFIXES, ".safetensors")
"""The endings of other libraries' files; `checkpoint.save` takes any name."""


class Bare(NamedTuple):
    """A State without its transformation, and the facts that are known of that."""

    state: State
    maximum: Maximum | None = None
    """Which second moments `nu_max` is the maximum of."""
    negated: bool = False
    """Whether `mu` is that of negated gradients (maximize)."""
    every: int | None = None
    """The number of gradients to a step; None if it is not known."""
    counts: Counts = "steps"
    """Whether a dynamic loss scale counts steps or gradients until it grows."""
    use_grad_mean: bool = True
    """Whether a step takes the mean of the gradients in a window, or their sum."""


def loaded(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    drop: Collection[str] = (),
    is_limited: bool = True,
) -> Bare:
    """Read the State in a file that `optadamw.checkpoint.save` wrote.

    Args:
      path: the file.
      params: the parameters, by their paths.
      drop: buffers that are left behind; "around" stands for the states of Optax's
        transformations around the State. Default: none.
      is_limited: whether a file that announces far more than its size is refused.

    Raises:
      DamagedCheckpoint: a part of the file is missing or altered.
      ValueError: the file holds several States, or buffers of other parameters, or
        states of Optax that are not dropped, or nothing of a name in `drop`.
    """
    try:
        saved = checkpoint.load(path, is_limited=is_limited)
    except checkpoint.DamagedCheckpoint as error:
        if Path(path).suffix.lower() in OTHERS:
            raise checkpoint.DamagedCheckpoint(
                f"{error} If it is the file of another library, as its name says, give "
                "that library in the place of optadamw."
            ) from error
        raise
    if list(saved.fields) != [""]:
        raise ValueError(
            f"'{os.fspath(path)}' holds {len(saved.fields)} States; one can be "
            "converted. Restore it and convert them one by one."
        )
    _check_drop(path, saved, drop)
    gone = {field for name in drop for field in TOGETHER.get(name, (name,))}
    gone |= {scales_of(name) for name in gone}
    fields: dict[str, Any] = {}
    frozen = _frozen(saved, params)
    for name in [name for name in saved.fields[""] if name not in gone]:
        if name in BUFFERS and name != "residual":
            fields[name] = _tree(saved, name, params, frozen)
        elif name in TREES or name not in State._fields:
            # None for the leaves that are not in 8 bits, or lack a buffer of `custom`,
            # or a residual: parameters of float32 have none.
            arrays = {
                path: saved.arrays.get(str(Name("", name, path))) for path in params
            }
            fields[name] = arrays
        elif name in saved.arrays:
            fields[name] = jnp.asarray(saved.arrays[name])
    meaning = saved.meaning.get("", {})
    maximum: Maximum | None = None
    if "nu_max" in meaning and "nu_max" not in drop:
        kinds = _kinds(path, meaning, "nu_max", MAXIMA)
        maximum = "corrected" if "corrected" in kinds else "raw"
    window = meaning.get("window", {})
    return Bare(
        state_of(fields),
        maximum,
        "negated" in _kinds(path, meaning, "mu", SIGNS),
        window.get("every"),
        meaning.get("loss_scale", {}).get("counts", "steps"),
        window.get("kind", "mean") == "mean",
    )


SIGNS = {"gradients": SIGN[False], "negated": SIGN[True]}
MAXIMA: dict[str, str] = {
    kind: f"the maximum of the {kind} second moments" for kind in get_args(Maximum)
}


def _kinds(
    path: str | os.PathLike[str],
    meaning: Mapping[str, Any],
    field: str,
    texts: Mapping[str, str],
) -> list[str]:
    """Return the kinds of a buffer's numbers that the record of a file names.

    Raises:
      ValueError: groups of parameters have different kinds.
    """
    text = meaning.get(field, "")
    found = [kind for kind, one in texts.items() if one in text]
    if len(found) > 1 or "not kept" in text:
        raise ValueError(
            f"The groups in '{os.fspath(path)}' keep different numbers in `{field}` "
            f"({meaning[field]}), and a conversion has one kind for all. Convert it in "
            "Python, with the `tx` that made it."
        )
    return found


TOGETHER = {
    "accumulator": ("accumulator", "micro_step", "weight"),
    "loss_scale": ("loss_scale", "growth"),
}
"""The fields that are dropped with a buffer; others are dropped alone."""


def _check_drop(
    path: str | os.PathLike[str], saved: checkpoint.Saved, drop: Collection[str]
) -> None:
    """Refuse to lose the states of Optax's transformations, and to drop nothing."""
    around = [name for name in saved.arrays if name.startswith(f"{AROUND}/")]
    if around and AROUND not in drop:
        raise ValueError(
            f"'{os.fspath(path)}' holds the state of Optax's transformations around "
            f"the State ({some_leaves(around, 3)}), which cannot be converted. Lose it "
            f"with --drop {AROUND}."
        )
    held = [n for n in saved.fields[""] if is_buffer(n) or n == "loss_scale"]
    held = [name for name in held if name not in ("mu", "nu")] + [AROUND] * bool(around)
    for name in drop:
        if name not in held:
            rule = f"one of {', '.join(held)}" if held else "left out: there is nothing"
            raise invalid("--drop", rule, name)


def _frozen(saved: checkpoint.Saved, params: Mapping[str, Any]) -> set[str]:
    """Return the paths of parameters that were saved and have no buffer at all."""
    return {
        path
        for path in params
        if str(Name(PARAMS, "", path)) in saved.arrays
        and not any(str(Name("", name, path)) in saved.arrays for name in BUFFERS)
    }


def _tree(
    saved: checkpoint.Saved,
    field: str,
    params: Mapping[str, Any],
    frozen: Collection[str],
) -> dict[str, Any]:
    """Return a buffer of each parameter; None for one that was frozen."""
    found: dict[str, Any] = {**_below(saved, field), **dict.fromkeys(frozen)}
    if set(found) != set(params):
        odd = sorted(set(found) ^ set(params))[0]
        where = "the checkpoint" if odd in found else "the parameters"
        raise ValueError(
            f"'{odd}' is in {where} only. Give the parameters that were trained."
        )
    return {path: found[path] for path in params}


def params_in(saved: checkpoint.Saved) -> dict[str, np.ndarray]:
    """Return the parameters that were saved with a State, by their paths."""
    return _below(saved, PARAMS)


def _below(saved: checkpoint.Saved, field: str) -> dict[str, np.ndarray]:
    """Return the arrays of a tree by their paths; that of one array is empty."""
    return {
        name.removeprefix(field).removeprefix("/"): array
        for name, array in saved.arrays.items()
        if is_in(name, field)
    }


def stored(
    path: str | os.PathLike[str],
    bare: Bare,
    params: Mapping[str, Any],
    origin: str,
) -> None:
    """Write a State and its parameters as `optadamw.checkpoint` does.

    `optadamw.checkpoint.restore` restores the file for any transformation. The meaning
    of the numbers is recorded in it, and `restore` refuses numbers of another meaning.

    Raises:
      OSError: the file cannot be written; a file that was there before stays.
    """
    named = [*_pairs(named_state(bare.state)), *_pairs(named_params(dict(params)))]
    arrays = {name: to_numpy(name, leaf) for name, leaf in named}
    fields = named_state(bare.state).fields
    saved = Saved(arrays, fields, {"": _meaning(bare, origin)})
    kept = {name: plain(array) for name, array in arrays.items() if array.size}
    entries = {**kept, ENTRY: record_of(Gathered(saved, kept))}
    with replacing(Path(os.path.realpath(path))) as file, zipped.writing(file) as add:
        for name, array in entries.items():
            add(name, array)


def _pairs(named: Any) -> Sequence[tuple[str, Any]]:
    return [(str(n), leaf) for n, leaf in zip(named.names, named.leaves, strict=True)]


def _meaning(bare: Bare, origin: str) -> dict[str, Any]:
    meaning: dict[str, Any] = {
        "rules": [f"converted from {origin}"],
        "events": list(EVENTS),
        "mu": SIGN[bare.negated],
    }
    if bare.maximum is not None:
        meaning["nu_max"] = f"the maximum of the {bare.maximum} second moments"
    if bare.every is not None:
        meaning["window"] = {
            "every": bare.every,
            "kind": "mean" if bare.use_grad_mean else "sum",
        }
    if bare.state.growth is not None:
        scale = {"kind": "dynamic", "minimum": SMALLEST, "maximum": LARGEST}
        meaning["loss_scale"] = scale | {"counts": bare.counts}
    return meaning
