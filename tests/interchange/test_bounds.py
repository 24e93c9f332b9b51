"""Files from strangers take no more memory and no more time than their size allows."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optadamw import checkpoint
from optadamw.checkpoint.bounds import TooLarge
from optadamw.dialects.files import files
from optadamw.dialects.files.refusing import DamagedFile
from tests.interchange.files import convert
from tests.support.memory import under_limit

GIB = 1 << 30


def _header(shape: tuple[int, ...]) -> bytes:
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape})
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def npz_inflating(path: Path) -> None:
    """1 GiB of zeros in 1 MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("w.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(_header((GIB // 4,)))
        for _ in range(64):
            entry.write(bytes(GIB // 64))


def npz_announcing(path: Path) -> None:
    """A header of 6 GiB without the numbers."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", _header((6 * GIB // 4,)) + bytes(64))


def h5_announcing(path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(path, "w") as file:
        store = file.create_group("optimizer/vars")
        store.create_dataset("0", shape=(6 * GIB // 4,), dtype="f4", chunks=(1 << 20,))


def keras_inflating(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("model.weights.h5", "w", force_zip64=True) as entry,
    ):
        for _ in range(64):
            entry.write(bytes(GIB // 64))


def pt_expanded(path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({"w": torch.ones(1).expand(6 * GIB // 4)}, path)


BOMBS: dict[str, Any] = {
    "x.npz": npz_inflating,
    "y.npz": npz_announcing,
    "x.h5": h5_announcing,
    "x.keras": keras_inflating,
    "x.pt": pt_expanded,
}

READ = (
    under_limit(256)
    + """
try:
    files.read(sys.argv[1])
except ValueError as error:
    print(type(error).__name__, error)
"""
)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="Linux counts memory"
)
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory(name, tmp_path):
    path = tmp_path / name
    BOMBS[name](path)
    assert path.stat().st_size < 8 << 20
    ran = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(("TooLarge", "DamagedFile")), ran.stdout
    assert str(path) in ran.stdout


def test_a_limit_is_lifted_by_its_option(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, w=np.zeros(1 << 20, np.float32))
    monkeypatch.setattr("optadamw.checkpoint.bounds.SMALL", 1 << 16)
    with pytest.raises(TooLarge, match=r"4,194,\d+ bytes, more than 20 times"):
        files.read(path)
    assert files.read(path, is_limited=False)["w"].shape == (1 << 20,)


def test_a_checkpoint_is_limited_too(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, w=np.zeros(1 << 20, np.float32))
    monkeypatch.setattr("optadamw.checkpoint.bounds.SMALL", 1 << 16)
    with pytest.raises(TooLarge, match=r"load\(path, is_limited=False\)"):
        checkpoint.load(path)
    with pytest.raises(checkpoint.DamagedCheckpoint, match="no entry"):
        checkpoint.load(path, is_limited=False)


def test_the_command_lifts_its_limit(tmp_path, monkeypatch, capsys):
    path, params = tmp_path / "x.npz", tmp_path / "p.npz"
    np.savez_compressed(path, w=np.zeros(1 << 20, np.float32))
    np.savez(params, w=np.zeros(2, np.float32))
    monkeypatch.setattr("optadamw.checkpoint.bounds.SMALL", 1 << 16)
    words = ("mlx", path, "--to", "flux", "--out", tmp_path / "o.npz")
    assert convert(*words, "--params", params) == 1
    assert "--no-limit" in capsys.readouterr().err
    assert convert(*words, "--params", params, "--no-limit") == 1
    assert "--no-limit" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["FILE", "--params", "--names"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(option, kind, tmp_path, capsys):
    good = tmp_path / "good.npz"
    np.savez(good, w=np.zeros(2, np.float32))
    odd = tmp_path / "odd.npz"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero")
    given = {"FILE": good, "--params": good, "--names": None, option: odd}
    words = ["torch", given["FILE"], "--to", "flux", "--out", tmp_path / "o.npz"]
    words += ["--params", given["--params"]]
    words += ["--names", odd] if option == "--names" else []
    assert convert(*words) in (1, 2)
    assert f"'{odd}' is a {kind}" in capsys.readouterr().err
    if option == "FILE":
        with pytest.raises(OSError, match=f"is a {kind}"):
            checkpoint.load(odd)


def _in_itself() -> list[Any]:
    made: list[Any] = []
    made.append({"w": made})
    return made


def _doubled() -> list[Any]:
    """2^60 numbers in a file of 2 KB."""
    made: list[Any] = [1.0]
    for _ in range(60):
        made = [made, made]
    return made


def _deep() -> list[Any]:
    made: list[Any] = [1.0]
    for _ in range(200):
        made = [made]
    return made


CONTAINERS = {
    "a container that holds itself": _in_itself,
    "containers of more than 10,000,000 objects": _doubled,
    "containers more than 100 deep": _deep,
}


@pytest.mark.parametrize(("what", "make"), CONTAINERS.items(), ids=CONTAINERS)
def test_containers_without_end(what, make, tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "x.pt"
    torch.save({"state": make(), "param_groups": []}, path)
    with pytest.raises(DamagedFile, match=what):
        files.read(path)
    assert convert("torch", path, "--to", "flux", "--out", tmp_path / "o.npz") == 1
    assert f"error: '{path}' has {what}" in capsys.readouterr().err


def test_containers_that_are_shared(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    betas = (0.9, 0.999)
    saved = {"param_groups": [{"betas": betas} for _ in range(1000)]}
    torch.save(saved, tmp_path / "x.pt")
    assert files.read(tmp_path / "x.pt") == saved


def _to_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def _to_device(entry: Path) -> None:
    entry.unlink()
    entry.symlink_to("/dev/zero")


def _to_other_file(entry: Path) -> None:
    entry.symlink_to(entry.replace(entry.parent.with_name(entry.name)))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_to_pipe, "is a pipe, and no regular file"),
        (_to_device, "is a link to what is not in the folder"),
        (_to_other_file, "is a link to what is not in the folder"),
    ],
)
def test_a_folder_of_orbax_holds_its_files(change, what, tmp_path, capsys):
    """Before, Orbax waited for a pipe for ever."""
    pytest.importorskip("orbax.checkpoint")
    folder = tmp_path / "folder"
    files.write(folder, {"w": np.ones(3, np.float32)})
    assert files.read(folder)["w"].tolist() == [1.0, 1.0, 1.0]
    entry = folder / "_METADATA"
    change(entry)
    params = tmp_path / "p.npz"
    np.savez(params, w=np.ones(3, np.float32))
    words = ("optax", folder, "--to", "flux", "--out", tmp_path / "o.npz")
    assert convert(*words, "--params", params) == 1
    assert f"'{entry}' {what}" in capsys.readouterr().err


# --- Numbers in other files -----------------------------------------------------------


def _external_link(h5py: Any, store: Any, other: Path) -> None:
    store["0"] = h5py.ExternalLink(other, "secret")


def _soft_link(h5py: Any, store: Any, other: Path) -> None:
    store["0"] = h5py.SoftLink("/elsewhere")


def _external_storage(h5py: Any, store: Any, other: Path) -> None:
    raw = [(str(other), 0, 16)]
    store.create_dataset("0", shape=(4,), dtype="f4", external=raw)


def _virtual(h5py: Any, store: Any, other: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(other), "secret", shape=(4,))
    store.create_virtual_dataset("0", layout)


def _group(h5py: Any, store: Any, other: Path) -> None:
    store.create_group("0")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_external_link, "links to another file"),
        (_soft_link, "has a link in place of"),
        (_external_storage, "keeps the numbers of '0' in other files"),
        (_virtual, "keeps the numbers of '0' in other files"),
        (_group, "has no array under '0'"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_numbers_of_another_file_are_not_read(make, words, tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    other, path = tmp_path / "other.h5", tmp_path / "x.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(4, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["elsewhere"] = np.arange(4, dtype=np.float32)
        make(h5py, file.create_group("optimizer/vars"), other)
    with pytest.raises(DamagedFile, match=words):
        files.read(path)


# --- Odd tensors ---------------------------------------------------------------------


def test_a_nested_tensor_is_refused_in_words(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    state = {"step": torch.tensor(1.0), "exp_avg": nested, "exp_avg_sq": nested}
    group = {"params": [0], "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    group |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
    path, params = tmp_path / "x.pt", tmp_path / "p.npz"
    torch.save({"state": {0: state}, "param_groups": [group]}, path)
    np.savez(params, w=np.zeros(2, np.float32))
    words = ("torch", path, "--to", "flux", "--out", tmp_path / "o.npz")
    assert convert(*words, "--params", params) == 1
    assert "optadamw convert: error:" in capsys.readouterr().err


# --- Pickles -------------------------------------------------------------------------

HEX = b"c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R"
for _ in range(3):
    HEX = b"c_codecs\nencode\n" + HEX + b"X\x09\0\0\0hex_codec\x86R"

PICKLES = {
    "lists": (b"(" + b"]" * 10_000 + b"t.", "more than 20 times as many"),
    "numbers": (b"(" + b"K\0" * 30_000 + b"t.", "more than 20 times as many"),
    "a bytearray": (
        b"cbuiltins\nbytearray\nK\xff\x85R.",
        "has a bytearray, whose size",
    ),
    "doubled bytes": (HEX + b".", "has bytes in the encoding 'hex_codec'"),
}
# The same with the encoding, or all arguments, or the function by another way.
PLAIN = b"c_codecs\nencode\nq\0X\x01\0\0\0aX\x06\0\0\0latin1q\x01\x86R"
HEX_TEXT = b"X\x03\0\0\0hexq\x02"
PICKLES |= {
    f"doubled bytes {i}": (
        b"(" + PLAIN + HEX_TEXT + opcodes + b"t.",
        "has bytes in the encoding 'hex'",
    )
    for i, opcodes in enumerate(
        [
            b"h\0" + PLAIN + b"h\x02\x86R",
            b"h\0(" + PLAIN + b"h\x02tR",
            b"h\0" + PLAIN + b"h\x02h\x01\x87R",
            b"h\0](" + PLAIN + b"h\x02eR",
            b"h\0}(" + PLAIN + b"K\x01h\x02K\x01uR",
            b"h\0" + PLAIN + b"h\x02\x86q\x030h\0h\x03R",
            b"ctorch._tensor\n_rebuild_from_type_v2\n(h\0cbuiltins\nbytes\n"
            + PLAIN
            + b"h\x02\x86}tR",
            PLAIN + b"q\x05h\x02q\x01h\0h\x05h\x01\x86R",
        ]
    )
}


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize(("opcodes", "words"), PICKLES.values(), ids=PICKLES)
def test_pickles_are_looked_through(opcodes, words, is_legacy, tmp_path, monkeypatch):
    """One byte makes a list; PyTorch checks what is made, and not how much."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr("optadamw.checkpoint.bounds.SMALL", 1 << 20)
    path = tmp_path / "x.pt"
    pickled = b"\x80\x02" + opcodes
    if is_legacy:
        # A pickle in front of a zip file is the one that PyTorch loads.
        path.write_bytes(pickled)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02N." if is_legacy else pickled)
        archive.writestr("x/version", b"3\n")
    with pytest.raises((TooLarge, DamagedFile), match=words):
        files.read(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickles_of_many_small_tensors_are_read(is_zip, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr("optadamw.checkpoint.bounds.SMALL", 1 << 16)
    saved = {f"layers.{i}.weight": torch.ones(4) for i in range(1000)}
    saved["note"] = b"\xff\x00"  # by an encoding of text
    saved["mesh"] = {"hex": "zip", "bytes": [b"\xff", ("uu", b"\x80" * 300, "latin1")]}
    path = tmp_path / "x.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
    assert len(files.read(path)) == 1002
