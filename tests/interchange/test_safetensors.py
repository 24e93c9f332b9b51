"""The `.safetensors` format: read, written, damaged."""

import json
import struct
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects.files import files, safetensors
from optadamw.dialects.files.refusing import DamagedFile
from tests.interchange.files import written


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_safetensors_of_every_dtype(tmp_path):
    arrays = {
        name: np.arange(6).reshape(2, 3).astype(jnp.dtype(name))
        for name in safetensors.DTYPES.values()
    }
    arrays |= {"scalar": np.float32(3.5)[...], "empty": np.zeros((0, 3), np.float32)}
    arrays["turned"] = np.arange(6.0).reshape(2, 3).T
    arrays["big"] = np.arange(3, dtype=">f4")
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    path = written(tmp_path / "x.safetensors", arrays, {"a": "b"})
    header, body = header_of(path.read_bytes())
    (tmp_path / "mlx").write_bytes(with_header(header | {"__metadata__": None}, body))
    assert safetensors.read(tmp_path / "mlx")[1] == {}
    found, metadata = safetensors.read(path)
    assert metadata == {"a": "b"} and list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert found[name].dtype.name == array.dtype.name
        np.testing.assert_array_equal(found[name], array)


def test_safetensors_has_no_other_dtypes(tmp_path):
    with pytest.raises(TypeError, match="safetensors has no dtype complex128"):
        written(tmp_path / "x.safetensors", {"x": np.zeros(2, complex)})


def good() -> bytes:
    entries = {
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "y": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
    }
    return with_header(entries, bytes(12))


def changed(**entry: Any) -> bytes:
    header, body = header_of(good())
    header["y"] |= entry
    return with_header({k: v for k, v in header.items()}, body)


DAMAGED = {
    "empty": (b"", "it has 0 bytes"),
    "short": (good()[:5], "it has 5 bytes"),
    "cut in the header": (good()[:30], "its header would have"),
    "cut in the body": (good()[:-1], "it is cut short"),
    "longer": (good() + b"x", "has bytes left over"),
    "a giant header": (b"\xff" * 16, "its header would have"),
    "no JSON": (with_header(b"{nonsense", b""), "its header is no JSON"),
    "no text": (with_header(b"\xff\xfe", b""), "its header is no JSON"),
    "deep": (with_header(b"[" * 100_000, b""), "its header is no JSON"),
    "a list": (with_header([], b""), "no JSON object"),
    "twice": (with_header(b'{"x": 1, "x": 2}', b""), "there twice"),
    "metadata": (with_header({"__metadata__": {"a": 1}}, b""), "metadata"),
    "entry": (with_header({"x": 3}, b""), "the entry of 'x'"),
    "dtype": (changed(dtype="F33"), "has the dtype 'F33'; known are BOOL"),
    "shape": (changed(shape=[-1]), r"has the shape \[-1\]"),
    "bool shape": (changed(shape=[True]), "has the shape"),
    "offsets": (changed(data_offsets=[8]), r"offsets \[8\]"),
    "overlap": (changed(data_offsets=[4, 8]), "'y' overlaps another"),
    "gap": (changed(data_offsets=[9, 13]), "'y' leaves a gap"),
    "beyond": (changed(shape=[2], data_offsets=[8, 16]), "it is cut short"),
    "size": (changed(shape=[3]), "has 4 bytes of it"),
    "backwards": (changed(data_offsets=[12, 8]), "has -4 bytes"),
    "huge": (changed(shape=[2**60, 2**60]), "bytes of it"),
    "huge and empty": (
        changed(shape=[0, 2**70], data_offsets=[12, 12])[:-4],
        "'y' has a shape that no array has",
    ),
    "65 axes": (changed(shape=[1] * 65), "'y' has a shape that no array has"),
    "a list for a dtype": (changed(dtype=[]), r"has the dtype \[\]"),
}


@pytest.mark.parametrize(("data", "text"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_safetensors(data, text, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    for reader in (files.read, safetensors.read):
        with pytest.raises(DamagedFile, match=text) as caught:
            reader(path)
        assert f"'{path}'" in str(caught.value)


def test_every_cut_of_safetensors_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    for length in range(len(good())):
        path.write_bytes(good()[:length])
        with pytest.raises(DamagedFile):
            files.read(path)
    path.write_bytes(good())
    assert sorted(files.read(path)) == ["x", "y"]
