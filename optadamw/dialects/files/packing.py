"""Flatten nested dicts, lists and records into a mapping of arrays, and back.

Files of arrays (.npz, .safetensors) are flat. They hold the arrays by their paths, and
an outline in JSON with the containers and the values that are no arrays.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optadamw.checkpoint.arrays import digests, plain
from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files.refusing import DamagedFile
from optadamw.dialects.states.arrays import to_numpy

ENTRY = "saved.json"
"""The name of the outline among the arrays."""

FORMAT = 1


class Packed(NamedTuple):
    """A nested state as flat arrays and an outline."""

    arrays: dict[str, np.ndarray]
    outline: str


def packed(saved: Any) -> Packed:
    """Flatten a state into arrays by their paths and an outline of the rest.

    Raises:
      TypeError: a value that is neither an array nor one of JSON.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _outlined(saved, "", arrays)
    sums = digests([plain(array) for array in arrays.values()])
    outline = {
        "format": FORMAT,
        "tree": tree,
        "sha256": dict(zip(arrays, sums, strict=True)),
    }
    return Packed(arrays, json.dumps(outline))


def _outlined(node: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    def below(key: Any, child: Any) -> Any:
        return _outlined(child, f"{path}/{key}" if path else str(key), arrays)

    if isinstance(node, tuple) and hasattr(node, "_fields"):
        node = dict(zip(node._fields, node, strict=True))
    if isinstance(node, Mapping):
        pairs = [[_key(key), below(key, child)] for key, child in node.items()]
        return {"dict": pairs}
    if isinstance(node, list | tuple):
        return {"list": [below(i, child) for i, child in enumerate(node)]}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    array = to_numpy(path, node)
    if path in arrays:
        raise ValueError(f"Two arrays of the state are called '{path}'.")
    arrays[path] = array
    return {"array": path, "dtype": array.dtype.name}


def _key(key: Any) -> Any:
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise TypeError(f"A key of the state must be a name or a number; got {key!r}.")
    return key


def unpacked(bounds: Bounds, arrays: Mapping[str, np.ndarray], outline: str) -> Any:
    """Undo `packed`, with lists for tuples and dicts for records.

    Args:
      bounds: the file, and its limits.
      arrays: the arrays in it.
      outline: its outline.

    Raises:
      DamagedFile: the outline or an array is damaged or missing.
      TooLarge: the outline takes far more memory than the file has bytes.
    """
    bounds.check_json(outline)
    path = bounds.path
    try:
        whole = json.loads(outline)
        if whole["format"] != FORMAT:
            raise ValueError(f"format {whole['format']!r}, and {FORMAT} is read")
        _check_digests(path, whole.get("sha256", {}), arrays)
        return _restored(whole["tree"], arrays)
    except DamagedFile:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(
            f"The outline '{ENTRY}' of '{path}' is damaged ({error}). Use another copy."
        ) from error


def _check_digests(
    path: Path, wanted: Mapping[str, str], arrays: Mapping[str, np.ndarray]
) -> None:
    """Compare the arrays with their digests; files of earlier versions have none."""
    found = digests([plain(arrays[name]) for name in wanted])
    for (name, digest), other in zip(wanted.items(), found, strict=True):
        if digest != other:
            raise DamagedFile(
                f"Array '{name}' of '{path}' was altered: its SHA-256 is not the one "
                f"in the outline '{ENTRY}'. Use another copy."
            )


def _restored(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    ((kind, value),) = [(k, v) for k, v in node.items() if k != "dtype"]
    if kind == "dict":
        return {key: _restored(child, arrays) for key, child in value}
    if kind == "list":
        return [_restored(child, arrays) for child in value]
    if kind == "value":
        return value
    if kind != "array":
        raise ValueError(f"it has a {kind!r}")
    array = arrays[value]
    dtype = jnp.dtype(node["dtype"])
    return array if array.dtype == dtype else array.view(dtype)
