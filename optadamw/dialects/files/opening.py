"""Find in a file the parameters by their paths, or the saved state of an optimizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optadamw import checkpoint
from optadamw.base.errors import at_leaf, near
from optadamw.checkpoint import zipped
from optadamw.checkpoint.bounds import check_regular
from optadamw.checkpoint.record import ENTRY
from optadamw.dialects.files import (
    checkpoints,
    files,
    hdf5,
    keras_config,
    orbax_items,
)
from optadamw.dialects.files.models import model_in, trained, why_none
from optadamw.dialects.files.orbax_items import PARAMS
from optadamw.dialects.states.arrays import to_numpy
from optadamw.dialects.states.state_dict import is_state_dict

STATE = "opt_state"
"""The entry of the state beside "params" in Flax's TrainState, which others follow."""


def read_params(path: str | Path, is_limited: bool = True) -> dict[str, np.ndarray]:
    """Read parameters by their paths, from a file of arrays or our own checkpoint.

    Running statistics of PyTorch's layers, which no optimizer has, are left out.

    Raises:
      OSError, ValueError: a file that cannot be read, or that holds no parameters.
    """
    path = Path(path)
    check_regular(path)
    suffix = path.suffix.lower()
    model = model_in(path, is_limited)
    if model is not None:
        found = model.params
    elif path.is_dir():
        found = trained(_flat(_params_of_folder(path, is_limited)))
    elif suffix == ".npz" and _is_checkpoint(path):
        saved = checkpoint.load(path, is_limited=is_limited)
        found = checkpoints.params_in(saved)
    elif suffix in hdf5.SUFFIXES:
        raise _no_params(path, is_limited)
    else:
        arrays = files.read(path, is_limited)
        if is_state_dict(arrays) or _state_dicts(arrays):
            raise _no_params(path, is_limited)
        found = trained(_flat(arrays))
    if not found:
        raise ValueError(
            f"'{path}' holds no parameters. Give a file of them with `--params`."
        )
    return found


def _no_params(path: Path, is_limited: bool) -> ValueError:
    """Build the error for a file whose arrays are those of an optimizer."""
    return ValueError(
        f"'{path}' is no file of the parameters of one model, because "
        f"{why_none(path, is_limited)}. Save them by their names: .safetensors, .npz, "
        ".pt, or a folder of Orbax."
    )


def _is_checkpoint(path: str | Path) -> bool:
    try:
        with open(path, "rb") as file:
            return ENTRY in zipped.names_in(file)
    except Exception:  # its reader says what is wrong with it
        return False


def _flat(tree: Any, path: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of nested containers by their paths, as JAX has them."""
    if isinstance(tree, list | tuple) and not any(
        isinstance(child, int | float | complex) for child in tree
    ):
        tree = {str(i): child for i, child in enumerate(tree)}
    if not isinstance(tree, Mapping):
        return {} if tree is None else {path: to_numpy(path, tree)}
    found: dict[str, np.ndarray] = {}
    for key, child in tree.items():
        for name, array in _flat(child, f"{path}/{key}" if path else str(key)).items():
            if name in found:
                raise at_leaf(name, "two parameters have this path.", "Rename one.")
            found[name] = array
    return found


class Opened(NamedTuple):
    """The saved state in a file."""

    saved: Any
    found_at: str | None = None
    """The key of the state, if it was found as the only one in the file."""
    options: Mapping[str, Any] = {}
    """The options of the optimizer that a file of Keras names beside its state."""
    beside: tuple[str, ...] = ()
    """The keys of what lies beside a state that was found as the only one."""


def open_state(
    path: str | Path, key: str | None, in_state_dict: bool, is_limited: bool = True
) -> Opened:
    """Find the state of an optimizer in a file.

    Args:
      path: the file.
      key: where in the file it is, as a key or a path of keys and indices, and of items
        of Orbax; None: the file is the state, or holds one state dict (or a list of
        one) beside other things, or one state of Optax beside "params".
      in_state_dict: whether the state is a state dict, which is known by its form.
      is_limited: whether a file that announces far more than its size is refused.

    Raises:
      OSError, ValueError: as `files.read`; no state under the key, or several.
    """
    saved, key = _read(Path(path), key, is_limited)
    if Path(path).suffix.lower() in hdf5.SUFFIXES and not Path(path).is_dir():
        named = keras_config.named_in(Path(path), is_limited)
        saved = saved if key is None else _under(key, saved, path)
        return Opened(saved, None, keras_config.options_of(Path(path), named))
    if key is not None:
        return Opened(_under(key, saved, path))
    if not isinstance(saved, Mapping) or (in_state_dict and "state" in saved):
        return Opened(saved)
    found = _state_dicts(saved) if in_state_dict else _beside_params(saved)
    if len(found) > 1:
        raise ValueError(
            f"'{path}' holds {len(found)} states of optimizers. Say which with "
            f"--key: {', '.join(found)}."
        )
    for only, state in found.items():
        beside = tuple(str(key) for key in saved if str(key) != only)
        return Opened(state, only, beside=beside)
    return Opened(saved)


def params_beside(
    path: Path, key: str | None, in_state_dict: bool, is_limited: bool = True
) -> dict[str, np.ndarray]:
    """Return the entry or item "params" beside the state in a folder of Orbax.

    Args:
      path: the folder.
      key: where in it the state is, as `open_state` takes it.
      in_state_dict: whether the state is a state dict.
      is_limited: whether a folder that announces far more than its size is refused.

    Returns:
      The parameters by their paths; none without such an entry.

    Raises:
      OSError, ValueError: as `open_state`.
    """
    saved, place = _read(path, key, is_limited)
    if place is None and isinstance(saved, Mapping):
        found = _state_dicts(saved) if in_state_dict else _beside_params(saved)
        place = next(iter(found), None)
    for node in reversed([] if place is None else _above(place, saved)):
        if PARAMS in node:
            return trained(_flat(node[PARAMS]))
    if key is None:
        return {}
    # An item beside that of the state may be another copy, such as an average, so the
    # parameters in the state's own item come first.
    item, _ = orbax_items.by_key(path, key)
    own = orbax_items.item_called(PARAMS, path, beside=item)
    return {} if own is None else trained(_flat(files.read(own, is_limited)))


def _params_of_folder(path: Path, is_limited: bool) -> Any:
    """Return the parameters in a folder of Orbax, which may have a state beside."""
    own = orbax_items.item_called(PARAMS, path)
    saved = files.read(own or path, is_limited)
    if own is None and isinstance(saved, Mapping) and _beside_params(saved):
        return saved[PARAMS]
    return saved


def _read(path: Path, key: str | None, is_limited: bool) -> tuple[Any, str | None]:
    """Return the contents of a file, and the key in them.

    In a folder of Orbax, the key may begin with the name of an item.
    """
    if key is None or not path.is_dir():
        return files.read(path, is_limited), key
    item, rest = orbax_items.by_key(path, key)
    saved = files.read(item, is_limited)
    # The only item need not be named.
    is_only = len(orbax_items.items_in(path)) == 1
    is_inside = is_only and key.partition("/")[0] in _by_key(saved)
    return saved, key if is_inside else rest


def _beside_params(saved: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the states of optimizers beside the parameters, as in a TrainState."""
    if PARAMS not in saved or _has_moments(saved[PARAMS]):
        return {}
    others = {str(key): node for key, node in saved.items() if key != PARAMS}
    return {k: one for k, one in others.items() if k == STATE or _has_moments(one)}


def _has_moments(node: Any) -> bool:
    """Whether a node holds the state of Optax's Adam, or one of ours."""
    nodes = [node]
    while nodes:
        children = _by_key(nodes.pop())
        if {"mu", "nu"} <= set(children) and {"count", "step"} & set(children):
            return True
        nodes += children.values()
    return False


def _above(key: str, node: Any) -> list[dict[str, Any]]:
    """Return the containers that a key leads through, from the outermost."""
    children = _by_key(node)
    first, _, rest = key.partition("/")
    if key in children or first not in children:
        return [children]
    return [children, *_above(rest, children[first])]


def _state_dicts(saved: Any) -> dict[str, Any]:
    """Return the state dicts by their keys, alone or in a list as in Lightning."""
    found: dict[str, Any] = {}
    for key, value in saved.items() if isinstance(saved, Mapping) else ():
        if is_state_dict(value):
            found[str(key)] = value
        elif isinstance(value, list | tuple):
            inside = {f"{key}/{i}": one for i, one in enumerate(value)}
            found |= {k: one for k, one in inside.items() if is_state_dict(one)}
    return found


def _under(key: str, saved: Any, path: str | Path) -> Any:
    """Return the value under a key, or under a path of keys and indices."""
    children = _by_key(saved)
    if key in children:
        return children[key]
    first, _, rest = key.partition("/")
    if rest and first in children:
        return _under(rest, children[first], path)
    there = f"Near it: {near(key, children)}." if children else "It has no keys."
    raise ValueError(f"`--key`: '{path}' holds nothing under '{key}'. {there}")


def _by_key(node: Any) -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    if isinstance(node, list | tuple):
        return {str(i): value for i, value in enumerate(node)}
    return {}
