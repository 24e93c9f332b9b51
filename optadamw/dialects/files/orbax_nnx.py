"""Trees of Flax NNX in a checkpoint of Orbax, whose arrays lie in Variables.

`nnx.State` is saved as nested dicts in which a Variable is a dict `{"value": array}`.
"""

from collections.abc import Iterator
from typing import Any


def without_nnx(found: Any) -> Any:
    """Return a checkpoint with arrays in the place of the Variables of NNX.

    The numbers of a state of Optax that NNX made, as a `count`, are Variables too, and
    beside it may be what is none, as an epoch. A model may have arrays that are no
    Variables: its first moments then tell whether a parameter is called "w" or
    "w/value".
    """
    moments = {path for tree in _moments(found) for path in _variables(tree)}
    return _plain(found, moments, None, False)


def _plain(node: Any, moments: set[str], key: str | None, is_in_state: bool) -> Any:
    is_params = key == "params"
    if _is_variable(node):
        return node["value"] if is_in_state and not is_params else node
    if (is_in_state or is_params or key is None) and _is_of_nnx(node):
        return _without_variables(node)
    if is_params and not moments.isdisjoint(_variables(node)):
        return _without_variables(node)
    inside = any(True for _ in _moments(node))
    if isinstance(node, dict):
        return {k: _plain(v, moments, str(k), inside) for k, v in node.items()}
    if isinstance(node, list):
        return [_plain(child, moments, "", inside) for child in node]
    return node


def _moments(node: Any) -> Iterator[Any]:
    """Yield the trees of first moments in Variables of NNX."""
    if isinstance(node, list):
        for child in node:
            yield from _moments(child)
    if not isinstance(node, dict):
        return
    moments = node.get("mu")
    is_tree = isinstance(moments, dict | list) and not _is_variable(moments)
    if is_tree and moments and _is_of_nnx(moments):
        yield moments
    for child in node.values():
        yield from _moments(child)


def _variables(node: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of Variables in nested containers."""
    if _is_variable(node):
        yield path
    elif isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in pairs:
            yield from _variables(child, f"{path}/{key}" if path else str(key))


def _is_of_nnx(node: Any) -> bool:
    """Whether all arrays are in Variables of NNX, which are dicts with one key."""
    if _is_variable(node):
        return True
    children = node.values() if isinstance(node, dict) else node
    return isinstance(node, dict | list) and all(map(_is_of_nnx, children))


def _is_variable(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and list(node) == ["value"]
        and not isinstance(node["value"], dict | list)
    )


def _without_variables(node: Any) -> Any:
    """Return nested containers with arrays in the place of Variables."""
    if isinstance(node, list):
        return [_without_variables(child) for child in node]
    if _is_variable(node):
        return node["value"]
    if isinstance(node, dict):
        return {key: _without_variables(child) for key, child in node.items()}
    return node
