"""Replace a file as a whole or not at all."""

import contextlib
import hashlib
import importlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optadamw.checkpoint.bounds import kind_of
from optadamw.checkpoint.path import check_folder

# Windows has no fcntl, and does not remove a file that a writer has open.
fcntl: Any = None
with contextlib.suppress(ImportError):
    fcntl = importlib.import_module("fcntl")

_ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to a writer that was killed, where the
file system has no locks."""

_LONG = 200
"""Bytes of a name; with a longer one a temporary name could pass the 255 bytes that
most file systems allow."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `target` if the block ends without error.

    A file that was there before gives the new one its mode. The temporary file is
    locked until the end: a writer that is killed loses its lock, and the next writer
    of `target` in this folder removes its temporary file.

    Raises:
      FileNotFoundError: the folder of `target` does not exist.
      IsADirectoryError: `target` is a folder.
      OSError: `target` is a pipe, a socket or a device, which a file would replace, or
        a symbolic link that leads back to itself; or the file cannot be written.
    """
    check_folder(target)
    if target.is_dir():
        raise IsADirectoryError(f"'{target}' is a folder. Give the path of a file.")
    mode = _mode(target)
    _sweep(target)
    file, temporary = _opened(target, 0o666 if mode is None else mode)
    try:
        with file:
            yield file
            file.flush()
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)  # open subtracted the umask
            os.fsync(file.fileno())
            if fcntl is not None:
                os.replace(temporary, target)
        if fcntl is None:  # Windows renames closed files only
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _mode(target: Path) -> int | None:
    """Return the mode of a file; None if there is none.

    Raises:
      OSError: there is something that is no file.
    """
    try:
        mode = target.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISLNK(mode):  # the links before were followed, and this one leads nowhere
        raise OSError(f"'{target}' is a symbolic link to itself. Remove it first.")
    if not stat.S_ISREG(mode):
        raise OSError(
            f"'{target}' is {kind_of(mode)}, and a file would replace it. Give the "
            "path of a file."
        )
    return stat.S_IMODE(mode)


def _stem(target: Path) -> str:
    """Return the beginning of the names of temporary files of `target`."""
    name = os.fsencode(target.name)
    if len(name) <= _LONG:
        return f".{target.name}."
    return f".{hashlib.sha256(name).hexdigest()}."


def _opened(target: Path, mode: int) -> tuple[BinaryIO, Path]:
    """Create a temporary file and lock it.

    It can be read too: HDF5 reads what it wrote, from about 6,000 datasets on.
    """
    while True:
        temporary = target.with_name(f"{_stem(target)}{secrets.token_hex(8)}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(temporary, flags, mode), "w+b")
        if _is_locked_here(file, temporary):
            return file, temporary
        file.close()


def _is_locked_here(file: BinaryIO, temporary: Path) -> bool:
    """Lock a new file; False if another writer removed it before it was locked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), temporary.stat())
    return False


def _sweep(target: Path) -> None:
    """Remove temporary files that killed writers of `target` left behind."""
    for path in target.parent.glob(f"{_literal(_stem(target))}*.tmp"):
        with contextlib.suppress(OSError):  # another writer was faster
            _remove_abandoned(path)


def _remove_abandoned(path: Path) -> None:
    """Remove a temporary file that no writer has locked."""
    if fcntl is None:
        path.unlink()
        return
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        # Removed under the lock: a writer that has not locked its new file yet waits
        # for nothing and takes another name.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:  # a file system without locks
        if time.time() - path.stat().st_mtime > _ABANDONED:
            path.unlink()
    else:
        path.unlink()
    finally:
        os.close(handle)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk too; Windows does so without a call."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
