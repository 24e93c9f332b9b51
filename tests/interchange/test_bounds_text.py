"""Text in JSON that would take far more memory than its file has bytes."""

import hashlib
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optadamw import checkpoint
from optadamw.checkpoint import bounds, zipped
from optadamw.checkpoint.bounds import Bounds, TooLarge
from optadamw.dialects.files import files, keras_config, packing
from tests.interchange.files import written

SIZE = 1 << 18
EMPTY = '{"a": [' + "{}," * (SIZE // 3) + "{}]}"
"""256 KiB, of which Python makes 6 MB."""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Files as small as those of these tests are limited too."""
    monkeypatch.setattr(bounds, "SMALL", 1 << 16)
    monkeypatch.setattr(bounds, "TEXT", 1 << 12)
    monkeypatch.setattr(zipped, "TEXT", 1 << 12)


def _header(path: Path, text: str = EMPTY) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())


def _header_with_entries(path: Path) -> None:
    """Entries do not make room for text beside them."""
    entry = '{"dtype":"F32","shape":[],"data_offsets":[0,0]}'
    _header(path, EMPTY[:-1] + f', "b": [{",".join([entry] * 300)}]' + "}")


def _metadata(path: Path) -> None:
    digest = hashlib.sha256(EMPTY.encode()).hexdigest()
    metadata = {packing.ENTRY: EMPTY, "saved.sha256": digest}
    written(path, {"w": np.ones(1, np.float32)}, metadata)


def _comments(path: Path) -> None:
    text = EMPTY.encode()
    comment = b"optadamw %s\n%s" % (hashlib.sha256(text).hexdigest().encode(), text)
    with open(path, "wb") as file, zipped.writing(file, comment) as add:
        for i in range(len(comment) // 60_000 + 1):
            add(f"{i}", np.ones((), np.uint8))


def _deflated(name: str) -> Callable[[Path], None]:
    """Deflated text beside 400 empty arrays, which had made room for it."""

    def made(path: Path) -> None:
        arrays = {f"{i}": np.zeros(0, np.uint8) for i in range(400)}
        arrays[name] = np.frombuffer(EMPTY.encode(), np.uint8)
        np.savez_compressed(path, **arrays)

    return made


def _stored(name: str) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        np.savez(path, **{name: np.frombuffer(EMPTY.encode(), np.uint8)})

    return made


HOSTILE = {
    "a header": ("x.safetensors", _header),
    "a header with entries": ("x.safetensors", _header_with_entries),
    "an outline in metadata": ("x.safetensors", _metadata),
    "an outline in comments": ("x.npz", _comments),
    "a deflated outline": ("x.npz", _deflated("saved.json")),
    "an outline as it is": ("x.npz", _stored("saved.json")),
    "names": ("x.npz", _stored("optadamw.names")),
}


@pytest.mark.parametrize(("name", "make"), HOSTILE.values(), ids=HOSTILE)
def test_text_of_a_file_is_limited(name, make, tmp_path):
    make(tmp_path / name)
    with pytest.raises(TooLarge, match="bytes of text that describe its arrays"):
        files.read(tmp_path / name)


@pytest.mark.parametrize("make", [_deflated, _stored])
def test_the_record_of_a_checkpoint_is_limited(make, tmp_path):
    path = tmp_path / "x.npz"
    make("optadamw.json")(path)
    with pytest.raises(TooLarge, match=r"bytes of text .*load\(path, is_limited="):
        checkpoint.load(path)
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.load(path, is_limited=False)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_configuration_of_keras_is_limited(kind, tmp_path):
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("config.json", EMPTY)
    with zipfile.ZipFile(path) as archive, pytest.raises(TooLarge, match="of text"):
        keras_config.config_in(archive, Bounds(path))


def test_text_of_a_folder_of_orbax_is_limited(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    folder = tmp_path / "folder"
    files.write(folder, {"w": np.ones(3, np.float32)})
    (folder / "_METADATA").write_text(EMPTY)
    with pytest.raises(TooLarge, match="of text"):
        files.read(folder)


def test_files_of_many_small_arrays_are_read(tmp_path):
    """2,000 arrays of four numbers: their text is most of the file."""
    saved: dict[str, Any] = {
        "state": {
            i: {"step": np.float32(1), "exp_avg": np.ones(4, np.float32)}
            for i in range(1000)
        },
        "param_groups": [{"params": list(range(1000)), "betas": (0.9, 0.999)}],
    }
    for name in ("x.npz", "x.safetensors"):
        files.write(tmp_path / name, saved)
        assert len(files.read(tmp_path / name)["state"]) == 1000
    plain = {f"layers.{i}.weight": np.ones(1, np.float32) for i in range(2000)}
    written(tmp_path / "y.safetensors", plain)
    assert len(files.read(tmp_path / "y.safetensors")) == 2000


WORST = {
    "dicts": EMPTY,
    "lists": "[" + "[]," * 40_000 + "[]]",
    "lists of one": "[" + "[1]," * 30_000 + "[]]",
    "pairs": "[" + '{"a":1},' * 15_000 + "[]]",
    "lists in dicts": "[" + '{"a":[]},' * 15_000 + "[]]",
}


@pytest.mark.parametrize("text", WORST.values(), ids=WORST)
def test_no_text_takes_more_than_it_is_counted_as(text, tmp_path, monkeypatch):
    """It is refused in a file that is nearly large enough for it."""
    path = tmp_path / "x"
    tracemalloc.start()
    try:
        json.loads(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(bounds, "SMALL", 0)
    path.write_bytes(bytes(max(len(text), int(0.9 * peak / bounds.RATIO))))
    with pytest.raises(TooLarge, match="take about"):
        Bounds(path).check_json(text)
