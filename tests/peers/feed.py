"""The inputs of a row's optimizer: parameters, and gradients call by call."""

import fnmatch

import numpy as np

from tests.peers import streams
from tests.peers.rows import Row
from tests.peers.streams import Stream, Tree

INFINITE_LEAF = "b/kernel"


def feed(row: Row) -> Stream:
    """Return the initial parameters and the gradients of every call of `row`.

    Gradients carry what the row says of them: `scaled_by`, `infinite_at`, and leaves
    that are `absent` have no entry. A scale that changes during the run is not in
    them; whoever keeps that scale multiplies.
    """
    stream = streams.load(row.dtype)
    dtype = row.outside.get("gradients", row.dtype)
    grads = streams.load(dtype).grads[: row.calls]
    return Stream(stream.params, [_call(row, i, tree) for i, tree in enumerate(grads)])


def _call(row: Row, call: int, tree: Tree) -> Tree:
    scale = np.float32(row.outside.get("scaled_by", 1.0))
    tree = {name: np.asarray(leaf * scale) for name, leaf in tree.items()}
    if call in row.outside.get("infinite_at", ()):
        tree[INFINITE_LEAF].reshape(-1)[-1] = np.inf
    for name, (first, stop) in row.outside.get("absent", {}).items():
        if first <= call < stop:
            del tree[name]
    return tree


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Say whether a path matches one of the shell patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def split_groups(row: Row, names: list[str]) -> list[tuple[dict, list[str]]]:
    """Return (overrides, paths) per parameter group, the rest of the paths first."""
    groups = row.outside.get("groups", {})
    left, found = list(names), []
    for pattern, overrides in groups.items():
        mine = [name for name in left if fnmatch.fnmatchcase(name, pattern)]
        left = [name for name in left if name not in mine]
        found.append((dict(overrides), mine))
    return [({}, left), *found]


def checked_calls(calls: int) -> list[int]:
    """Return the calls after which the float64 run's parameters are kept."""
    return [*range(4, calls - 1, 5), calls - 1]
