"""Save a state as a structure and its arrays, with what the peer does next."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.peers.rows import ROWS
from tests.peers.saved import CALLS, FOLDER
from tests.peers.streams import flatten

ArrayOf = Callable[[Any], np.ndarray]


def structure(state: Any, array_of: ArrayOf, arrays: dict, path: str = "state") -> Any:
    """Return `state` in JSON's types; put its arrays into `arrays` by their path.

    Keys become text (PyTorch counts parameters with integers), tuples lists.
    """
    if isinstance(state, dict):
        return {
            str(key): structure(item, array_of, arrays, f"{path}/{key}")
            for key, item in state.items()
        }
    if isinstance(state, (list, tuple)):
        return [
            structure(item, array_of, arrays, f"{path}/{i}")
            for i, item in enumerate(state)
        ]
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    if not hasattr(state, "dtype"):
        return repr(state)
    arrays[path] = array_of(state)
    dtype = getattr(state.dtype, "name", str(state.dtype)).rsplit(".", 1)[-1]
    return {"array": path, "dtype": dtype}


def follow(
    name: str, peer: str, row: str, packages: dict[str, str], loop: Any, parts: Any
) -> None:
    """Run a loop for `CALLS` calls, save, run for as many more, write.

    `parts(loop)` returns (state, array_of, about) at that moment, as copies.
    """
    assert row in ROWS[peer], row
    for grads in loop.grads[:CALLS]:
        loop.call(grads)
    arrays: dict[str, np.ndarray] = {}
    state, array_of, about = parts(loop)
    described = structure(state, array_of, arrays)
    params = loop.values()
    after = []
    for grads in loop.grads[CALLS : 2 * CALLS]:
        loop.call(grads)
        after.append(loop.values())
    arrays |= {f"params/{leaf}": value for leaf, value in params.items()}
    arrays["after"] = np.stack([flatten(tree) for tree in after])
    write(name, peer, row, packages, described, arrays, about)


def write(
    name: str,
    peer: str,
    row: str | None,
    packages: dict[str, str],
    described: Any,
    arrays: dict[str, np.ndarray],
    about: dict[str, Any],
) -> None:
    """Write the two files of one saved state."""
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    description = {
        "peer": peer,
        "row": row,
        "calls": CALLS,
        "versions": packages,
        **about,
        "state": described,
    }
    text = json.dumps(description, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n")
    print("saved", name)
