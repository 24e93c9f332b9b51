"""Files of saved states, in which nested states lie flat."""

import io
import os
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import interchange
from optadamw.checkpoint import zipped
from optadamw.checkpoint.bounds import Bounds
from optadamw.dialects.files import files, packing
from optadamw.dialects.files import torch as torch_files
from optadamw.dialects.files.packages import MissingPackage
from optadamw.dialects.files.refusing import DamagedFile
from tests.interchange import cases
from tests.interchange.files import NAMES, needs_torch, torch, trained, written
from tests.support import trees

FLAT = ("npz", "safetensors")


@pytest.mark.parametrize("suffix", FLAT)
@pytest.mark.parametrize("name", cases.PEERS)
def test_states_in_flat_files(name, suffix, tmp_path):
    tx, params, state = trained()
    peer, path = cases.PEERS[name], tmp_path / f"state.{suffix}"
    files.write(path, peer.to(state, params, tx=tx))
    found = files.read(path)
    if name in ("tensorflow_addons", "flux"):
        found = tuple(found) if name == "tensorflow_addons" else found
    back = peer.back(found, params, tx=tx)
    if peer.is_exact:
        trees.assert_same_bits(back, state)
    else:
        trees.assert_same_types(back, state)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", FLAT)
def test_bfloat16_in_flat_files(suffix, tmp_path):
    saved = {"x": np.arange(3).astype(jnp.bfloat16), 3: [None, True, 1.5, "a"]}
    files.write(tmp_path / f"x.{suffix}", saved)
    found = files.read(tmp_path / f"x.{suffix}")
    assert found["x"].dtype == jnp.bfloat16 and found[3] == saved[3]
    np.testing.assert_array_equal(found["x"], saved["x"])


def test_files_of_arrays_alone_are_flat_mappings(tmp_path):
    np.savez(tmp_path / "x.npz", **{"0": np.ones(2), "1": np.zeros(1)})
    assert list(files.read(tmp_path / "x.npz")) == ["0", "1"]
    written(tmp_path / "x.safetensors", {"w.m": np.ones(2)})
    assert list(files.read(tmp_path / "x.safetensors")) == ["w.m"]


def test_npz_files_hold_for_others_the_arrays_alone(tmp_path):
    """Keras's `load_own_variables` counts the arrays that `np.load` finds."""
    tx, params, state = trained()
    saved = interchange.to_keras(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "x.npz", saved)
    assert set(np.load(tmp_path / "x.npz")) == set(saved)
    many = {f"{i:0500}": [np.full(1, i)] for i in range(200)}  # beyond one comment
    files.write(tmp_path / "many.npz", many)
    assert files.read(tmp_path / "many.npz") == many
    assert set(np.load(tmp_path / "many.npz")) == {f"{name}/0" for name in many}
    for nothing in ({}, {"a": [None, 3]}, {"a": [np.ones(()), "long" * 50_000]}):
        files.write(tmp_path / "none.npz", nothing)
        assert files.read(tmp_path / "none.npz") == nothing


def test_thousands_of_variables_in_hdf5(tmp_path):
    """HDF5 has then no room in its cache, and reads while it writes."""
    pytest.importorskip("h5py", reason="h5py is not installed")
    saved = {str(i): np.float32(i) for i in range(8000)}
    files.write(tmp_path / "x.h5", saved)
    assert files.read(tmp_path / "x.h5") == saved


@pytest.mark.parametrize("place", [0.0, 0.05, 0.1, 0.3, 0.6, 0.98])
def test_an_altered_outline_in_the_comments_is_refused(place, tmp_path):
    files.write(tmp_path / "x.npz", {"a": [np.ones(2)], "b": np.ones(3)})
    data = bytearray((tmp_path / "x.npz").read_bytes())
    start = data.index(b"optadamw ")
    end = data.index(b"}}", start) + 2
    data[start + int(place * (end - start))] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(DamagedFile, match="in the comments of its entries, was"):
        files.read(tmp_path / "x.npz")


def test_comments_of_others_are_left_alone(tmp_path):
    path = tmp_path / "x.npz"
    with path.open("wb") as file, zipped.writing(file, b"made by hand") as add:
        add("a", np.ones(2))
    np.testing.assert_array_equal(files.read(tmp_path / "x.npz")["a"], np.ones(2))


def test_an_outline_among_the_arrays_is_read(tmp_path):
    """Earlier versions wrote the outline of an .npz as one more array."""
    saved = {"a": [np.ones(2), None], "b": 3.0}
    arrays, outline = packing.packed(saved)
    arrays[packing.ENTRY] = np.frombuffer(outline.encode(), np.uint8)
    np.savez(tmp_path / "x.npz", **arrays)
    found = files.read(tmp_path / "x.npz")
    np.testing.assert_array_equal(found["a"].pop(0), saved["a"].pop(0))
    assert found == saved


def test_what_cannot_be_packed():
    with pytest.raises(TypeError, match="must be an array of numbers"):
        packing.packed({"x": object()})
    with pytest.raises(TypeError, match="must be a name or a number"):
        packing.packed({(1, 2): 3})
    with pytest.raises(ValueError, match="called 'a/b'"):
        packing.packed({"a": {"b": np.ones(1)}, "a/b": np.ones(1)})


@pytest.mark.parametrize(
    "outline",
    [
        "nonsense",
        "[]",
        '{"format": 2, "tree": {}}',
        '{"format": 1, "tree": {"array": "y", "dtype": "float32"}}',
        '{"format": 1, "tree": {"array": "x", "dtype": "float33"}}',
        '{"format": 1, "tree": {"set": []}}',
        '{"format": 1, "tree": {}}',
        '{"format": 1, "tree": 3}',
    ],
)
def test_damaged_outlines(outline):
    with pytest.raises(ValueError, match=r"of 'x\.npz' is damaged"):
        packing.unpacked(Bounds(Path("x.npz")), {"x": np.ones(2, np.float32)}, outline)


@pytest.mark.parametrize("suffix", ["npz", "keras", "h5", "hdf5", "safetensors"])
def test_files_that_are_another_format(suffix, tmp_path):
    if suffix in ("h5", "hdf5"):
        pytest.importorskip("h5py", reason="h5py is not installed")
    path = tmp_path / f"x.{suffix}"
    for data in (b"", b"nonsense", b"PK\x03\x04" + bytes(60)):
        path.write_bytes(data)
        with pytest.raises(DamagedFile, match="is no whole"):
            files.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "x")
    if suffix != "npz":
        with pytest.raises(DamagedFile, match="is no whole"):
            files.read(path)


def test_npz_with_objects_is_not_read(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([object()], dtype=object))
    with pytest.raises(DamagedFile, match="allow_pickle"):
        files.read(tmp_path / "x.npz")
    np.save(tmp_path / "y.npz.npy", np.ones(2))
    os.rename(tmp_path / "y.npz.npy", tmp_path / "y.npz")
    with pytest.raises(DamagedFile, match="is no whole"):
        files.read(tmp_path / "y.npz")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        files.read(tmp_path / "x.npz")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="ends in"):
        files.read(tmp_path / "x.txt")
    with pytest.raises(ValueError, match="ends in"):
        files.write(tmp_path / "y.keras", {"0": np.ones(1)})


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "x.npz"
    files.write(path, {"x": np.ones(2)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        files.write(path, {"x": object()})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.npz"]


def test_what_a_file_needs_is_said(monkeypatch, tmp_path):
    def missing(module: str) -> None:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr("importlib.import_module", missing)
    (tmp_path / "x.pt").write_bytes(b"")
    (tmp_path / "x.h5").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, package in (
        ("x.pt", "torch"),
        ("x.h5", "h5py"),
        ("folder", "orbax-checkpoint"),
    ):
        with pytest.raises(MissingPackage, match=f"pip install {package}"):
            files.read(tmp_path / name)
    with pytest.raises(MissingPackage, match="pip install torch"):
        files.write(tmp_path / "y.pt", {})
    assert not (tmp_path / "y.pt").exists()


def test_orbax(tmp_path):
    tx, params, state = trained()
    saved = interchange.to_optax(state, params, tx=tx)
    files.write(tmp_path / "state", saved)
    found = interchange.from_optax(files.read(tmp_path / "state"), params, tx=tx)
    trees.assert_same_bits(found, state)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DamagedFile, match="empty' is no checkpoint of Orbax: neither"):
        files.read(tmp_path / "empty")


@needs_torch
def test_files_of_pytorch(tmp_path):
    tx, params, state = trained()
    files.write(tmp_path / "x.pt", interchange.to_torch(state, params, tx=tx))
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    assert isinstance(saved["state"][0]["exp_avg"], torch.Tensor)
    found = interchange.from_torch(files.read(tmp_path / "x.pt"), params, tx=tx)
    trees.assert_same_bits(found, state)
    for peer in cases.PEERS.values():
        files.write(tmp_path / "y.pt", peer.to(state, params, tx=tx))
        torch.load(tmp_path / "y.pt", weights_only=True)
        back = peer.back(files.read(tmp_path / "y.pt"), params, tx=tx)
        trees.assert_same_types(back, state)
    for data in (b"", b"nonsense", (tmp_path / "x.pt").read_bytes()[:-100]):
        (tmp_path / "y.pt").write_bytes(data)
        with pytest.raises(DamagedFile, match="weights_only=True"):
            files.read(tmp_path / "y.pt")
    (tmp_path / "y.pt").write_bytes(b"hello")
    with pytest.raises(DamagedFile, match=r"\(KeyError: 101\)"):
        files.read(tmp_path / "y.pt")
    torch.save({"x": object()}, tmp_path / "z.pt")
    with pytest.raises(DamagedFile, match="weights_only=True") as caught:
        files.read(tmp_path / "z.pt")
    assert "\x1b" not in str(caught.value)


class Full(io.BytesIO):
    """A file on a disk that is full after 1,000 bytes."""

    def write(self, data):
        if self.tell() + len(data) > 1000:
            raise OSError(28, "No space left on device")
        return super().write(data)


@needs_torch
@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_another_protocol_of_pickle_is_named(protocol, tmp_path):
    """PyTorch's safe reader gives no reason for it."""
    saved = {"weight": torch.ones(2)}
    torch.save(saved, tmp_path / "x.pt", pickle_protocol=protocol)
    with pytest.raises(DamagedFile, match="pickle_protocol than its default, 2"):
        files.read(tmp_path / "x.pt")
    torch.save(saved, tmp_path / "x.pt")
    assert files.read(tmp_path / "x.pt")["weight"].tolist() == [1, 1]


@needs_torch
def test_a_full_disk_is_an_error_of_the_disk():
    with pytest.raises(OSError, match="No space left on device"):
        torch_files.write(Full(), {"state": {0: {"exp_avg": np.ones(100_000)}}})


def test_files_of_keras(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    inner = keras.optimizers.AdamW()
    for scaled in (False, True):
        optimizer = keras.optimizers.LossScaleOptimizer(inner) if scaled else inner
        model.compile(optimizer=optimizer, loss="mse")
        rng = np.random.default_rng(0)
        model.fit(rng.normal(size=(8, 4)), rng.normal(size=(8, 3)), verbose=0)
        params = [np.array(v.value) for v in model.trainable_variables]
        for name in ("x.keras", "x.weights.h5"):
            path = tmp_path / name
            if path.exists():
                path.unlink()
            (model.save if name == "x.keras" else model.save_weights)(path)
            state = interchange.from_keras(files.read(path), params)
            assert int(state.step) == int(optimizer.iterations)
            momentum = optimizer.variables[6 if scaled else 2]
            np.testing.assert_array_equal(state.mu[0], momentum.numpy())
            assert (state.loss_scale is not None) == scaled
    files.write(
        tmp_path / "y.h5", interchange.to_keras(state, params, learning_rate=0.5)
    )
    trees.assert_same_bits(
        interchange.from_keras(files.read(tmp_path / "y.h5"), params), state
    )
    with pytest.raises(ValueError, match="variables of an optimizer of Keras"):
        files.write(tmp_path / "z.h5", {"a": np.ones(1)})
    model.compile(loss="mse")
    model.optimizer = None
    model.save_weights(tmp_path / "bare.weights.h5")
    with pytest.raises(ValueError, match="holds no optimizer"):
        files.read(tmp_path / "bare.weights.h5")
