"""A model of 7B parameters on 256 chips: it compiles, and takes the planned bytes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from benchmarks.topology import modules, traffic
from optadamw.cli.memory.shapes import decoder
from optadamw.store.layout import fsdp
from tests.topology.test_compiled import mesh_of, without_cache

__all__ = ["without_cache"]  # a fixture of each test here

BIG = ("v5e:16x16", "h100:1x32x8")
OPTIONS = {"skip_nonfinite": True, "clip_global_norm": 1.0}
# A TPU keeps arrays in tiles of 8 x 128 numbers: the smallest parts are padded.
PADDING = {"v5e:16x16": 1e-3, "h100:1x32x8": 0.0}


def compiled(mesh, params, **options):
    """A donated step, its plan, and what the module communicates."""
    tx = optadamw.adamw(1e-3, **OPTIONS, **options)
    plan = optadamw.memory_plan(tx, params, temporaries=False)
    state = optadamw.state_shapes(tx, params)
    step = jax.jit(
        lambda params, state, grads: tuple(tx.step(grads, state, params)),
        donate_argnums=(0, 1),
        out_shardings=jax.tree.map(lambda x: x.sharding, (params, state)),
    )
    made = step.lower(params, state, params).compile()
    return plan, made.memory_analysis(), traffic.of(modules.parse(made.as_text()))


def shapes(mesh, without=()):
    return {
        name: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=fsdp(x.shape, mesh, without)
        )
        for name, x in decoder(7e9, jnp.float32).items()
    }


def assert_as_planned(name, plan, found):
    planned = plan.persistent.per_device + plan.shares["gradients"].per_device
    more = found.argument_size_in_bytes - planned
    assert 0 <= more <= PADDING[name] * planned
    kept = plan.persistent.per_device
    assert found.alias_size_in_bytes >= kept * (1 - 1e-3)


@pytest.mark.parametrize("name", BIG)
def test_fsdp_sums_one_number(name):
    mesh = mesh_of(name)
    plan, memory, moved = compiled(mesh, shapes(mesh))
    assert plan.count > 6.5e9 and plan.devices == 256
    assert_as_planned(name, plan, memory)
    assert set(moved.collectives) == {"all-reduce"}
    assert moved.collective_bytes["all-reduce"] <= 8
    assert memory.temp_size_in_bytes < 0.02 * plan.persistent.per_device


@pytest.mark.parametrize("name", BIG)
def test_zero1_beside_fsdp_gathers_each_parameter_once(name):
    one = mesh_of(name)
    mesh = Mesh(one.devices.reshape(16, 16), ("data", "fsdp"))
    params = shapes(mesh, without=("data",))
    layout = jax.tree.map(lambda x: x.sharding, params)
    options = {"zero1": "data", "zero1_layout": layout}
    plan, memory, moved = compiled(mesh, params, **options)
    moments = plan.shares["mu"]
    assert moments.per_device == pytest.approx(moments.total / 256, rel=1e-3)
    assert_as_planned(name, plan, memory)
    assert moved.collectives["all-gather"] == len(params)
    gathered = moved.collective_bytes["all-gather"]
    assert gathered == plan.shares["parameters"].per_device


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2}], ids=str)
def test_zero1_scatters_each_gradient_and_gathers_each_parameter(dtype, options):
    """A data-parallel step: sums divided over the devices, parameters gathered back.

    XLA has the choice: libtpu makes a reduce-scatter of the sum and its division on
    this topology, and an all-reduce and a slice on others, such as v5e:4x4.
    """
    mesh = mesh_of("v5e:2x4")
    whole, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    leaf = jax.ShapeDtypeStruct((1024, 1024), dtype, sharding=whole)
    params = {f"w{i}": leaf for i in range(4)}
    batch = jax.ShapeDtypeStruct((512, 1024), dtype, sharding=divided)
    layout = jax.tree.map(lambda x: x.sharding, params)
    commit = None if dtype == "float32" else "stochastic"
    options = options | {"zero1": "data", "zero1_layout": layout, "commit": commit}
    tx = optadamw.adamw(1e-3, **options)
    state = optadamw.state_shapes(tx, params)

    def loss(params, x):
        for kernel in params.values():
            x = jnp.tanh(x @ kernel)
        return jnp.mean(x.astype(jnp.float32) ** 2)

    step = jax.jit(
        lambda params, state, x: tuple(
            tx.step(jax.grad(loss)(params, x), state, params)
        ),
        donate_argnums=(0, 1),
        out_shardings=jax.tree.map(lambda x: x.sharding, (params, state)),
    )
    text = step.lower(params, state, batch).compile().as_text()
    moved = traffic.of(modules.parse(text))
    # XLA may join several small sums.
    assert 1 <= moved.collectives["reduce-scatter"] <= len(params)
    assert moved.collective_bytes["all-reduce"] <= 8
    assert moved.collectives["all-gather"] == len(params)
    size = len(params) * 1024 * 1024 * leaf.dtype.itemsize
    assert moved.collective_bytes["all-gather"] == size
    assert moved.collective_bytes["reduce-scatter"] == size // 8
