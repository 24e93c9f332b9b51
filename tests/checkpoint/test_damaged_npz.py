"""A damaged file that NumPy opens, and `restore` reads array by array."""

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import checkpoint

TX, PARAMS = optadamw.adamw(1e-3), {"w": jnp.ones((30, 30))}


def is_met(path, whole, place, bit):
    """Flip a bit; return whether `restore` tells it, and raises no other error."""
    data = bytearray(whole)
    data[place] ^= bit
    path.write_bytes(data)
    try:
        saved = np.load(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False  # of NumPy, which reads the directory at the end
    try:
        checkpoint.restore(TX, PARAMS, saved)
    except checkpoint.DamagedCheckpoint:
        return True
    return False


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_every_damage_is_a_damaged_checkpoint(write, tmp_path):
    path = tmp_path / "run.npz"
    write(path, **checkpoint.to_portable(TX, TX.init(PARAMS), PARAMS))
    whole, met = path.read_bytes(), 0
    for place in range(40, len(whole), len(whole) // 60):
        met += is_met(path, whole, place, 4)
    assert met > 20


def test_a_directory_that_is_altered_is_a_damaged_checkpoint(tmp_path):
    """Each bit of the flags and names: an entry is encrypted, or has another name."""
    path = tmp_path / "run.npz"
    np.savez(path, **checkpoint.to_portable(TX, TX.init(PARAMS), PARAMS))
    whole, met = path.read_bytes(), 0
    start = whole.index(b"PK\1\2")
    for place in range(start, len(whole)):
        met += sum(is_met(path, whole, place, bit) for bit in (1, 2))
    assert met > 20


def test_a_file_with_a_step_and_no_record_is_a_damaged_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    np.savez(path, step=np.int32(3))
    for read in (
        lambda saved: checkpoint.restore(TX, PARAMS, saved),
        lambda saved: checkpoint.params_of(saved, PARAMS),
    ):
        with pytest.raises(checkpoint.DamagedCheckpoint, match="no entry"):
            read(np.load(path))
