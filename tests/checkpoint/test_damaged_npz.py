"""A damaged file that NumPy opens, and `restore` reads array by array."""

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import checkpoint

TX, PARAMS = optadamw.adamw(1e-3), {"w": jnp.ones((30, 30))}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_every_damage_is_a_damaged_checkpoint(write, tmp_path):
    path = tmp_path / "run.npz"
    write(path, **checkpoint.to_portable(TX, TX.init(PARAMS), PARAMS))
    whole, met = path.read_bytes(), 0
    for place in range(40, len(whole), len(whole) // 60):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        try:
            saved = np.load(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            continue  # of NumPy, which reads the directory at the end
        try:
            checkpoint.restore(TX, PARAMS, saved)
        except checkpoint.DamagedCheckpoint:
            met += 1
    assert met > 20
