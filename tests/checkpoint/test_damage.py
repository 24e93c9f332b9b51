"""Damaged checkpoints are noticed, and a process that dies does not make one (F1, F3).

A bit that flips in a file either raises or changes nothing: none gives other numbers.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.checkpoint import arrays as arrays_of_checkpoint
from optadamw.checkpoint import file as file_of_checkpoint
from optadamw.checkpoint.form import KINDS
from optadamw.checkpoint.record import ENTRY
from tests.support import trees

FLIPS = 300
TX = optadamw.adamw(0.1, mu_dtype="bfloat16", ema_decay=0.9, accumulate_steps=3)
PARAMS = trees.normal(trees.MIXED, seed=0)


def _state() -> Any:
    state = TX.init(PARAMS)
    for i in range(4):
        _, state = TX.step(trees.normal(trees.MIXED, seed=1 + i), state, PARAMS)
    return state


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "state.npz"
    checkpoint.save(path, TX, _state(), PARAMS)
    return path


def _flipped(data: bytes, seed: int) -> bytes:
    bit = random.Random(seed).randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _is_the_same(found: Any, whole: checkpoint.Saved) -> bool:
    return (
        found.fields == whole.fields
        and found.meaning == whole.meaning
        and found.arrays.keys() == whole.arrays.keys()
        and all(
            found.arrays[n].dtype == a.dtype
            and found.arrays[n].shape == a.shape
            and found.arrays[n].tobytes() == a.tobytes()
            for n, a in whole.arrays.items()
        )
    )


# --- Bits ----------------------------------------------------------------------------


def test_a_flipped_bit_in_a_file_is_noticed_or_harmless(saved, tmp_path):
    data, whole = saved.read_bytes(), checkpoint.load(saved)
    noticed, path = 0, tmp_path / "flipped.npz"
    for seed in range(FLIPS):
        path.write_bytes(_flipped(data, seed))
        try:
            found = checkpoint.load(path)
        except checkpoint.DamagedCheckpoint:
            noticed += 1
        else:
            assert _is_the_same(found, whole), f"flip {seed} went unnoticed"
    # What is harmless: dates and attributes in the headers of the archive.
    assert noticed > FLIPS * 0.8


def test_a_flipped_bit_in_msgpack_is_noticed(saved):
    """Flax's msgpack has no checksum of its own."""
    whole = checkpoint.load(saved)
    data = flax.serialization.msgpack_serialize(dict(np.load(saved)))
    noticed = 0
    for seed in range(FLIPS):
        try:
            mapping = flax.serialization.msgpack_restore(_flipped(data, seed))
        except Exception:  # more kinds than can be listed
            noticed += 1
            continue
        try:
            found = checkpoint.opened(mapping)
        except checkpoint.DamagedCheckpoint:
            noticed += 1
        else:
            assert _is_the_same(found, whole), f"flip {seed} went unnoticed"
    assert noticed > FLIPS * 0.9


def _flip_an_array(portable: dict[str, np.ndarray], seed: int) -> str:
    names = [name for name, array in portable.items() if array.size]
    name = random.Random(seed).choices(
        names, weights=[portable[n].nbytes for n in names]
    )[0]
    array = portable[name]
    data = _flipped(array.tobytes(), seed)
    portable[name] = np.frombuffer(data, array.dtype).reshape(array.shape)
    return name


def test_every_flipped_bit_of_an_array_is_refused(saved):
    whole = checkpoint.load(saved)
    for seed in range(FLIPS):
        portable = dict(np.load(saved))
        name = _flip_an_array(portable, seed)
        try:
            found = checkpoint.opened(portable)
        except checkpoint.DamagedCheckpoint as error:
            assert "record" in str(error) if name == ENTRY else repr(name) in str(error)
        else:  # "\u00e9" and "\u00E9" are the same text
            assert name == ENTRY and _is_the_same(found, whole)


def test_it_is_the_digest_that_notices(monkeypatch):
    monkeypatch.setattr(arrays_of_checkpoint, "_pieces", lambda array: [])
    state = checkpoint.to_portable(TX, _state(), PARAMS)
    name = next(n for n in state if n.startswith("nu/") and state[n].size)
    state[name] = state[name] + 1
    checkpoint.opened(state)  # silently wrong, as everywhere without a digest


def test_missing_and_other_entries_are_named(saved):
    portable = dict(np.load(saved))
    del portable["nu/kernel"]
    with pytest.raises(checkpoint.DamagedCheckpoint, match="no entry 'nu/kernel'"):
        checkpoint.opened(portable)
    portable = dict(np.load(saved)) | {"mu/kernel": np.zeros(3, np.uint16)}
    with pytest.raises(
        checkpoint.DamagedCheckpoint, match=r"'mu/kernel' .* is uint16\[3\], recorded"
    ):
        checkpoint.opened(portable)
    portable = dict(np.load(saved)) | {"epoch": np.int32(3)}
    _, report = checkpoint.restore(TX, PARAMS, portable)
    assert report.left_over == ("epoch",)


# --- Files ---------------------------------------------------------------------------


def test_a_truncated_file_is_refused(saved, tmp_path):
    data, path = saved.read_bytes(), tmp_path / "short.npz"
    for length in {*range(0, len(data), 97), len(data) - 1}:
        path.write_bytes(data[:length])
        with pytest.raises(
            checkpoint.DamagedCheckpoint,
            match=r"no whole \.npz file.*earlier checkpoint",
        ):
            checkpoint.load(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match=r"no folder '.*none' for .*'x\.npz'"):
        checkpoint.save(tmp_path / "none" / "x.npz", TX, _state())


def test_a_folder_is_refused_as_a_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        checkpoint.load(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        checkpoint.save(tmp_path, TX, _state())
    assert list(tmp_path.parent.glob(f".{tmp_path.name}.*")) == []


def forged(path, **parts):
    """Read a checkpoint with other parts in its record, and the digest of these."""
    portable = dict(np.load(path))
    whole = json.loads(portable[ENTRY].tobytes())
    whole["record"] |= parts
    body = json.dumps(whole["record"], sort_keys=True, separators=(",", ":"))
    whole["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    portable[ENTRY] = np.frombuffer(json.dumps(whole).encode(), np.uint8)
    return checkpoint.opened(portable)


def test_another_format_is_refused_with_its_version(saved):
    with pytest.raises(ValueError, match=r"format 2, written by optadamw 9\.1\.0") as e:
        forged(saved, format=2, library="9.1.0")
    assert not isinstance(e.value, checkpoint.DamagedCheckpoint)


@pytest.mark.parametrize("part", ["library", "entries", "fields", "meaning", "layouts"])
def test_a_record_of_another_form_is_refused(part, saved):
    """A stranger can give any record the digest that fits it."""
    for odd in (None, 3, True, [], [[]], {"": None}, {"": 3}, {"": [3]}, {"": "step"}):
        with pytest.raises(checkpoint.DamagedCheckpoint, match=f"as '{part}'; got"):
            forged(saved, **{part: odd})


@pytest.mark.parametrize(
    "odd",
    [
        {"mu": 3},
        {"nu_max": ["corrected"]},
        {"rules": "adam"},
        {"events": [1]},
        {"blocks": []},
        {"window": 4},
        {"window": {"every": "4"}},
        {"loss_scale": {"counts": 4}},
        {KINDS: ["mu"]},
        {KINDS: {"mu": ["a"]}},
        {KINDS: {"mu": {"a": "w"}}},
    ],
)
def test_a_meaning_of_another_form_is_refused(odd, saved):
    ((name, _),) = odd.items()
    match = f"as 'meaning of {name}'; got"
    with pytest.raises(checkpoint.DamagedCheckpoint, match=match):
        forged(saved, meaning={"": odd})


@pytest.mark.parametrize(
    "entry",
    [[], ["float32", [2]], ["float32", 2, ""], ["float32", [-1], ""], [4, [2], ""]],
)
def test_an_entry_of_another_form_is_refused(entry, saved):
    with pytest.raises(checkpoint.DamagedCheckpoint, match="as 'entries'; got"):
        forged(saved, entries={"step": entry})


def test_parts_of_a_record_that_later_versions_may_add_are_left_alone(saved):
    found = forged(saved, meaning={"": {"mu": "a mean", "later": 3}}, later=[1])
    assert found.meaning[""]["later"] == 3


@pytest.mark.parametrize("where", ["write_array", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_file_before_it(
    where, saved, tmp_path, monkeypatch
):
    path = tmp_path / "state.npz"
    path.write_bytes(saved.read_bytes())
    module = np.lib.format if where == "write_array" else file_of_checkpoint.os

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, where, fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, TX, _state())
    monkeypatch.undo()
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["state.npz"]


def test_a_symbolic_link_stays_one(tmp_path):
    target, link = tmp_path / "real.npz", tmp_path / "latest.npz"
    link.symlink_to(target)
    checkpoint.save(link, TX, _state())
    assert link.is_symlink() and target.is_file()
    assert checkpoint.load(link).steps == {"": 1}


WRITER = """
import sys, jax.numpy as jnp, optadamw
from optadamw import checkpoint
from optadamw.checkpoint.form import KINDS
tx = optadamw.adamw(0.1)
params = {"w": jnp.zeros((256, 1024))}
state = tx.init(params)
for step in range(1, 10_000):
    state = state._replace(step=jnp.int32(step))
    checkpoint.save(sys.argv[1], tx, state, {"w": params["w"] + step})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path, rng = tmp_path / "state.npz", random.Random(0)
    like = {"w": jnp.zeros((256, 1024))}
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        printed = [1, *map(int, process.stdout.read().split())]
        process.wait()
        whole = checkpoint.load(path)
        step = whole.steps[""]
        assert printed[-1] <= step <= printed[-1] + 1
        assert (np.asarray(checkpoint.params_of(whole, like)["w"]) == step).all()
