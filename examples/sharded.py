"""Train with JAX alone on 8 devices: FSDP over two of them, ZeRO-1 over four groups.

Run as a script it makes 8 devices of the CPU. On a real machine leave out that line.
"""

import functools

import bare_jax
import digits
import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw


def shardings(mesh, params):
    """Return the layout of the parameters: kernels are cut by their rows over fsdp."""
    return jax.tree.map(
        lambda x: NamedSharding(mesh, P("fsdp") if x.ndim > 1 else P()), params
    )


def main():
    """Train, print and return the test accuracy."""
    training, (images, labels) = digits.load()
    shape = (jax.device_count() // 2, 2)
    mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    params = bare_jax.initialize(jax.random.key(0), sizes=(64, 128, 16))
    layout = shardings(mesh, params)
    params = jax.device_put(params, layout)
    tx = optadamw.adamw(
        3e-3, weight_decay=0.1, mask="*/kernel", zero1="data", zero1_layout=layout
    )
    print(optadamw.memory_plan(tx, params, temporaries=False))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, labels):
        grads = jax.grad(bare_jax.loss)(params, images, labels)
        return tx.step(grads, state, params)

    state = tx.init(params)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    for batch in digits.batches(training):
        params, state = step(params, state, *jax.device_put(batch, rows))
        # Devices of one CPU share its threads: steps that wait for each other's
        # collectives can use them up. Real devices need no such wait.
        jax.block_until_ready(params)
    optadamw.check_sharding(params, layout)
    optadamw.check_sharding(state, optadamw.state_sharding(tx, params))
    found = bare_jax.logits(params, images).argmax(axis=-1)
    accuracy = float((found == labels).mean())
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()
