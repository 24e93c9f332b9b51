"""Kill a process while it saves: the last whole checkpoint is there, bit for bit.

The full form kills 100 writers of our files, 100 of Orbax's asynchronous checkpoints,
and a training 100 times, which must end in the bits of one that was never killed.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import optadamw
from optadamw import checkpoint
from tests.campaigns.campaign import Case

ROOT = Path(__file__).parents[2]
SHAPE = (256, 1024)
TX = optadamw.adamw(0.1)

WRITER = """
import sys, jax.numpy as jnp, optadamw
from optadamw import checkpoint
from tests.campaigns import kill
params = {"w": jnp.zeros(kill.SHAPE)}
state = kill.TX.init(params)
save = getattr(kill, sys.argv[1])(sys.argv[2])
for step in range(int(sys.argv[3]), 10_000):
    save(step, state._replace(step=jnp.int32(step)), {"w": params["w"] + step})
    print(step, flush=True)
"""


def to_file(folder: str) -> Callable[..., None]:
    """Save to one file."""

    def save(step: int, state: Any, params: Any) -> None:
        del step
        checkpoint.save(Path(folder) / "state.npz", TX, state, params)

    return save


def from_file(folder: Path) -> checkpoint.Saved:
    """Load the file."""
    return checkpoint.load(folder / "state.npz")


def to_orbax(folder: str) -> Callable[..., None]:
    """Save by Orbax, which writes while the next steps are taken."""
    manager = _manager(Path(folder))

    def save(step: int, state: Any, params: Any) -> None:
        portable = checkpoint.to_portable(TX, state, params)
        manager.save(step, args=ocp.args.StandardSave(portable))

    return save


def from_orbax(folder: Path) -> checkpoint.Saved:
    """Restore the last checkpoint that Orbax finds whole."""
    with _manager(folder) as manager:
        step = manager.latest_step()
        return checkpoint.opened(manager.restore(step, args=ocp.args.StandardRestore()))


def _manager(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=True
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def cases(full: bool) -> Iterator[Case]:
    """Kill writers of files and of Orbax's checkpoints, and trainings."""
    kills = 100 if full else 2
    yield Case("our file", partial(_killed, "file", kills))
    yield Case("Orbax, asynchronous", partial(_killed, "orbax", kills))
    if full:
        yield Case("training", _trained)


def _killed(kind: str, kills: int) -> str:
    rng, last = random.Random(0), 0
    read = {"file": from_file, "orbax": from_orbax}[kind]
    like = {"w": jnp.zeros(SHAPE)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(kills):
            printed = _run(kind, folder, last + 1, rng.uniform(0.0, 0.3))
            saved = read(folder)
            step = saved.steps[""]
            # Orbax's last save may still have been under way; ours had returned.
            least = printed[-1] if kind == "file" else max(last, printed[-1] - 2)
            assert least <= step <= printed[-1] + 1, (number, last, step, printed[-3:])
            found = np.asarray(checkpoint.params_of(saved, like)["w"])
            assert (found == step).all(), f"kill {number}: parameters of another step"
            last = step
        left = [path.name for path in folder.glob(".*.tmp")]
        assert len(left) <= 1, f"writers left {left}"
    return f"{kills} kills, {last} steps, nothing lost"


def _run(kind: str, folder: Path, first: int, seconds: float) -> list[int]:
    """Start a writer, kill it, and return the steps whose saves returned."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, f"to_{kind}", str(folder), str(first)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    # A first checkpoint is whole before the kill: three saves of Orbax's manager,
    # which begins one when the one before has ended.
    begun = [process.stdout.readline() for _ in range(3)]
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait()
    return [int(word) for word in "".join([*begun, rest]).split()]


def _trained() -> str:
    ran = subprocess.run(
        [sys.executable, "examples/interrupted.py", "--kills", "100"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "killed 100 times" in ran.stdout
    return "killed 100 times, the same bits"
