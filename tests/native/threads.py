"""A training of 200 steps on eight devices; run by `test_devices.py`.

    NPROC=2 python -m tests.native.threads

Each device waits at the norm of the gradients, in a thread of XLA's pool, on which
kernels run too. The caller waits for each step: XLA's own programs on eight devices of
the CPU come to a stop if eight threads have steps of several programs before them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from tests.support import trees


def main() -> None:
    mesh = jax.make_mesh((8,), ("data",))
    rng = np.random.default_rng(0)
    shapes = {"w": ((2048, 64), P("data")), "b": ((96,), P())}
    params = {
        name: jax.device_put(
            jnp.asarray(rng.normal(size=shape), jnp.float32), NamedSharding(mesh, spec)
        )
        for name, (shape, spec) in shapes.items()
    }
    ends = []
    for kernel in ("native", "xla"):
        tx = optadamw.adamw(1e-3, clip_global_norm=0.1, kernel=kernel)
        end, state, step = params, tx.init(params), jax.jit(tx.step)
        for _ in range(200):
            end, state = jax.block_until_ready(step(end, state, end))
        ends.append((end, state))
    trees.assert_same_bits(*ends)
    print("done", jax.device_count(), flush=True)


if __name__ == "__main__":
    main()
