"""Read and write the files in which states are kept, by their suffix.

.pt .pth                   PyTorch, if it is installed
.safetensors               read and written here
.npz                       NumPy
.keras .h5                 Keras's files, if h5py is installed
a folder                   Orbax, if it is installed
"""

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from optadamw.base.errors import invalid
from optadamw.checkpoint.arrays import plain
from optadamw.checkpoint.replacing import replacing
from optadamw.dialects.files import packing, safetensors
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.safetensors import DamagedFile
from optadamw.dialects.states.arrays import to_numpy

SUFFIXES = (".pt", ".pth", ".safetensors", ".npz", ".keras", ".h5")


def read(path: str | os.PathLike[str]) -> Any:
    """Read a file into the mapping or list that a `from_` function takes.

    Raises:
      OSError: there is no such file, or it cannot be read.
      DamagedFile: the file is not whole, or not of the format that its name says.
      MissingPackage: reading it takes a package that is not installed.
      ValueError: a name without a known suffix.
    """
    path = Path(path)
    if path.is_dir():
        return _read_orbax(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{path}'.")
    return _by_suffix(path, READERS)(path)


def write(path: str | os.PathLike[str], saved: Any) -> None:
    """Write a state to a file, which appears whole under its name, or not at all.

    Raises:
      OSError: the file cannot be written; a file that was there before stays.
      MissingPackage: writing it takes a package that is not installed.
      ValueError, TypeError: a state that such a file cannot hold.
    """
    path = Path(path)
    if not path.suffix:
        _write_orbax(path, saved)
        return
    writer = _by_suffix(path, WRITERS)
    # The file behind a symbolic link is replaced, not the link.
    with replacing(Path(os.path.realpath(path))) as file:
        writer(file, saved)


def _by_suffix(path: Path, table: Mapping[str, Callable[..., Any]]) -> Any:
    known = table.get(path.suffix.lower())
    if known is None:
        raise invalid(
            "path", f"a name that ends in {', '.join(table)}, or a folder", str(path)
        )
    return known


def check_writable(path: Path) -> None:
    """Refuse a name of a file that cannot be written, before anything is read.

    Raises:
      ValueError: a name without a known suffix.
    """
    if path.suffix:
        _by_suffix(path, WRITERS)


def _brief(error: Exception) -> str:
    """Return the first line of another package's error."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _refusing(what: str, remedy: str = "") -> Iterator[None]:
    """Raise a DamagedFile for every error but that of a file that cannot be read."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # pickle, zip, zlib, NumPy: more than can be listed
        raise DamagedFile(f"{what} ({_brief(error)}).{remedy}") from error


# --- NumPy and safetensors -----------------------------------------------------------


def _read_npz(path: Path) -> Any:
    with (
        _refusing(f"'{path}' is no whole .npz file"),
        np.load(path, allow_pickle=False) as archive,
    ):
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is one array")
        arrays = {name: archive[name] for name in archive.files}
    outline = arrays.pop(packing.ENTRY, None)
    if outline is None:
        return arrays
    return packing.unpacked(arrays, outline.astype(np.uint8).tobytes().decode())


def _write_npz(file: BinaryIO, saved: Any) -> None:
    arrays, outline = packing.packed(saved)
    kept = {name: plain(array) for name, array in arrays.items()}
    text = np.frombuffer(outline.encode(), np.uint8)
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {**kept, packing.ENTRY: text}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read_safetensors(path: Path) -> Any:
    arrays, metadata = safetensors.read(path)
    outline = metadata.get(packing.ENTRY)
    return arrays if outline is None else packing.unpacked(arrays, outline)


def _write_safetensors(file: BinaryIO, saved: Any) -> None:
    arrays, outline = packing.packed(saved)
    safetensors.write(file, arrays, {packing.ENTRY: outline})


# --- PyTorch -------------------------------------------------------------------------


def _read_torch(path: Path) -> Any:
    torch = needed("torch", "torch", f"Reading '{path}'")
    what = f"'{path}' is no file of PyTorch that can be read safely, with "
    remedy = " Save optimizer.state_dict() alone, of plain tensors."
    with _refusing(f"{what}weights_only=True", remedy):
        return torch.load(path, map_location="cpu", weights_only=True)


def _write_torch(file: BinaryIO, saved: Any) -> None:
    torch = needed("torch", "torch", "Writing a file of PyTorch")

    def tensors(node: Any, path: str = "") -> Any:
        def below(key: Any, child: Any) -> Any:
            return tensors(child, f"{path}/{key}" if path else str(key))

        if isinstance(node, tuple) and hasattr(node, "_fields"):
            # A dict, as in the flat files: no class is loaded with weights_only=True.
            node = dict(zip(node._fields, node, strict=True))
        if isinstance(node, Mapping):
            return {key: below(key, child) for key, child in node.items()}
        if isinstance(node, list | tuple):
            made = (below(i, child) for i, child in enumerate(node))
            return tuple(made) if isinstance(node, tuple) else list(made)
        if isinstance(node, jax.Array):
            node = to_numpy(path, node)
        if not isinstance(node, np.ndarray):
            return node
        if node.dtype.name == "bfloat16":  # which PyTorch does not take from NumPy
            return torch.as_tensor(node.view(np.int16).copy()).view(torch.bfloat16)
        return torch.as_tensor(node if node.flags.writeable else node.copy())

    torch.save(tensors(saved), file)


# --- Keras ---------------------------------------------------------------------------

INSIDE = "model.weights.h5"
"""The entry of a .keras file with the weights."""


def _read_keras(path: Path) -> Any:
    if path.suffix.lower() == ".h5":
        return _read_h5(path, path)
    with (
        _refusing(f"'{path}' is no whole .keras file"),
        zipfile.ZipFile(path) as archive,
    ):
        data = archive.read(INSIDE)
    return _read_h5(path, io.BytesIO(data))


def _read_h5(path: Path, source: Any) -> Any:
    h5py = needed("h5py", "h5py", f"Reading '{path}'")
    try:
        with h5py.File(source, "r") as file:
            found = _variables(file)
    except KeyError as error:
        raise DamagedFile(f"'{path}' lacks what it lists ({_brief(error)}).") from error
    except Exception as error:  # HDF5 and h5py: more kinds than can be listed
        raise DamagedFile(
            f"'{path}' is no whole HDF5 file ({_brief(error)})."
        ) from error
    if found is None:
        raise ValueError(
            f"'{path}' holds no optimizer. Save the whole model after training: "
            "model.save('run.keras')."
        )
    return found


def _variables(file: Any) -> dict[str, np.ndarray] | None:
    """Return the variables of the optimizer in a file of HDF5; None without."""
    if "optimizer_weights" in file:  # a whole model in the old format
        group = file["optimizer_weights"]
        names = [_text(name) for name in group.attrs["weight_names"]]
        return {name: np.asarray(group[name]) for name in names}
    if "optimizer" not in file or "vars" not in file["optimizer"]:
        return None
    store = file["optimizer"]["vars"]
    return {name: np.asarray(store[name]) for name in store}


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _write_h5(file: BinaryIO, saved: Any) -> None:
    h5py = needed("h5py", "h5py", "Writing a file of HDF5")
    if not isinstance(saved, dict) or not all(str(key).isdigit() for key in saved):
        raise ValueError(
            "A .h5 file holds the variables of an optimizer of Keras. Write another "
            "state to .npz or .safetensors."
        )
    with h5py.File(file, "w") as whole:
        store = whole.create_group("optimizer").create_group("vars")
        for name, array in saved.items():
            store[name] = array


# --- Orbax ---------------------------------------------------------------------------


def _read_orbax(path: Path) -> Any:
    ocp = needed("orbax.checkpoint", "orbax-checkpoint", f"Reading the folder '{path}'")
    try:
        with ocp.PyTreeCheckpointer() as keeper:
            return keeper.restore(path.absolute())
    except Exception as error:  # Orbax and its storage have kinds of their own
        raise DamagedFile(
            f"'{path}' is no whole checkpoint of Orbax ({_brief(error)})."
        ) from error


def _write_orbax(path: Path, saved: Any) -> None:
    ocp = needed("orbax.checkpoint", "orbax-checkpoint", f"Writing the folder '{path}'")
    with ocp.PyTreeCheckpointer() as keeper:
        keeper.save(path.absolute(), saved, force=True)


READERS = {
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".keras": _read_keras,
    ".h5": _read_keras,
}
WRITERS = {
    ".pt": _write_torch,
    ".pth": _write_torch,
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".h5": _write_h5,
}
