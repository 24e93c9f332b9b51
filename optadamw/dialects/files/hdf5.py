"""Read and write the optimizer in Keras's files, if h5py is installed."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from optadamw.checkpoint.arrays import digests
from optadamw.checkpoint.bounds import Bounds, TooLarge
from optadamw.dialects.files import keras_config, keras_layers
from optadamw.dialects.files.hdf5_nodes import DIGEST, Nodes
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.refusing import DamagedFile, brief, refusing

SUFFIXES = (keras_config.ARCHIVE, ".h5", ".hdf5")
"""The endings of the files of Keras; the first is an archive with one of HDF5."""

INSIDE = "model.weights.h5"
"""The entry of a .keras file with the weights."""


def read(path: Path, bounds: Bounds) -> dict[str, np.ndarray]:
    """Read the variables of the optimizer in a .keras, .h5 or .hdf5 file."""
    if path.suffix.lower() != keras_config.ARCHIVE:
        return _read_h5(path, path, bounds)
    with (
        refusing(f"'{path}' is no whole .keras file"),
        zipfile.ZipFile(path) as archive,
    ):
        bounds.check(archive.getinfo(INSIDE).file_size)
        data = archive.read(INSIDE)
        keras_config.refuse_others(path, keras_config.in_archive(archive, bounds))
    return _read_h5(path, io.BytesIO(data), bounds)


class InFile(NamedTuple):
    """The model in a .keras file."""

    config: Any
    variables: dict[str, list[np.ndarray]]
    """The variables of each layer, without those of layers inside it."""
    nested: set[str]
    """The layers, such as attention, that have layers with variables inside."""


def read_model(path: Path, bounds: Bounds) -> InFile:
    """Read the model in a .keras file.

    Raises:
      KeyError, OSError, ValueError, zipfile.BadZipFile: the file is not whole.
    """
    h5py = needed("h5py", "h5py", f"Reading '{path}'")
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(INSIDE)
        bounds.check(entry.file_size)
        config = keras_config.config_in(archive, bounds)
        source = io.BytesIO(archive.read(entry))
    places: dict[str, str] = {}
    counts: dict[str, int] = {}
    nested: set[str] = set()
    with h5py.File(source, "r") as file:
        nodes = Nodes(file, source, bounds)
        layers = nodes.group(file, "layers")
        called = keras_layers.by_group(config)
        for name in () if layers is None else nodes.names(layers):
            group = nodes.group(layers, name)
            store = nodes.group(group, "vars")
            told = None if store is None else nodes.text(store, "name")
            # Keras has the name there since 3.6. The group of no layer of the model
            # is kept under its place, as a layer may have the name of a group.
            layer = told or called.get(name, f"layers/{name}")
            if _has_more(nodes, group):
                nested.add(layer)
            if store is None:
                continue
            counts[layer] = len(nodes.names(store))
            for number in map(str, range(counts[layer])):
                nodes.announce(store, number)
                places[f"{layer}/{number}"] = f"layers/{name}/vars/{number}"
        arrays = nodes.read(places)
    variables = {
        layer: [arrays[f"{layer}/{i}"] for i in range(count)]
        for layer, count in counts.items()
    }
    return InFile(config, variables, nested)


def _has_more(nodes: Nodes, layer: Any) -> bool:
    """Whether layers inside a layer have variables; states of seeds are integers."""
    groups = [layer]
    seen = {nodes.place(layer)}
    while groups:
        group = groups.pop()
        for name in nodes.names(group):
            if group is layer and name == "vars":
                continue
            node = nodes.child(group, name)
            if nodes.is_array(node):
                if node.dtype.kind not in "iub":
                    return True
            elif nodes.is_group(node) and nodes.place(node) not in seen:
                seen.add(nodes.place(node))  # a group may lie in itself
                groups.append(node)
    return False


def _read_h5(
    path: Path, source: Path | BinaryIO, bounds: Bounds
) -> dict[str, np.ndarray]:
    h5py = needed("h5py", "h5py", f"Reading '{path}'")
    try:
        with h5py.File(source, "r") as file:
            nodes = Nodes(file, source, bounds)
            keras_config.refuse_others(path, keras_config.in_attributes(nodes))
            found = _variables(nodes)
    except (DamagedFile, TooLarge):
        raise
    except KeyError as error:
        raise DamagedFile(f"'{path}' lacks what it lists ({brief(error)}).") from error
    except Exception as error:  # HDF5 and h5py: more kinds than can be listed
        raise DamagedFile(
            f"'{path}' is no whole HDF5 file ({brief(error)})."
        ) from error
    if found is None:
        raise ValueError(
            f"'{path}' holds no optimizer. Save the whole model after training: "
            "model.save('run.keras')."
        )
    return found


def _variables(nodes: Nodes) -> dict[str, np.ndarray] | None:
    """Return the variables of the optimizer in a file of HDF5; None without."""
    file = nodes.file
    old = nodes.group(file, "optimizer_weights")
    if old is not None:  # a whole model in the old format
        names = nodes.texts(old, "weight_names")
        return _values(nodes, old, "optimizer_weights", names)
    optimizer = nodes.group(file, "optimizer")
    store = None if optimizer is None else nodes.group(optimizer, "vars")
    if store is None:
        return None
    return _values(nodes, store, "optimizer/vars", nodes.names(store))


def _values(
    nodes: Nodes, group: Any, path: str, names: list[str]
) -> dict[str, np.ndarray]:
    for name in names:
        nodes.announce(group, name)
    return nodes.read({name: f"{path}/{name}" for name in names})


def write(file: BinaryIO, saved: Any) -> None:
    """Write the variables of an optimizer of Keras, each with a digest."""
    h5py = needed("h5py", "h5py", "Writing a file of HDF5")
    if not isinstance(saved, Mapping) or not all(str(key).isdigit() for key in saved):
        raise ValueError(
            "A .h5 file holds the variables of an optimizer of Keras. Write another "
            "state to .npz or .safetensors."
        )
    with h5py.File(file, "w") as whole:
        store = whole.create_group("optimizer").create_group("vars")
        arrays = [np.asarray(array) for array in saved.values()]
        for name, array, sum_ in zip(saved, arrays, digests(arrays), strict=True):
            store[name] = array
            store[name].attrs[DIGEST] = sum_
