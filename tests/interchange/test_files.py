"""Files of saved states: read, written, damaged; and the command that converts them."""

import argparse
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint, interchange
from optadamw.interchange import arguments, command, files, packing, safetensors
from optadamw.interchange.packages import MissingPackage
from optadamw.interchange.safetensors import DamagedFile
from tests.interchange import cases
from tests.support import trees

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

PARAMS = {"a/kernel": (4, 3), "b/kernel": (4, 3), "scale": ()}
"""Flat, as files have them; two alike, so that an order matters."""

NAMES = ["scale", "b/kernel", "a/kernel"]


def trained(**options: Any) -> Any:
    tx = cases.adamw(**options)
    params, state = cases.trained(tx, cases.normal(PARAMS, jnp.float32, 0), 3)
    return tx, params, state


# --- The .safetensors format ---------------------------------------------------------


def written(path: Path, arrays: Any, metadata: Any = ()) -> Path:
    with open(path, "wb") as file:
        safetensors.write(file, arrays, dict(metadata))
    return path


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
}


@pytest.mark.parametrize(("data", "text"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_safetensors(data, text, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(DamagedFile, match=text):
        files.read(path)


def test_every_cut_of_safetensors_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    for length in range(len(good())):
        path.write_bytes(good()[:length])
        with pytest.raises(DamagedFile):
            files.read(path)
    path.write_bytes(good())
    assert sorted(files.read(path)) == ["x", "y"]


# --- Flat files of nested states -----------------------------------------------------

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
    with pytest.raises(ValueError, match="of the file is damaged"):
        packing.unpacked({"x": np.ones(2, np.float32)}, outline)


@pytest.mark.parametrize("suffix", ["npz", "keras", "h5", "safetensors"])
def test_files_that_are_another_format(suffix, tmp_path):
    if suffix == "h5":
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
    with pytest.raises(DamagedFile, match="is no whole checkpoint of Orbax"):
        files.read(tmp_path / "empty")


@needs_torch
def test_files_of_pytorch(tmp_path):
    tx, params, state = trained()
    files.write(tmp_path / "x.pt", interchange.to_torch(state, params, tx=tx))
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    assert isinstance(saved["state"][0]["exp_avg"], torch.Tensor)
    found = interchange.from_torch(files.read(tmp_path / "x.pt"), params, tx=tx)
    trees.assert_same_bits(found, state)
    for data in (b"", b"nonsense", (tmp_path / "x.pt").read_bytes()[:-100]):
        (tmp_path / "y.pt").write_bytes(data)
        with pytest.raises(DamagedFile, match="weights_only=True"):
            files.read(tmp_path / "y.pt")
    torch.save({"x": object()}, tmp_path / "z.pt")
    with pytest.raises(DamagedFile, match="weights_only=True"):
        files.read(tmp_path / "z.pt")


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


# --- The command ---------------------------------------------------------------------


def convert(*words: Any) -> int:
    """As `optadamw convert` runs it."""
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def prepared(folder: Path, **options: Any) -> Any:
    """A state, its parameters and the order of the other library, in files."""
    tx, params, state = trained(**options)
    written(
        folder / "params.safetensors", {k: np.asarray(p) for k, p in params.items()}
    )
    (folder / "names.json").write_text(json.dumps(NAMES))
    return tx, params, state


def options_for(name: str) -> dict[str, Any]:
    is_ordered = name not in ("mlx", "optax", "flux")
    return {"names": NAMES} if is_ordered else {}


@pytest.mark.parametrize("target", cases.PEERS)
@pytest.mark.parametrize("source", cases.PEERS)
def test_from_every_library_to_every_other(source, target, tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = cases.PEERS[source].to(state, params, tx=tx, **options_for(source))
    files.write(tmp_path / "in.npz", saved)
    numbers = ("--learning-rate", cases.RATE, "--b1", cases.B1, "--b2", cases.B2)
    status = convert(
        source.replace("_", "-"),
        tmp_path / "in.npz",
        *("--to", target.replace("_", "-"), "--out", tmp_path / "out.safetensors"),
        *("--params", tmp_path / "params.safetensors"),
        *(("--names", tmp_path / "names.json") if options_for(source) else ()),
        *(("--to-names", tmp_path / "names.json") if options_for(target) else ()),
        *numbers,
    )
    output = capsys.readouterr()
    assert status == 0, output.err
    assert "step" in output.out
    found = cases.PEERS[target].back(
        files.read(tmp_path / "out.safetensors"), params, tx=tx, **options_for(target)
    )
    if cases.PEERS[source].is_exact and cases.PEERS[target].is_exact:
        trees.assert_same_bits(found, state)
    else:
        for field in ("mu", "nu"):
            pair = (
                cases.leaves(getattr(found, field)),
                cases.leaves(getattr(state, field)),
            )
            assert cases.ulps(*pair) <= 2
        assert int(found.step) == 3


@pytest.mark.parametrize("target", ["torch", "keras"])
def test_to_our_checkpoint_and_from_it(target, tmp_path, capsys):
    tx, params, state = prepared(tmp_path, amsgrad=True)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    shared = ("--params", tmp_path / "params.safetensors")
    names = ("--names", tmp_path / "names.json")
    out = ("--to", "optadamw", "--out", tmp_path / "ours.npz")
    assert convert("torch", tmp_path / "in.npz", *out, *shared, *names) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:3] == [
        "torch -> optadamw",
        "  step           3",
        "  mu      3 arrays  100 bytes",
    ]
    saved = checkpoint.load(tmp_path / "ours.npz")
    nested = {"a": {"kernel": params["a/kernel"]}, "b": {"kernel": params["b/kernel"]}}
    nested["scale"] = params["scale"]
    restored, _ = checkpoint.restore(tx, nested, saved, expect_step=3)
    np.testing.assert_array_equal(restored.mu["a"]["kernel"], state.mu["a/kernel"])
    trees.assert_same_bits(checkpoint.params_of(saved, nested), nested)
    corrected = cases.adamw(amsgrad="corrected")
    with pytest.raises(ValueError, match="nu_max"):
        checkpoint.restore(corrected, nested, saved)
    ascending = cases.adamw(amsgrad=True, maximize=True)
    with pytest.raises(ValueError, match="`mu` was saved as"):
        checkpoint.restore(ascending, nested, saved)

    checkpoint.save(tmp_path / "own.npz", tx, restored, nested)
    for name in ("ours", "own"):
        status = convert(
            *("optadamw", tmp_path / f"{name}.npz", "--to", target),
            *("--out", tmp_path / f"{name}-out.npz", "--params", tmp_path / "own.npz"),
            *("--to-names", tmp_path / "names.json", "--learning-rate", 0.5),
        )
        assert status == 0, capsys.readouterr().err
        back = cases.PEERS[target].back(
            files.read(tmp_path / f"{name}-out.npz"), params, tx=tx, names=NAMES
        )
        trees.assert_same_bits(back, state)


def test_our_checkpoint_of_the_other_maximum(tmp_path, capsys):
    tx, params, state = prepared(tmp_path, amsgrad="corrected")
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    shared = ("--params", tmp_path / "own.npz", "--learning-rate", 0.5)
    status = convert(
        *("optadamw", tmp_path / "own.npz", "--to", "torch", *shared),
        *("--out", tmp_path / "x.npz", "--to-names", tmp_path / "names.json"),
    )
    assert status == 1 and "does not tell" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()
    status = convert(
        *("optadamw", tmp_path / "own.npz", "--to", "optax", *shared),
        *("--out", tmp_path / "x.npz"),
    )
    assert status == 0, capsys.readouterr().err
    found = interchange.from_optax(files.read(tmp_path / "x.npz"), params, tx=tx)
    trees.assert_same_bits(found, state)


def test_windows_averages_and_scales_of_keras(tmp_path, capsys):
    scale = optadamw.DynamicLossScale(initial=8.0)
    options = {"accumulate_steps": 2, "ema_decay": 0.5, "loss_scale": scale}
    tx, params, state = prepared(tmp_path, amsgrad=True, **options)
    saved = interchange.to_keras(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    shared = ("--params", tmp_path / "params.safetensors")
    shared += ("--names", tmp_path / "names.json")
    said = ("--amsgrad", "raw", "--use-ema", "--accumulate", 2)
    out = ("--to", "optadamw", "--out", tmp_path / "ours.npz")
    assert convert("keras", tmp_path / "in.npz", *out, *shared) == 1
    assert "say which with --amsgrad raw, --use-ema" in capsys.readouterr().err
    assert convert("keras", tmp_path / "in.npz", *out, *shared, *said) == 0
    assert "micro_step" in capsys.readouterr().out
    saved = checkpoint.load(tmp_path / "ours.npz")
    found, _ = checkpoint.restore(tx, params, saved, partial_window="keep")
    for field in ("step", "micro_step", "weight", "mu", "nu_max", "ema", "loss_scale"):
        trees.assert_same_bits(getattr(found, field), getattr(state, field))
    out = (
        "--to",
        "keras",
        "--out",
        tmp_path / "again.npz",
        "--learning-rate",
        cases.RATE,
    )
    again = ("optadamw", tmp_path / "ours.npz", "--to-names", tmp_path / "names.json")
    assert convert(*again, *out, "--params", tmp_path / "ours.npz") == 0
    pair = files.read(tmp_path / "again.npz"), files.read(tmp_path / "in.npz")
    jax.tree.map(np.testing.assert_array_equal, *pair)


def test_transposed_weights(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)

    def layout(path: str, x: Any) -> Any:
        return x.T if path.endswith("kernel") else x

    saved = interchange.to_torch(state, params, tx=tx, names=NAMES, layout=layout)
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "keras")
    words += ("--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    text = "It is transposed there: turn it with `--transpose`."
    assert text in capsys.readouterr().err
    for option in ("--transpose", "--to-transpose"):
        assert convert(*words, option, "*/kernle") == 1
        error = capsys.readouterr().err
        text = f"`{option}`: '*/kernle' matches no parameter. Near it: 'b/kernel'"
        assert text in error
    assert convert(*words, "--transpose", "*/kernel") == 0
    found = interchange.from_keras(
        files.read(tmp_path / "out.npz"), params, tx=tx, names=NAMES
    )
    trees.assert_same_bits(found, state)
    words = (*words, "--force", "--transpose", "*/kernel", "--to-transpose", "*/kernel")
    assert convert(*words) == 0
    found = interchange.from_keras(
        files.read(tmp_path / "out.npz"), params, tx=tx, names=NAMES, layout=layout
    )
    trees.assert_same_bits(found, state)


def test_what_the_command_refuses(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "three.json").write_text("3")
    (tmp_path / "there.npz").write_bytes(b"mine")
    begin = ("torch", tmp_path / "in.npz", "--to", "mlx")
    shared = ("--params", tmp_path / "params.safetensors")
    names = ("--names", tmp_path / "names.json")
    out = ("--out", tmp_path / "out.npz")
    for words, status, text in (
        ((*shared, *names, "--out", tmp_path / "there.npz"), 2, "exists"),
        ((*shared, *names, "--out", tmp_path / "no" / "x.npz"), 2, "no folder"),
        ((*shared, *out, "--names", tmp_path / "bad.json"), 2, "is no JSON"),
        ((*shared, *out, "--names", tmp_path / "three.json"), 2, "a list or a mapping"),
        ((*shared, *out, "--names", tmp_path / "gone.json"), 2, "error: There is no"),
        ((*shared, *out, "--names", tmp_path), 2, "cannot be read"),
        ((*shared, *names, *out, "--drop", "emma"), 2, "`--drop` must be one of"),
        ((*shared, *out), 1, "has its parameters in an order"),
        ((*out, *names, "--params", tmp_path / "gone.npz"), 1, "There is no file"),
        ((*out, *names, "--params", tmp_path / "there.npz"), 1, "is no whole .npz"),
        ((*shared, *names, "--out", tmp_path / "out.txt"), 2, "ends in .pt"),
    ):
        assert convert(*begin, *words) == status
        error = capsys.readouterr().err
        assert error.startswith("optadamw convert: error: ") and text in error
    assert (tmp_path / "there.npz").read_bytes() == b"mine"
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(SystemExit) as stop:
        convert(*begin, *shared, *out, "--accumulate", "0")
    assert stop.value.code == 2
    assert "must be a whole number >= 1; got '0'" in capsys.readouterr().err
    force = (*begin, *shared, *names, "--out", tmp_path / "there.npz", "--force")
    assert convert(*force) == 0
    keras = interchange.to_keras(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "keras.npz", keras)
    assert (
        convert("keras", tmp_path / "keras.npz", *begin[2:], *shared, *names, *out) == 1
    )
    assert "--learning-rate" in capsys.readouterr().err


def test_groups_that_do_not_agree(tmp_path, capsys):
    tx, params, state = prepared(tmp_path, mask="*/kernel")
    saved = interchange.to_torch(state, params, tx=tx)
    files.write(tmp_path / "in.npz", saved)
    (tmp_path / "names.json").write_text(json.dumps(["a/kernel", "b/kernel", "scale"]))
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "optimi")
    words += ("--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    assert "different numbers for `weight_decay`" in capsys.readouterr().err
    assert convert(*words, "--weight-decay", "0.5") == 0
    group = files.read(tmp_path / "out.npz")["param_groups"][0]
    assert group["weight_decay"] == 0.5 and group["lr"] == cases.RATE
    assert group["beta1"] == cases.B1


def test_what_is_dropped_on_the_way(tmp_path, capsys):
    scale = optadamw.DynamicLossScale(initial=8.0)
    options = {"accumulate_steps": 2, "ema_decay": 0.5, "loss_scale": scale}
    tx, params, state = prepared(tmp_path, amsgrad="corrected", **options)
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    words = ("optadamw", tmp_path / "own.npz", "--params", tmp_path / "own.npz")
    words += ("--to", "torch", "--to-names", tmp_path / "names.json")
    words += ("--learning-rate", 0.5, "--out", tmp_path / "out.npz")
    for name in ("ema", "accumulator", "loss_scale", "nu_max"):
        assert convert(*words) == 1
        assert f"--drop {name}." in capsys.readouterr().err
        assert not (tmp_path / "out.npz").exists()
        words += ("--drop", name)
    assert convert(*words) == 0
    assert "nu_max" not in capsys.readouterr().out
    found = interchange.from_torch(
        files.read(tmp_path / "out.npz"), params, names=NAMES
    )
    trees.assert_same_bits(found.mu, state.mu)
    assert int(found.step) == 1

    plain = cases.adamw()
    saved = interchange.to_optimi(plain.init(params), params, tx=plain, names=NAMES)
    for entries in saved["state"].values():
        entries["kahan_comp"] = np.ones_like(entries["exp_avg"])
    files.write(tmp_path / "optimi.npz", saved)
    words = ("optimi", tmp_path / "optimi.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "own.npz", "--to", "mlx")
    words += ("--out", tmp_path / "mlx.npz")
    assert convert(*words) == 1
    assert "kahan_comp" in capsys.readouterr().err
    assert convert(*words, "--drop", "kahan_comp") == 0


def test_what_a_checkpoint_of_ours_is_not_asked(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    words = ("optadamw", tmp_path / "own.npz", "--params", tmp_path / "own.npz")
    words += ("--to", "optax", "--out", tmp_path / "out.npz")
    for option, value in (("--transpose", "*"), ("--key", "x")):
        assert convert(*words, option, value) == 1
        assert f"`{option}`: a checkpoint of optadamw" in capsys.readouterr().err


def test_remedies_are_options(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    shared = ("--params", tmp_path / "params.safetensors", "--to", "optadamw")
    shared += ("--out", tmp_path / "out.npz")
    flux = interchange.to_flux(state, params, tx=tx)
    files.write(tmp_path / "flux.npz", flux)
    assert convert("flux", tmp_path / "flux.npz", *shared) == 1
    assert capsys.readouterr().err.endswith("of its AdamW. Give --b1 and --b2.\n")
    tx, params, state = prepared(tmp_path, amsgrad="corrected")
    files.write(tmp_path / "optax.npz", interchange.to_optax(state, params, tx=tx))
    assert convert("optax", tmp_path / "optax.npz", *shared) == 1
    error = capsys.readouterr().err
    assert "--amsgrad corrected, or leave it behind with --drop nu_max." in error
    fewer = {"names": ["b/kernel", None, "a/kernel"]}
    del params["scale"]
    state = cases.adamw().init(params)
    saved = interchange.to_torch(state, params, tx=cases.adamw(), **fewer)
    files.write(tmp_path / "torch.npz", saved)
    (tmp_path / "names.json").write_text('["b/kernel", "scale", "a/kernel"]')
    names = ("--names", tmp_path / "names.json")
    assert convert("torch", tmp_path / "torch.npz", *shared, *names) == 1
    assert "with --missing zeros." in capsys.readouterr().err


def test_other_states_of_optax_are_dropped_by_path(tmp_path, capsys):
    _, params, _ = prepared(tmp_path)
    saved = optax.chain(optax.trace(0.5), optax.adamw(0.5)).init(params)
    files.write(tmp_path / "in.npz", saved)
    words = ("optax", tmp_path / "in.npz", "--to", "flux")
    words += ("--params", tmp_path / "params.safetensors")
    words += ("--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    assert "behind with --drop 0, if" in capsys.readouterr().err
    assert convert(*words, "--drop", "0") == 0


@pytest.mark.parametrize("source", ["torch", "optimi", "torchao", "bitsandbytes"])
def test_a_state_of_another_kind(source, tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    for saved in (interchange.to_optax(state, params, tx=tx), {"a": np.ones(1)}):
        files.write(tmp_path / "in.npz", saved)
        status = convert(
            *(source, tmp_path / "in.npz", "--to", "mlx"),
            *("--params", tmp_path / "params.safetensors"),
            *("--out", tmp_path / "out.npz"),
        )
        error = capsys.readouterr().err
        assert status == 1 and error.count("\n") == 1
        assert "`saved` must be a" in error


@pytest.mark.parametrize("source", ["torch", "optimi"])
def test_states_inside_a_checkpoint(source, tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    peer = cases.PEERS[source]
    one = peer.to(state, params, tx=tx, names=NAMES)
    words = (source, tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "optax")
    words += ("--out", tmp_path / "out.npz", "--force")

    def wrote(whole: Any, *more: str) -> str:
        files.write(tmp_path / "in.npz", whole)
        status = convert(*words, *more)
        output = capsys.readouterr()
        assert (status == 0) == (not output.err)
        return output.out + output.err

    usual = {"model": {"w": np.ones(2)}, "optimizer": one, "epoch": 3}
    text = wrote(usual)
    assert "found under 'optimizer', the only state dict in the file" in text
    found = interchange.from_optax(files.read(tmp_path / "out.npz"), params)
    assert int(found.step) == 3
    assert "found under" not in wrote(usual, "--key", "optimizer")
    text = wrote(usual, "--key", "optimiser")
    assert "holds nothing under 'optimiser'. Near it: 'optimizer'" in text
    text = wrote({"generator": one, "critic": one})
    assert "Say which with --key: generator, critic." in text
    nested = {"optimizer_states": [one, one]}
    assert "step" in wrote(nested, "--key", "optimizer_states/1")
    assert "holds nothing under" in wrote(nested, "--key", "optimizer_states/2")
    assert "`saved` must be a" in wrote(nested)
    assert "It has no keys" in wrote({"a": np.ones(1)}, "--key", "a/b/c")


def test_adam_with_l2_is_not_converted(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    saved["param_groups"][0]["decoupled_weight_decay"] = False
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "mlx")
    assert convert(*words, "--out", tmp_path / "out.npz") == 1
    assert "It is Adam with L2" in capsys.readouterr().err


def test_groups_of_both_signs_are_not_converted(tmp_path, capsys):
    _, params, _ = prepared(tmp_path)
    up = cases.adamw(maximize=True)
    tx = optadamw.param_groups(cases.adamw(), {"scale": up})
    saved = interchange.to_torch(tx.init(params), params, tx=tx)
    files.write(tmp_path / "in.npz", saved)
    (tmp_path / "names.json").write_text('["a/kernel", "b/kernel", "scale"]')
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "torch")
    assert convert(*words, "--out", tmp_path / "out.npz") == 1
    assert "a file has one sign for all" in capsys.readouterr().err


def test_betas_that_are_no_pair(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    saved["param_groups"][0]["betas"] = 0.5
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "mlx")
    assert convert(*words, "--out", tmp_path / "out.npz") == 1
    assert "must be a pair of numbers" in capsys.readouterr().err


@needs_torch
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_records_in_files_of_pytorch(dtype, tmp_path, capsys):
    params = cases.normal(PARAMS, dtype, 0)
    tx = cases.adamw()
    params, state = cases.trained(tx, params, 2)
    saved = interchange.to_optax(state, params, tx=tx)
    files.write(tmp_path / "x.pt", saved)
    found = files.read(tmp_path / "x.pt")
    assert found[0]["mu"]["scale"].dtype == getattr(torch, jnp.dtype(dtype).name)
    trees.assert_same_bits(
        interchange.from_optax(found, params), interchange.from_optax(saved, params)
    )
    files.write(tmp_path / "in.npz", saved)
    written(tmp_path / "p.safetensors", {k: np.asarray(p) for k, p in params.items()})
    words = ("optax", tmp_path / "in.npz", "--params", tmp_path / "p.safetensors")
    assert convert(*words, "--to", "optax", "--out", tmp_path / "out.pt") == 0
    again = interchange.from_optax(files.read(tmp_path / "out.pt"), params)
    trees.assert_same_bits(again, interchange.from_optax(saved, params))


# --- Damaged files of Keras ----------------------------------------------------------


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
        archive.writestr(files.INSIDE, body)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    if what == "deflated":
        start = 30 + len(files.INSIDE)
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
