"""One of two processes of a training; run by `test_devices.py`.

    python -m tests.native.two_processes RANK PORT

Both compare their parts after some steps by kernels with those by XLA.
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from tests.support import trees

SHAPES = {"w": ((256, 8), P("data")), "c": ((64, 8), P(None, "data")), "b": ((5,), P())}


def main() -> None:
    rank, port = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))

        def placed(seed, mesh=mesh):
            rng = np.random.default_rng(seed)
            made = {}
            for name, (shape, spec) in SHAPES.items():
                whole = rng.normal(size=shape).astype("bfloat16")
                sharding = NamedSharding(mesh, spec)
                made[name] = jax.make_array_from_callback(
                    shape, sharding, whole.__getitem__
                )
            return made

        ends = []
        for kernel in ("native", "xla"):
            tx = optadamw.adamw(0.1, precision="compact", kernel=kernel)
            params, step = placed(0), jax.jit(tx.step)
            state = jax.jit(tx.init)(params)
            text = step.lower(placed(1), state, params).compile().as_text()
            assert ("optadamw_step_" in text) == (kernel == "native")
            for seed in (1, 2, 3):
                given = placed(seed), state, params
                params, state = jax.block_until_ready(step(*given))
            ends.append(
                [x.addressable_data(0) for x in jax.tree.leaves((params, state))]
            )
        trees.assert_same_bits(*ends)
    print("done", jax.process_count(), flush=True)


if __name__ == "__main__":
    main()
