"""Recorded runs: how they lie in `recorded/<peer>.npz`, and how to read them.

The arrays of a row `r`, leaves one after the other in the order of its leaf set:

    r/params      (calls, elements)   after every call; float32, or complex64.
                                      bfloat16 parameters as float32, which is exact
    r/params64    (checks, elements)  the same run in float64, after the calls of
                                      `feed.checked_calls`; absent where it cannot run
    r/final/<b>   (elements,)         buffer `b` at the end: mu, nu, nu_max, ema, ...

`metadata` is one JSON text: versions, platform, date, and per row the row itself as
text, the leaf set's dtype and the scalars of the final state. An array that repeats an
earlier one bit for bit is left out: `same` maps its key to the other's.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tests.peers.streams import Tree, shapes_of, unflatten

FOLDER = pathlib.Path(__file__).parent / "recorded"


class Run(NamedTuple):
    """A recorder's result: one run of one row."""

    params: list[Tree]
    final: Mapping[str, Tree]
    scalars: Mapping[str, Any]


class Recorded(NamedTuple):
    """One row as recorded, leaves still flat: `tree` cuts them."""

    params: np.ndarray
    params64: np.ndarray | None
    final: Mapping[str, np.ndarray]
    scalars: Mapping[str, Any]
    dtype: str

    def tree(self, flat: np.ndarray) -> Tree:
        """Cut a flat array of this row into its leaves."""
        return unflatten(flat, shapes_of(self.dtype))


def metadata(peer: str) -> Mapping[str, Any]:
    """Read what is said about a recording."""
    with np.load(FOLDER / f"{peer}.npz") as file:
        return json.loads(str(file["metadata"]))


def load(peer: str) -> dict[str, Recorded]:
    """Read every row of a recording."""
    rows = {}
    with np.load(FOLDER / f"{peer}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    description = json.loads(str(arrays["metadata"]))
    for key, kept in description["same"].items():
        arrays[key] = arrays[kept]
    for name, entry in description["rows"].items():
        start = f"{name}/final/"
        rows[name] = Recorded(
            params=arrays[f"{name}/params"],
            params64=arrays.get(f"{name}/params64"),
            final={
                key.removeprefix(start): array
                for key, array in arrays.items()
                if key.startswith(start)
            },
            scalars=entry["scalars"],
            dtype=entry["dtype"],
        )
    return rows
