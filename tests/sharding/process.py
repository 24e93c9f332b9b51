"""One of several processes of a training; run by `test_processes.py`.

    python -m tests.sharding.process RANK COUNT PORT FOLDER FIRST LAST [killed]

It takes up the training at call FIRST from Orbax's files in FOLDER, goes on to call
LAST, saves there, and prints the digests of the state. With `killed`, the process kills
itself instead of the last call.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw import checkpoint

SHAPES = {"kernel": (48, 16), "bias": (16,)}
BAD = 3
"""The call whose gradient has a NaN, in a part that the last process holds."""


def global_array(path: str, seed: int, sharding: Any, fault: bool = False) -> Any:
    """An array over all processes, each of which makes its own parts."""
    rng = np.random.default_rng([seed, len(path)])
    whole = rng.normal(size=SHAPES[path]).astype(np.float32)
    if fault:
        whole[-1] = np.nan
    return jax.make_array_from_callback(whole.shape, sharding, lambda i: whole[i])


def train(folder: Path, first: int, last: int, killed: bool) -> dict[str, str]:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    layout = {name: NamedSharding(mesh, P()) for name in SHAPES}
    params = {name: global_array(name, 0, layout[name]) for name in SHAPES}
    tx = optadamw.adamw(
        0.1,
        accumulate_steps=2,
        skip_nonfinite=True,
        ema_decay=0.9,
        zero1="data",
        zero1_layout=layout,
    )
    state = tx.init(params)
    if first:
        params, state = _restored(folder / str(first), tx, layout)
    step = jax.jit(lambda p, s, g: tuple(tx.step(g, s, p)), donate_argnums=(0, 1))
    parts = {"kernel": NamedSharding(mesh, P("data")), "bias": layout["bias"]}
    for call in range(first, last):
        if killed and call == last - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        grads = {
            name: global_array(
                name, 1 + call, parts[name], name[0] == "k" and call == BAD
            )
            for name in SHAPES
        }
        params, state = step(params, state, grads)
        assert step._cache_size() == 1
    tree = {"params": params, "state": state}
    optadamw.check_sharding(state, optadamw.state_sharding(tx, params))
    found = checkpoint.digests(tree)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as keeper:
        written = ocp.args.Composite(
            tree=ocp.args.StandardSave(tree), digests=ocp.args.JsonSave(found)
        )
        keeper.save(folder / str(last), written)
    return found | {"dropped": str(int(optadamw.stats_of(state).dropped))}


def _restored(folder: Path, tx: Any, layout: Any) -> Any:
    shapes = {
        name: jax.ShapeDtypeStruct(shape, np.float32, sharding=layout[name])
        for name, shape in SHAPES.items()
    }
    target = {"params": shapes, "state": optadamw.state_shapes(tx, shapes)}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as keeper:
        read = ocp.args.Composite(
            tree=ocp.args.StandardRestore(target), digests=ocp.args.JsonRestore()
        )
        found = keeper.restore(folder, read)
    checkpoint.verify(found.tree, found.digests)
    return found.tree["params"], found.tree["state"]


def main() -> None:
    rank, count, port, folder, first, last, *killed = sys.argv[1:]
    if int(count) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(rank))
    found = train(Path(folder), int(first), int(last), bool(killed))
    print("digests", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
