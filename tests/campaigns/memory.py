"""Resident memory stays flat over many transformations, steps, and saved files.

Each case is a process of its own, which reads its resident memory after a first share
of its work, when all caches are full, and at the end. Linux counts it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import optadamw
from optadamw import checkpoint
from tests.campaigns.campaign import Case

ROOT = Path(__file__).parents[2]
STATM = Path("/proc/self/statm")
PARAMS = {"w": jnp.ones((16, 16)), "b": jnp.ones(16)}

ALLOWED = 12.0
"""MiB that the allocator may keep between the two readings; a compiled step has 2 to 3
MiB, and 9,000 steps that lose one state each would keep 20 MiB."""


def compiled_by_us(turn: int, turns: int) -> None:
    """Make a transformation that no other equals, and compile its step."""
    tx = optadamw.adamw(1e-3 * (1 + turn / turns))
    tx.jit_step(PARAMS, tx.init(PARAMS), jax.tree.map(jnp.copy, PARAMS))


def compiled_by_the_user(turn: int, turns: int) -> None:
    """Make one and compile its step with `jax.jit`, as a loop over rates does."""
    tx = optadamw.adamw(1e-3 * (1 + turn / turns))
    jax.jit(tx.step)(PARAMS, tx.init(PARAMS), PARAMS)


def eager(turn: int, turns: int) -> None:
    """Make one and step without jit: all share the compiled functions of a leaf."""
    tx = optadamw.adamw(1e-3 * (1 + turn / turns))
    tx.step(PARAMS, tx.init(PARAMS), PARAMS)


class Training:
    """A training with all that keeps state."""

    def __init__(self) -> None:
        self.tx = optadamw.adamw(
            1e-3,
            **{"accumulate_steps": 2, "stats": True, "skip_nonfinite": True},
            ema_decay=0.9,
        )
        self.params = jax.tree.map(jnp.copy, PARAMS)
        self.state = self.tx.init(self.params)

    def __call__(self, turn: int, turns: int) -> None:
        """Take one step; report now and then."""
        del turns
        self.params, self.state = self.tx.jit_step(PARAMS, self.state, self.params)
        if turn % 100 == 0:
            optadamw.stats_of(self.state, self.tx)
            optadamw.describe(self.tx, PARAMS)


class Files:
    """A state that is saved and restored again and again."""

    def __init__(self) -> None:
        self.tx = optadamw.adamw(1e-3, ema_decay=0.9)
        self.state = self.tx.init(PARAMS)
        self.folder = tempfile.TemporaryDirectory()

    def __call__(self, turn: int, turns: int) -> None:
        """Save, load and restore once."""
        del turn, turns
        path = Path(self.folder.name) / "state.npz"
        checkpoint.save(path, self.tx, self.state, PARAMS)
        self.state, _ = checkpoint.restore(self.tx, PARAMS, checkpoint.load(path))


WORK: dict[str, tuple[Callable[[], Callable[[int, int], None]], int, int]] = {
    "transformations, jit_step": (lambda: compiled_by_us, 100, 1000),
    "transformations, jax.jit": (lambda: compiled_by_the_user, 300, 1000),
    "transformations, eager": (lambda: eager, 100, 1000),
    "steps": (Training, 1000, 10_000),
    "files": (Files, 100, 1000),
}
"""By name: the work, turns until all caches are full, and turns in all. JAX keeps the
programs of 256 functions, and we those of 16 transformations."""
SHORT = {"transformations, jit_step": (18, 26)}
"""What the short form runs, and how long."""


def cases(full: bool) -> Iterator[Case]:
    """Run each work in a process of its own; nothing where memory is not counted."""
    if not STATM.exists():
        return
    turns = {name: turns for name, (_, *turns) in WORK.items()} if full else SHORT
    for name, (warm, last) in turns.items():
        yield Case(name, partial(_grown, name, warm, last))


def _grown(name: str, warm: int, turns: int) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", __name__, name, str(warm), str(turns)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    first, last = map(float, ran.stdout.split())
    told = f"{turns} turns, {first:.0f} MiB after {warm}, {last:.0f} MiB at the end"
    assert last - first < ALLOWED, told
    return told


def resident() -> float:
    """Return the resident memory of this process, in MiB."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def main(name: str, warm: str, turns: str) -> None:
    """Do one work, and print resident memory after `warm` turns and at the end."""
    work = WORK[name][0]()
    for turn in range(int(turns)):
        if turn == int(warm):
            print(resident())
        work(turn, int(turns))
    print(resident())


if __name__ == "__main__":
    main(*sys.argv[1:])
