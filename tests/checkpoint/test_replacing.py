"""A saved file replaces the one before, keeps its mode, and leaves nothing behind."""

import fcntl
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.checkpoint.replacing import replacing

TX = optadamw.adamw(0.1)
STATE = TX.init({"w": jnp.ones(3)})


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_keeps_its_mode(tmp_path, mode, umask):
    path, before = tmp_path / "state.npz", os.umask(umask)
    try:
        checkpoint.save(path, TX, STATE)
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
        path.chmod(mode)
        checkpoint.save(path, TX, STATE)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_a_file_that_is_written_can_be_read(tmp_path):
    with replacing(tmp_path / "x") as file:
        file.write(b"whole")
        file.seek(1)
        assert file.read(2) == b"ho"
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_a_private_file_is_never_open_to_others(tmp_path, monkeypatch):
    path, seen = tmp_path / "state.npz", []
    checkpoint.save(path, TX, STATE)
    path.chmod(0o600)
    sync = os.fsync

    def look(handle: int) -> None:
        seen.extend(p.stat().st_mode & 0o077 for p in tmp_path.glob(".*.tmp"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", look)
    checkpoint.save(path, TX, STATE)
    assert seen == [0]


def _left(path: Path, name: str) -> Path:
    left = path.with_name(f".{path.name}.{name}.tmp")
    left.write_bytes(b"half")
    return left


def test_the_next_save_removes_a_file_without_a_writer(tmp_path):
    path = tmp_path / "state[1].npz"
    _left(path, "0123456789abcdef")
    other = _left(tmp_path / "other.npz", "0123456789abcdef")
    held = _left(path, "fedcba9876543210")
    with open(held, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        checkpoint.save(path, TX, STATE)
        assert set(tmp_path.iterdir()) == {path, held, other}
    checkpoint.save(path, TX, STATE)
    assert set(tmp_path.iterdir()) == {path, other}


def test_without_locks_only_old_files_are_removed(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "state.npz"
    old, new = (_left(path, name) for name in ("0" * 16, "1" * 16))
    os.utime(old, (time.time() - 7200,) * 2)
    checkpoint.save(path, TX, STATE)
    assert set(tmp_path.iterdir()) == {path, new}


WRITER = """
import sys, time
from pathlib import Path
from optadamw.checkpoint.replacing import replacing

with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_killed_writer_leaves_nothing_for_long(tmp_path):
    path = tmp_path / "state.npz"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        (left,) = tmp_path.iterdir()
        checkpoint.save(path, TX, STATE)
        assert set(tmp_path.iterdir()) == {path, left}, "the writer is alive"
        writer.send_signal(signal.SIGKILL)
    checkpoint.save(path, TX, STATE)
    assert list(tmp_path.iterdir()) == [path]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [(os.mkfifo, "is a pipe, and a file would replace it"), (_socket, "is a socket")],
)
def test_what_is_no_file_is_not_replaced(tmp_path, monkeypatch, make, what):
    """Before, a save to /dev/null replaced the device of the whole machine."""
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    make(Path("state"))
    kind = stat.S_IFMT(os.lstat("state").st_mode)
    with pytest.raises(OSError, match=what):
        checkpoint.save("state", TX, STATE)
    assert stat.S_IFMT(os.lstat("state").st_mode) == kind
    assert os.listdir() == ["state"]


def test_a_link_to_itself_is_not_replaced(tmp_path):
    path = tmp_path / "state.npz"
    path.symlink_to(path)
    with pytest.raises(OSError, match="a symbolic link to itself"):
        checkpoint.save(path, TX, STATE)
    assert path.is_symlink()


def test_a_link_to_no_file_yet_is_followed(tmp_path):
    path = tmp_path / "link.npz"
    path.symlink_to(tmp_path / "state.npz")
    checkpoint.save(path, TX, STATE)
    assert path.is_symlink() and (tmp_path / "state.npz").is_file()


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127], ids=["ascii", "utf-8"])
def test_the_longest_name_that_a_file_system_takes(tmp_path, name):
    path = tmp_path / name
    checkpoint.save(path, TX, STATE)
    digest = hashlib.sha256(name.encode()).hexdigest()
    left = tmp_path / f".{digest}.0123456789abcdef.tmp"
    left.write_bytes(b"half")
    checkpoint.save(path, TX, STATE)
    assert os.listdir(tmp_path) == [name]
