"""Read and write PyTorch's files; PyTorch itself does so, if it is installed."""

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from optadamw.checkpoint.bounds import Bounds, nbytes
from optadamw.dialects.files import pickles
from optadamw.dialects.files.packages import needed
from optadamw.dialects.files.refusing import DamagedFile, brief, refusing
from optadamw.dialects.states.arrays import to_numpy

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar")
"""The endings of files that PyTorch has written; Lightning writes .ckpt, accelerate
.bin, and .pth.tar is an old habit."""

DEEPEST = 100
"""The depth of containers; a state dict in a checkpoint has about six."""

MOST = 10_000_000
"""The number of objects in all containers, each with what is in it."""


def read(path: Path, bounds: Bounds) -> Any:
    """Read a file without running any code that is in it."""
    torch = needed("torch", "torch", f"Reading '{path}'")
    what = (
        f"'{path}' is no file of PyTorch that can be read safely, with "
        "weights_only=True"
    )
    remedy = " Save optimizer.state_dict() alone, of plain tensors."
    with refusing(what, remedy):
        if zipfile.is_zipfile(path):
            _check_entries(path, bounds)
        pickles.check(path, bounds)
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # Its first line tells how to run the code in the file.
            raise DamagedFile(f"{what} ({_reason(error)}).{remedy}") from error
    _check_containers(path, saved)
    tensors = list(_tensors(saved, torch.Tensor))
    if any(tensor.is_nested for tensor in tensors):
        raise DamagedFile(
            f"'{path}' holds a nested tensor, which has no one shape. Save plain "
            "tensors."
        )
    # A tensor that is expanded has one number in the file and millions in memory.
    bounds.check(
        sum(
            nbytes(tensor.shape, tensor.element_size())
            for tensor in tensors
            if tensor.layout == torch.strided
        )
    )
    return saved


def _reason(error: pickle.UnpicklingError) -> str:
    """Return the sentence of PyTorch's error that names the object it does not load."""
    found = re.search(r"WeightsUnpickler error: ([^\n]*?)(\. |\n|$)", str(error))
    # PyTorch gives no reason for an opcode that its safe reader does not know.
    return (found[1].strip() if found else brief(error)) or (
        "an opcode that it does not read; torch.save writes such ones with another "
        "pickle_protocol than its default, 2"
    )


def _check_entries(path: Path, bounds: Bounds) -> None:
    """Check sizes, and the checksums that torch.load does not read.

    torch.serialization.set_crc32_options(False) writes wrong checksums into all entries
    that hold bytes; such a file is read without them.
    """
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
        bounds.check(sum(entry.file_size for entry in entries))
        wrong = [e.filename for e in entries if not _is_whole(archive, e)]
    storages = [e.filename for e in entries if "/data/" in e.filename]
    if wrong and not (storages and set(storages) <= set(wrong)):
        raise DamagedFile(
            f"'{path}' is no whole file of PyTorch: '{wrong[0]}' in it was altered, "
            "by its checksum. Use another copy."
        )


def _is_whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as source:
            while source.read(1 << 20):
                pass
    except zipfile.BadZipFile as error:
        if "CRC-32" in str(error):
            return False
        raise
    return True


def _check_containers(path: Path, saved: Any) -> None:
    """Refuse containers without end: in themselves, or each twice in the next.

    A pickle names an object once and refers to it later, so that 60 lists in 200 bytes
    can hold 2^60 tensors.

    Raises:
      DamagedFile: a container is in itself, lies deeper than `DEEPEST`, or holds more
        than `MOST` objects, one counted as often as it is reached.
    """
    sizes: dict[int, int | None] = {}

    def size(node: Any, depth: int) -> int:
        if not isinstance(node, Mapping | list | tuple):
            return 1
        if id(node) not in sizes:
            if depth > DEEPEST:
                raise DamagedFile(f"{what} more than {DEEPEST} deep. {remedy}")
            sizes[id(node)] = None
            below = node.values() if isinstance(node, Mapping) else node
            sizes[id(node)] = 1 + sum(size(child, depth + 1) for child in below)
        found = sizes[id(node)]
        if found is None:
            raise DamagedFile(f"'{path}' has a container that holds itself. {remedy}")
        if found > MOST:
            raise DamagedFile(f"{what} of more than {MOST:,} objects. {remedy}")
        return found

    what = f"'{path}' has containers"
    remedy = "Save optimizer.state_dict() alone, of plain tensors."
    size(saved, 0)


def _tensors(node: Any, kind: type) -> Iterator[Any]:
    if isinstance(node, kind):
        yield node
    elif isinstance(node, Mapping):
        for child in node.values():
            yield from _tensors(child, kind)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _tensors(child, kind)


def write(file: BinaryIO, saved: Any) -> None:
    """Write a state, with tensors for its arrays and plain containers."""
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
        if isinstance(node, np.generic):  # which weights_only=True does not load
            node = np.asarray(node)
        if not isinstance(node, np.ndarray):
            return node
        if node.dtype.name == "bfloat16":  # which PyTorch does not take from NumPy
            return torch.as_tensor(node.view(np.int16).copy()).view(torch.bfloat16)
        return torch.as_tensor(node if node.flags.writeable else node.copy())

    try:
        torch.save(tensors(saved), file)
    except RuntimeError as error:
        # After a write that failed, torch.save also fails to close the archive.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
