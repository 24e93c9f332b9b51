"""Saved states of the peers: how they lie in `states/`, and how to read them.

`states/<name>.json` is the structure in which the peer hands its state out, with each
array replaced by `{"array": key, "dtype": dtype}`; the arrays are in `<name>.npz`
(bfloat16 as float32, which is exact). Beside the state there are

    params/<leaf>   the parameters when it was saved, after `calls` calls of the row
    after           (10, elements): the peer's own parameters after each further call

so that a test can import the state and go on without the peer. The gradients are those
of `feed.feed(row)`. A file of the peer's own format has the same name, another ending.
"""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from tests.peers.rows import ROWS, Row
from tests.peers.streams import Tree

FOLDER = pathlib.Path(__file__).parent / "states"
CALLS = 10


class Saved(NamedTuple):
    """One saved state."""

    peer: str
    row: Row | None  # None: a leaf of its own, see `low_bit.py`
    state: Any
    params: Tree
    after: np.ndarray
    about: dict[str, Any]


def load(name: str) -> Saved:
    """Read one saved state, its arrays put back into the structure."""
    about = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    start = "params/"
    return Saved(
        peer=about["peer"],
        row=ROWS[about["peer"]].get(about["row"]),
        state=_filled(about.pop("state"), arrays),
        params={
            key.removeprefix(start): array
            for key, array in arrays.items()
            if key.startswith(start)
        },
        after=arrays["after"],
        about=about,
    )


def names() -> list[str]:
    """Return the names of all saved states."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def _filled(structure: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(structure, dict):
        if set(structure) == {"array", "dtype"}:
            return arrays[structure["array"]]
        return {key: _filled(item, arrays) for key, item in structure.items()}
    if isinstance(structure, list):
        return [_filled(item, arrays) for item in structure]
    return structure
