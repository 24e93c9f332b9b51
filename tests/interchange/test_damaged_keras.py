"""Damaged files of Keras are refused."""

import zipfile
from typing import Any

import numpy as np
import pytest

from optadamw import interchange
from optadamw.dialects.files import files, hdf5
from optadamw.dialects.files.refusing import DamagedFile
from tests.interchange.files import convert, prepared, trained


def altered(data: bytes, seed: int) -> bytes:
    """A copy in which a few bytes are others."""
    rng = np.random.default_rng(seed)
    found = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, len(found), size=max(4, len(found) // 50))
    found[places] ^= rng.integers(1, 256, size=len(places)).astype(np.uint8)
    return found.tobytes()


def test_altered_files_of_hdf5(tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    tx, params, state = trained()
    files.write(tmp_path / "x.h5", interchange.to_keras(state, params, tx=tx))
    data = (tmp_path / "x.h5").read_bytes()
    refused = 0
    for seed in range(200):
        (tmp_path / "y.h5").write_bytes(altered(data, seed))
        try:
            files.read(tmp_path / "y.h5")
        except ValueError as error:
            assert str(error).startswith(f"'{tmp_path}")
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, OSError, TypeError])
def test_what_h5py_raises(kind, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")

    def broken(*args: Any) -> Any:
        raise kind("Unable to synchronously check link existence\nand more")

    files.write(tmp_path / "x.h5", {"0": np.ones(1)})
    monkeypatch.setattr(h5py.Group, "__contains__", broken)
    with pytest.raises(DamagedFile, match=r"is no whole HDF5 file .*existence\)\.$"):
        files.read(tmp_path / "x.h5")


@pytest.mark.parametrize("what", ["deflated", "encrypted", "method"])
def test_damaged_keras_archives(what, tmp_path, capsys):
    path = tmp_path / "x.keras"
    body = bytes(range(256)) * 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(hdf5.INSIDE, body)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    if what == "deflated":
        start = 30 + len(hdf5.INSIDE)
        data[start : start + 40] = b"\xff" * 40
    elif what == "encrypted":
        data[6] |= 1
        data[central + 8] |= 1
    else:
        data[8] = data[central + 10] = 77
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedFile, match=r"is no whole \.keras file"):
        files.read(path)
    prepared(tmp_path)
    status = convert(
        *("keras", path, "--to", "mlx", "--out", tmp_path / "out.npz"),
        *("--params", tmp_path / "params.safetensors"),
    )
    assert status == 1 and capsys.readouterr().err.count("\n") == 1
