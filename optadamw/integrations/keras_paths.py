"""The paths by which the integration of Keras names variables."""

import re
import sys
from collections.abc import Container, Iterable, Sequence
from typing import Any

_PATH = "_optadamw_path"
"""The attribute of a variable of a loaded model with its path in the saved one."""
_SCOPE = "shared_objects/id_to_obj_map"
"""An attribute of Keras that is not None while it makes a model from a file."""


def paths_of(variables: Sequence[Any], saved: Sequence[str], loads: bool) -> list[str]:
    """Return a path for each variable, and remember those of a loaded model.

    Keras leaves out the name of a Sequential that it loads: 'decoder/out/kernel' is
    then 'out/kernel', and so is 'encoder/out/kernel'. A variable that had its path from
    a file keeps it, whichever variables are trained after it.

    Args:
      variables: the variables that are trained, in the order of Keras.
      saved: the paths of the variables in the config of the optimizer; [] without one.
      loads: whether Keras loads that config with these variables, from one file.
    """
    known: list[Any] = [getattr(variable, _PATH, None) for variable in variables]
    if not any(known) and _are_of(saved, variables, loads):
        for variable, path in zip(variables, saved, strict=True):
            setattr(variable, _PATH, path)
        return list(saved)
    # Two models that are loaded from one file have the paths of that file twice.
    taken = {path for path in known if path}
    paths: list[str] = []
    for variable, path in zip(variables, known, strict=True):
        is_first = path is not None and path not in paths
        name = path if is_first else _free(path or variable.path, taken)
        taken.add(name)
        paths.append(name)
    return paths


def _loads() -> bool:
    # No public function tells this. Keras has imported the module.
    values = sys.modules.get("keras.src.backend.common.global_state")
    read = getattr(values, "get_global_attribute", None)
    return read is not None and read(_SCOPE) is not None


def _tells() -> bool:
    """Whether this version of Keras tells when it loads a model."""
    saving = sys.modules.get("keras.src.saving.serialization_lib")
    scope = getattr(saving, "ObjectSharingScope", None)
    if scope is None or _loads():
        return scope is not None
    with scope():
        return _loads()


_TELLS = _tells()


def is_loading() -> bool:
    """Whether Keras makes a model from a file now, and its optimizer with it.

    A version of Keras that does not tell is taken to load.
    """
    return not _TELLS or _loads()


def have_kept_paths(variables: Iterable[Any]) -> bool:
    """Whether variables are those of a loaded model, and keep their paths themselves.

    The optimizer of other variables of that model takes none from the config then.
    """
    return any(hasattr(variable, _PATH) for variable in variables)


def _are_of(saved: Sequence[str], variables: Sequence[Any], loads: bool) -> bool:
    """Whether saved paths are those of these variables, which may be shorter."""
    pairs = zip(saved, (v.path for v in variables), strict=False)
    return len(saved) == len(variables) and all(
        f"/{long}".endswith(f"/{path}") or (loads and _has_number(long, path))
        for long, path in pairs
    )


def _has_number(saved: str, path: str) -> bool:
    """Whether a saved path is that of a variable, with a number that `_free` gave."""
    layer, slash, last = path.rpartition("/")
    first, end = (layer, slash + last) if slash else (path, "")
    numbered = rf"(^|/){re.escape(first)}_\d+{re.escape(end)}$"
    return re.search(numbered, saved) is not None


def _free(path: str, taken: Container[str]) -> str:
    """Return a name that is not taken: Keras lets variables share a path.

    The layer gets the number, "dense_2/bias", so that the pattern "*/bias" still holds.
    """
    layer, slash, last = path.rpartition("/")
    first, end = (layer, slash + last) if slash else (path, "")
    name, number = path, 1
    while name in taken:
        number += 1
        name = f"{first}_{number}{end}"
    return name
