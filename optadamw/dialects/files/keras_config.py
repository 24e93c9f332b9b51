"""The optimizer that Keras names in its files, with the options that it was made with.

A .keras file has them in config.json, and a whole model in the old .h5 format in the
attribute training_config. Files of weights alone have neither.
"""

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files.hdf5_nodes import Nodes
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.refusing import DamagedFile, brief
from optadamw.dialects.states.variable_names import OTHERS

ARCHIVE = ".keras"
"""The ending of a whole model of Keras: a zip archive."""

CONFIG = "config.json"
"""The entry of a .keras file with the configuration of the model."""

OLD = "training_config"
"""The attribute of a model in the old .h5 format with that of its optimizer."""

READ = ("Adam", "AdamW")
"""The optimizers whose variables are read. Others have variables that look like these:
the momentum of ScheduleFreeAdamW holds parameters, the velocity of Adamax norms."""

PACKAGES = ("", "Addons", "Custom")
"""The packages of these two: tf.keras 2.11 and 2.12 write "Custom>Adam"."""

OURS = "optadamw>Optimizer"
"""The optimizer of `optadamw.integrations.keras`."""

SCALER = "LossScaleOptimizer"

NUMBERS = {
    "b1": "beta_1",
    "b2": "beta_2",
    "eps": "epsilon",
    "weight_decay": "weight_decay",
}
"""The options of Keras that are numbers of a step, by the argument of `adamw`."""


class Named(NamedTuple):
    """An optimizer in a configuration of Keras."""

    name: str
    """Its class, with its package if it is not Keras's: "Addons>AdamW"."""
    config: Mapping[str, Any]


def named_in(path: Path, is_limited: bool = True) -> Named | None:
    """Return the optimizer that a .keras or .h5 file names; None if it names none.

    Raises:
      DamagedFile, OSError, ValueError, zipfile.BadZipFile: the file is not whole.
    """
    bounds = Bounds(path, is_limited)
    if path.suffix.lower() == ARCHIVE:
        with zipfile.ZipFile(path) as archive:
            return in_archive(archive, bounds)
    h5py = needed("h5py", "h5py", f"Reading '{path}'")
    with h5py.File(path, "r") as file:
        return in_attributes(Nodes(file, path, bounds))


def in_archive(archive: zipfile.ZipFile, bounds: Bounds) -> Named | None:
    """Return the optimizer that config.json names."""
    if CONFIG not in archive.namelist():
        return None
    node: Any = config_in(archive, bounds)
    for key in ("compile_config", "optimizer"):
        node = node.get(key) if isinstance(node, dict) else None
    return _named(node)


def in_attributes(nodes: Nodes) -> Named | None:
    """Return the optimizer that the attribute of an old model names."""
    text = nodes.text(nodes.file, OLD)
    if text is None:
        return None
    return _named(_parsed(nodes.bounds, OLD, text).get("optimizer_config"))


def config_in(archive: zipfile.ZipFile, bounds: Bounds) -> dict[str, Any]:
    """Return the configuration of the model in a .keras file.

    Raises:
      DamagedFile: it is no JSON of a mapping.
      KeyError: the file has none.
    """
    bounds.check_text(archive.getinfo(CONFIG).file_size)
    return _parsed(bounds, CONFIG, archive.read(CONFIG))


def _parsed(bounds: Bounds, name: str, text: str | bytes) -> dict[str, Any]:
    bounds.check_json(text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(
            f"'{bounds.path}' has a '{name}' that is no JSON ({brief(error)})."
        ) from error
    if not isinstance(found, dict):
        raise DamagedFile(f"'{bounds.path}' has a '{name}' that is no mapping.")
    return found


def _named(node: Any) -> Named | None:
    """Return the optimizer of a serialized object, without a LossScaleOptimizer."""
    while isinstance(node, dict):
        name, config = node.get("class_name"), node.get("config")
        if not isinstance(name, str) or not isinstance(config, dict):
            return None
        if name.rpartition(">")[2] != SCALER or "inner_optimizer" not in config:
            registered = node.get("registered_name")
            # Keras registers its own classes under their name, or under none.
            is_told = isinstance(registered, str) and ">" in registered
            return Named(str(registered) if is_told else name, config)
        node = config["inner_optimizer"]
    return None


def refuse_others(path: Path, named: Named | None) -> None:
    """Refuse the state of another optimizer than Adam and AdamW.

    Raises:
      DamagedFile: the file names another.
    """
    if named is None:
        return
    package, _, name = named.name.rpartition(">")
    if name not in READ or package not in PACKAGES:
        of, own = "Keras's ", ""
        if named.name == OURS:
            raise DamagedFile(
                f"'{path}' holds the state of this library: load the model in Keras, "
                "and save `model.optimizer.state` with optadamw.checkpoint."
            )
        if package or name not in OTHERS.values():
            of = ""
            own = (
                f" If {named.name} is an AdamW, convert its variables with from_keras."
            )
        raise DamagedFile(
            f"'{path}' holds the state of {of}{named.name}. Convert the state of AdamW "
            f"or Adam.{own}"
        )


def options_of(path: Path, named: Named | None) -> dict[str, Any]:
    """Return the options of an optimizer, by the options of `optadamw convert`.

    The learning rate is a variable. The decay of TensorFlow Addons is left out, as it
    is not multiplied by the rate.

    Raises:
      DamagedFile: a number that float64 cannot hold.
    """
    if named is None:
        return {}
    config = named.config
    found: dict[str, Any] = {
        field: _number(path, key, config[key])
        for field, key in NUMBERS.items()
        if _is_number(config.get(key))
    }
    if "weight_decay" in config and config["weight_decay"] is None:
        found["weight_decay"] = 0.0
    if named.name.startswith("Addons>"):
        found.pop("weight_decay", None)
    for field, key in (("amsgrad", "amsgrad"), ("use_ema", "use_ema")):
        if isinstance(config.get(key), bool):
            found[field] = config[key]
    every = config.get("gradient_accumulation_steps", 1)
    if every is None or (isinstance(every, int) and not isinstance(every, bool)):
        found["accumulate"] = every or 1
    return found


def _number(path: Path, key: str, value: int | float) -> float:
    if not abs(value) <= sys.float_info.max:
        raise DamagedFile(f"'{path}' has a '{key}' that is no finite number.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
