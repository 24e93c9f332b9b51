"""Save a checkpoint to one file, which is replaced as a whole or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optax

from optadamw.base.types import PyTree
from optadamw.checkpoint import zipped
from optadamw.checkpoint.bounds import Bounds, TooLarge, check_regular
from optadamw.checkpoint.damage import damaged
from optadamw.checkpoint.path import path_of
from optadamw.checkpoint.portable import Saved, gather, opened, record_of
from optadamw.checkpoint.record import ENTRY
from optadamw.checkpoint.replacing import replacing


def save(
    path: str | os.PathLike[str],
    tx: optax.GradientTransformation,
    state: PyTree,
    params: PyTree = None,
) -> None:
    """Write a state, and the parameters if they are passed, to one .npz file.

    The file is written under a temporary name in the same folder, brought to the disk,
    and then renamed. If the process or the machine dies before the end, an earlier file
    of this name is unchanged. `np.load` can read the file; its names are those of
    `to_portable`. A name that no zip file can hold (with a NUL or a backslash, with
    ".npy" at its end, longer than 60,000 bytes) is an "optadamw.entry.<number>", and
    "optadamw.names" holds the name.

    Args:
      path: the file; its folder must exist.
      tx: the transformation that made `state`.
      state: the state, between any two calls.
      params: the parameters, saved with the state. None (default): they are not saved.

    Raises:
      OSError: the file cannot be written; an earlier file of this name is unchanged.
      TypeError: `path` is no path.
      TypeError, ValueError: the state or the parameters cannot be saved, see
        `to_portable`.

    Example:
      >>> import os, tempfile, jax.numpy as jnp, optadamw
      >>> from optadamw import checkpoint
      >>> params, tx = {"w": jnp.ones(2)}, optadamw.adamw(1e-3)
      >>> path = os.path.join(tempfile.mkdtemp(), "run.npz")
      >>> checkpoint.save(path, tx, tx.init(params), params)
      >>> checkpoint.load(path)  # doctest: +ELLIPSIS
      <Saved: step 0, 4 arrays, with parameters, by optadamw ...>
    """
    # The file behind a symbolic link is replaced, not the link.
    target = Path(os.path.realpath(path_of(path)))
    gathered = gather(tx, state, params)
    with replacing(target) as file, ThreadPoolExecutor(1) as thread:
        # Digests are computed while the arrays are written: both take about as long.
        record = thread.submit(record_of, gathered)
        with zipped.writing(file) as add:
            for name, array in gathered.plain.items():
                add(name, array)
            add(ENTRY, record.result())


def load(path: str | os.PathLike[str], *, is_limited: bool = True) -> Saved:
    """Read a file that `save` wrote, and check every bit of it.

    Args:
      path: the file.
      is_limited: whether to refuse a file that announces more than 256 MiB of arrays
        and more than 20 times its own size, as a compressed file can. True (default):
        refuse it before an array takes memory. False: read it.

    Returns:
      The saved state, an argument for `restore` and `params_of`.

    Raises:
      OSError: there is no such file, it cannot be read, or is a pipe or a device.
      DamagedCheckpoint: the file is cut short, altered, or no checkpoint.
      ValueError: the file has a later format, or announces too many bytes.
      TypeError: `path` is no path.

    Example:
      See `save`.
    """
    path = path_of(path)
    check_regular(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"'{path}' is a folder. Give the path of a file that `save` wrote, or "
            "`restore` what Orbax restored from its folder."
        )
    bounds = Bounds(path, is_limited, "`load(path, is_limited=False)`")
    with open(path, "rb") as file:
        try:
            arrays = zipped.read(file, bounds, (ENTRY,))
        except TooLarge:
            raise
        except Exception as error:  # zip, NumPy: more kinds than can be listed
            raise damaged(f"'{path}' is no whole .npz file ({error}).") from error
    return opened(arrays)
