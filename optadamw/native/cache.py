"""A private folder of compiled libraries.

A library is loaded into the process, so it is only taken from a folder in which nobody
but this user (and root) can write, and only if its bytes have the digest that its name
says. It is written under a name of its own and then renamed: any number of processes
may make the same library at once, and none sees half of one.
"""

import atexit
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

VARIABLE = "OPTADAMW_CACHE_DIR"


class CacheError(Exception):
    """No folder can hold libraries; the text says why."""


def cached(key: str, make: Callable[[Path], None]) -> Path:
    """Return the library of a key, which `make(path)` writes if there is none.

    Raises:
      CacheError: no folder can be written.
    """
    reasons = []
    try:
        for folder in _folders():
            try:
                check_private(folder)
                return _found(folder, key) or _made(folder, key, make)
            except (OSError, CacheError) as error:
                reasons.append(f"{folder}: {_reason(error)}")
    except OSError as error:  # no temporary folder, as in a read-only container
        reasons.append(_reason(error))
    raise CacheError("no folder for compiled kernels: " + "; ".join(reasons))


def check_private(folder: Path) -> None:
    """Make a folder that nobody else can write, or check that it is one.

    Raises:
      CacheError: another user can write in the folder or in one above it.
      OSError: the folder cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        facts = place.stat()
        if facts.st_uid not in (0, os.geteuid()):
            raise CacheError(f"{place} belongs to another user")
        is_open = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a sticky folder, such as /tmp, nobody renames what another one owns.
        if is_open and (place == folder or not facts.st_mode & stat.S_ISVTX):
            raise CacheError(f"other users can write in {place}")


def _folders() -> Iterator[Path]:
    """Yield the folders to try: the cache, and one of this process alone."""
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE])
    elif os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"]) / "optadamw"
    else:
        home = Path(os.path.expanduser("~"))
        if home.is_absolute():  # otherwise this user has none
            yield home / ".cache" / "optadamw"
    yield _folder_of_this_process()


_own: dict[int, Path] = {}


def _folder_of_this_process() -> Path:
    if os.getpid() not in _own:
        folder = Path(tempfile.mkdtemp(prefix="optadamw-"))
        _own[os.getpid()] = folder
        atexit.register(_remove, os.getpid(), folder)
    return _own[os.getpid()]


def _remove(process: int, folder: Path) -> None:
    if process == os.getpid():  # and not in a child that inherited the handler
        shutil.rmtree(folder, ignore_errors=True)


def _found(folder: Path, key: str) -> Path | None:
    """Return a library whose bytes are those that were written; remove others."""
    for path in sorted(folder.glob(f"{key}-*.so")):
        facts = path.lstat()
        if stat.S_ISREG(facts.st_mode) and facts.st_uid in (0, os.geteuid()):
            if path.name == _name(key, path.read_bytes()):
                return path
            path.unlink(missing_ok=True)
    return None


def _made(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    with tempfile.TemporaryDirectory(prefix=".made-", dir=folder) as name:
        fresh = Path(name) / "kernel.so"
        make(fresh)
        path = folder / _name(key, fresh.read_bytes())
        fresh.chmod(0o500)
        os.replace(fresh, path)
        return path


def _name(key: str, library: bytes) -> str:
    return f"{key}-{hashlib.sha256(library).hexdigest()[:32]}.so"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
