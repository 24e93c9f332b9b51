"""Every transformation of the suite's table on eight devices stays where it is born.

Each row is tried on Auto and on Explicit axes, with `tx.init` called eagerly, under
`jax.jit`, and under `jax.jit` inside `jax.set_mesh`. The shardings of parameters and
state are equal (`==`) before and after three steps, and these are one program.

A row is a process of its own, because the number of devices is read once.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.campaigns.campaign import Case
from tests.support import trees
from tests.support.trajectories import kinds_of
from tests.support.transformations import ROWS, Row

ROOT = Path(__file__).parents[2]
SHAPES = {"kernel": (64, 64), "bias": (4096,)}
"""Leaves of 4,096 numbers, which `blockwise()` keeps in 8 bits."""
LAYOUTS = (
    ("Auto", {"kernel": P("data"), "bias": P("data")}),
    ("Auto", {"kernel": P(None, "data"), "bias": P()}),
    # On explicit axes JAX itself makes P("data", None) of a result at P("data").
    ("Explicit", {"kernel": P(None, "data"), "bias": P("data")}),
)
WAYS = ("eager", "jit", "jit in the mesh")


def cases(full: bool) -> Iterator[Case]:
    """All rows; in the short form the one with all options that an element has."""
    for row in ROWS:
        if full or row.name == "adamw-everything_elementwise":
            yield Case(row.name, partial(_stays, row.name))


def _stays(name: str) -> None:
    flags = "--xla_force_host_platform_device_count=8"
    ran = subprocess.run(
        [sys.executable, "-m", __name__, name],
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def check(row: Row, kind: str, specs: dict[str, P]) -> None:
    """Take three steps from a state of each way of making it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(AxisType, kind),))
    kinds = {n: (dtype, SHAPES[n]) for n, (dtype, _) in kinds_of(row).items()}
    drawn = trees.normal({n: kinds[n] for n in SHAPES}, 0)
    for way in WAYS:
        tx, is_inside = row.make(), way == "jit in the mesh"
        with jax.set_mesh(mesh) if is_inside else contextlib.nullcontext():
            params = {
                name: jax.device_put(x, NamedSharding(mesh, specs[name]))
                for name, x in drawn.items()
            }
            state = (tx.init if way == "eager" else jax.jit(tx.init))(params)
            if way != "jit":  # which goes on with the program of the eager way
                step = jax.jit(lambda g, s, p, tx=tx: tuple(tx.step(g, s, p)))
            pair: Any = params, state
            before = jax.tree.map(lambda x: x.sharding, pair)
            for _ in range(3):
                pair = step(params, pair[1], pair[0])
            after = jax.tree.map(lambda x: x.sharding, pair)
            told = f"{row.name}, {kind}, {specs}, {way}"
            assert after == before, f"{told}: {before} becomes {after}"
            assert step._cache_size() == 1, f"{told}: {step._cache_size()} programs"


def main(name: str) -> None:
    """Check one row on all layouts."""
    assert len(jax.devices()) == 8
    (row,) = (row for row in ROWS if row.name == name)
    for kind, specs in LAYOUTS:
        check(row, kind, specs)


if __name__ == "__main__":
    main(*sys.argv[1:])
