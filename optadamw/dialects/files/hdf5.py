"""Read and write the optimizer in Keras's files, if h5py is installed."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from optadamw.checkpoint.arrays import digests
from optadamw.checkpoint.bounds import Bounds, TooLarge, nbytes
from optadamw.dialects.files import keras_config
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.refusing import DamagedFile, brief, refusing

INSIDE = "model.weights.h5"
"""The entry of a .keras file with the weights."""

MOST = 10_000
"""The largest number of groups in a layer that are read; attention has about ten."""

DIGEST = "optadamw_sha256"
"""The attribute of a dataset with its digest, in the files that are written here."""


def read(path: Path, bounds: Bounds) -> dict[str, np.ndarray]:
    """Read the variables of the optimizer in a .keras or .h5 file."""
    if path.suffix.lower() == ".h5":
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
        config, weights = keras_config.config_in(archive, bounds), archive.read(entry)
    found: dict[str, Any] = {}
    counts: dict[str, int] = {}
    nested: set[str] = set()
    with h5py.File(io.BytesIO(weights), "r") as file:
        layers = _group(h5py, file, "layers", bounds)
        for name in layers or ():
            group = _group(h5py, layers, name, bounds)
            store = _group(h5py, group, "vars", bounds)
            layer = str(name if store is None else store.attrs.get("name", name))
            if _has_more(h5py, group, bounds):
                nested.add(layer)
            if store is None:
                continue
            datasets = _datasets(
                h5py, store, [str(i) for i in range(len(store))], bounds
            )
            counts[layer] = len(datasets)
            found |= {f"{layer}/{i}": data for i, data in datasets.items()}
        arrays = _read(found, bounds)
    variables = {
        layer: [arrays[f"{layer}/{i}"] for i in range(count)]
        for layer, count in counts.items()
    }
    return InFile(config, variables, nested)


def _has_more(h5py: Any, layer: Any, bounds: Bounds) -> bool:
    """Whether layers inside a layer have variables; states of seeds are integers."""
    nodes = [_child(h5py, layer, name, bounds) for name in layer if name != "vars"]
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, h5py.Dataset):
            if node.dtype.kind not in "iub":
                return True
            continue
        place = h5py.h5o.get_info(node.id).addr
        if place in seen or not isinstance(node, h5py.Group):
            continue  # a group may lie in itself
        seen.add(place)
        nodes += [_child(h5py, node, name, bounds) for name in node]
        if len(seen) > MOST:
            raise DamagedFile(f"'{bounds.path}' has a layer of more than {MOST} parts.")
    return False


def _group(h5py: Any, parent: Any, name: str, bounds: Bounds) -> Any:
    """Return a group in a group; None without."""
    found = _child(h5py, parent, name, bounds)
    if found is not None and not isinstance(found, h5py.Group):
        raise DamagedFile(f"'{bounds.path}' has an array in place of '{name}'.")
    return found


def _read_h5(path: Path, source: Any, bounds: Bounds) -> dict[str, np.ndarray]:
    h5py = needed("h5py", "h5py", f"Reading '{path}'")
    try:
        with h5py.File(source, "r") as file:
            keras_config.refuse_others(path, keras_config.in_attributes(file, bounds))
            found = _variables(h5py, file, bounds)
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


def _variables(h5py: Any, file: Any, bounds: Bounds) -> dict[str, np.ndarray] | None:
    """Return the variables of the optimizer in a file of HDF5; None without."""
    old = _child(h5py, file, "optimizer_weights", bounds)
    if old is not None:  # a whole model in the old format
        names = [_text(name) for name in old.attrs["weight_names"]]
        return _values(h5py, old, names, bounds)
    optimizer = _child(h5py, file, "optimizer", bounds)
    store = None if optimizer is None else _child(h5py, optimizer, "vars", bounds)
    return None if store is None else _values(h5py, store, list(store), bounds)


def _values(
    h5py: Any, group: Any, names: list[str], bounds: Bounds
) -> dict[str, np.ndarray]:
    return _read(_datasets(h5py, group, names, bounds), bounds)


def _datasets(
    h5py: Any, group: Any, names: list[str], bounds: Bounds
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        node = group
        for part in name.split("/"):
            node = _child(h5py, node, part, bounds)
            if node is None:
                raise KeyError(name)
        found[name] = _checked(h5py, node, name, bounds)
    return found


def _read(datasets: Mapping[str, Any], bounds: Bounds) -> dict[str, np.ndarray]:
    """Read the numbers; the headers say before how much memory they take."""
    bounds.check(sum(nbytes(d.shape, d.dtype.itemsize) for d in datasets.values()))
    arrays = {name: np.asarray(dataset) for name, dataset in datasets.items()}
    kept = {n: d.attrs[DIGEST] for n, d in datasets.items() if DIGEST in d.attrs}
    sums = digests([arrays[name] for name in kept])
    for (name, wanted), sum_ in zip(kept.items(), sums, strict=True):
        if _text(wanted) != sum_:
            raise DamagedFile(
                f"'{bounds.path}' is damaged: its variable '{name}' was altered. Use "
                "another copy."
            )
    return arrays


def _child(h5py: Any, group: Any, name: str, bounds: Bounds) -> Any:
    """Return a member of a group; None without. Links out of the file are refused."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if isinstance(link, h5py.ExternalLink):
        raise DamagedFile(
            f"'{bounds.path}' links to another file, '{link.filename}', under "
            f"'{name}'. Only files that hold all of their arrays are read."
        )
    if isinstance(link, h5py.SoftLink):
        raise DamagedFile(
            f"'{bounds.path}' has a link in place of '{name}', which Keras does not "
            "write. Only files that hold their arrays by name are read."
        )
    return group[name]


def _checked(h5py: Any, node: Any, name: str, bounds: Bounds) -> Any:
    """Refuse what is no array of numbers, or whose numbers are in other files."""
    if not isinstance(node, h5py.Dataset) or node.shape is None:
        raise DamagedFile(f"'{bounds.path}' has no array under '{name}'.")
    if node.external or node.is_virtual:
        raise DamagedFile(
            f"'{bounds.path}' keeps the numbers of '{name}' in other files. Only files "
            "that hold all of their arrays are read."
        )
    return node


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


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
