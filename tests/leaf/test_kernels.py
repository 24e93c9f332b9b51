"""Kernels by themselves: tiles, platforms, shards, transformations of JAX."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw.leaf.pallas.layout import Layout
from optadamw.leaf.pallas.shards import divides
from optadamw.leaf.pallas.tiles import LANES, ROWS, THREADS, VMEM, tiling
from tests.support import lane, trees

EIGHT = optadamw.blockwise(min_size=0)
SIXTEEN = optadamw.stochastic("bfloat16")
SHAPES = [
    *[(8192, 8192), (50304, 768), (768, 3072), (12, 768, 768), (3, 3, 512, 512)],
    *[(4096, 32, 128), (64, 5), (128, 50257), (2, 3, 4, 32, 64)],
]


def adamw(**options):
    return optadamw.adamw(1e-2, **({"mu_dtype": EIGHT, "nu_dtype": EIGHT} | options))


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tile_of_a_tpu_holds_whole_blocks_and_fits(shape):
    width = 20
    view, tile, part = cut = tiling("tpu", shape, -2, 32, width)
    assert view == shape and len(tile) == len(cut.grid) == len(shape)
    for size, unit, whole in zip(
        tile[-2:], (ROWS * 32, LANES), shape[-2:], strict=True
    ):
        assert size == whole or size % unit == 0
    numbers = int(np.prod(tile))
    assert numbers * width * 2 <= VMEM or tile[-2:] == (ROWS * 32, LANES)
    assert numbers * int(np.prod(cut.grid)) >= np.prod(shape)
    assert all(size % own == 0 for size, own in zip(tile, part, strict=True))
    if tile[-2] % 256 == 0 and tile[-1] % LANES == 0:
        assert int(np.prod(part)) == 256 * LANES
    else:
        assert part == tile


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("shape", [*SHAPES, (1030,)])
def test_a_tile_of_a_gpu_is_a_power_of_two(shape, axis):
    view, tile, part = tiling("gpu", shape, axis if len(shape) > 1 else -1, 32, 20)
    assert part == tile
    assert all(size & (size - 1) == 0 for size in tile)
    assert np.prod(tile) <= THREADS and np.prod(view) == np.prod(shape)
    assert len(shape) == 1 or tile[axis] >= min(32, shape[axis])


TILES = [(2048, 200), (3, 64, 136), (2, 3, 32, 130)]
PARTS = [(2304, 256), (2, 3, 256, 128), (512, 384)]


@pytest.mark.parametrize("shape", [*TILES, *PARTS])
def test_many_tiles_give_the_bits_of_the_plain_step(shape):
    """Also tiles that stick out of the leaf, and parts of tiles."""
    plain = adamw(b1=0.5, b2=0.5, weight_decay=0.5, eps=0.5)
    tiled = optadamw.with_pallas(plain, interpret=True)
    # Powers of two everywhere: no product is rounded, so that nothing depends on which
    # products XLA contracts.
    grads = {"w": jnp.sign(normal(shape))}
    params = {"w": 2.0 ** jnp.round(normal(shape, 1))}
    found, expected = (
        jax.jit(tx.step)(grads, tx.init(params), params) for tx in (tiled, plain)
    )
    trees.assert_same_bits(found[1], expected[1])
    np.testing.assert_allclose(found[0]["w"], expected[0]["w"], rtol=1e-6)


def has_kernel(tx, mesh=None):
    sharding = None if mesh is None else NamedSharding(mesh, P())
    params = {"w": jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=sharding)}
    jaxpr = jax.make_jaxpr(tx.step)(params, jax.eval_shape(tx.init, params), params)
    return "optadamw_leaf" in str(jaxpr)


def mesh_of(platform, kind="Auto", size=1):
    device = None if platform is None else AbstractDevice(platform, None, platform)
    types = (getattr(AxisType, kind),)
    return AbstractMesh((size,), ("data",), axis_types=types, abstract_device=device)


@pytest.mark.parametrize(
    ("options", "tpu", "gpu"),
    [
        ({}, True, True),
        ({"mu_dtype": optadamw.blockwise(min_size=0, axis=-1)}, False, False),
        ({"mu_dtype": SIXTEEN, "nu_dtype": SIXTEEN}, True, False),
        ({"mu_dtype": None, "nu_dtype": None}, False, False),
        ({"clip_norm": 1.0}, False, False),
        ({"stats": "norms"}, False, False),
    ],
)
def test_which_platforms_have_a_kernel_by_default(options, tpu, gpu):
    """Arrays show their platform; for those of a CPU no kernel is traced."""
    tx = adamw(**options)
    for platform, has in (("tpu", tpu), ("gpu", gpu), ("cpu", False)):
        assert has_kernel(tx, mesh_of(platform)) == has
        assert not has_kernel(
            optadamw.with_pallas(tx, enabled=False), mesh_of(platform)
        )
    assert not has_kernel(tx)  # JAX's default platform is a CPU here


@pytest.mark.parametrize("cautious", [None, True])
def test_a_step_lowers_to_a_kernel_for_a_tpu_and_to_none_for_a_cpu(cautious):
    tx = optadamw.with_pallas(adamw(cautious_weight_decay=cautious))
    params = {"w": jax.ShapeDtypeStruct((64, 128), jnp.float32)}
    args = params, jax.eval_shape(tx.init, params), params
    for platform, has in (("tpu", True), ("cpu", False)):
        check = export.DisabledSafetyCheck.custom_call("tpu_custom_call")
        made = export.export(
            jax.jit(tx.step), platforms=[platform], disabled_checks=[check]
        )(*args)
        assert ("tpu_custom_call" in made.mlir_module()) == has


def test_a_step_with_kernels_is_mapped_and_differentiated_as_the_plain_one():
    """On a CPU, to which the operation lowers as XLA's own code."""
    plain = adamw(mu_dtype=None, nu_dtype=SIXTEEN)
    tx = optadamw.with_pallas(plain)
    params, grads = {"w": normal((4, 64, 8))}, {"w": normal((4, 64, 8), 1)}
    one = {"w": params["w"][0]}
    assert "optadamw_leaf" in str(jax.make_jaxpr(tx.step)(one, tx.init(one), one))

    def mapped(tx):
        state = jax.vmap(tx.init)(params)
        return jax.jit(jax.vmap(tx.step))(grads, state, params)

    trees.assert_same_bits(mapped(tx), mapped(plain))

    def slope(tx):
        state = tx.init(one)
        loss = lambda g: jnp.sum(tx.update({"w": g}, state, one)[0]["w"] ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(grads["w"][0])

    np.testing.assert_allclose(slope(tx), slope(plain), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "yes"),
    [
        (P(), True),
        (P("data"), True),
        (P(None, "data"), True),
        (P(("data", "model")), False),  # 8 parts of 4 blocks
        (P("data", "model"), True),
        (P(None, ("data", "model")), False),  # 36 columns
        (P("data", None, "model"), False),
    ],
)
def test_which_shardings_divide_a_leaf(spec, yes):
    mesh = AbstractMesh((4, 2), ("data", "model"))
    layout = Layout((128, 36), (4, 36), 32, -2)
    assert divides(layout, NamedSharding(mesh, spec)) == yes


@pytest.mark.parametrize("cases", ["short", "long"])
def test_the_kernels_of_shards_on_eight_devices(cases):
    """The first in the short lane, the second in the long one."""
    flags = "--xla_force_host_platform_device_count=8"
    lane.run(Path(__file__).with_name("eight_devices.py"), flags, cases)


def test_shardings_that_do_not_belong_to_the_parameters():
    mesh = jax.make_mesh((1,), ("data",))
    params = {"w": jnp.ones((64, 64)), "v": jnp.ones(64)}
    with pytest.raises(TypeError, match=r"`shardings\['w'\]` must be a tree of Named"):
        optadamw.with_pallas(adamw(), shardings={"w": P("data")})
    known = {"w": NamedSharding(mesh, P("data"))}
    tx = optadamw.with_pallas(adamw(), shardings=known)
    with pytest.raises(ValueError, match="Leaf 'v': it has no sharding in `shardings`"):
        tx.init(params)
    long = known | {"v": NamedSharding(mesh, P(None, "data"))}
    tx = optadamw.with_pallas(adamw(), shardings=long)
    with pytest.raises(ValueError, match=r"Leaf 'v': its sharding .* has more axes"):
        tx.init(params)


def test_what_describe_says_of_kernels():
    params = {"w": jnp.ones((64, 64)), "e": jnp.ones((29, 64)), "v": jnp.ones(64)}
    text = optadamw.describe(adamw(), params)
    assert "on a TPU: 1 of 3 parameters run in Pallas kernels" in text
    assert "-  not e: its blocks lie along the last axis" in text
    assert "-  not v: it has one axis" in text
    assert "on an NVIDIA GPU: 3 of 3 parameters run in Pallas kernels" in text
    off = optadamw.describe(optadamw.with_pallas(adamw(), enabled=False), params)
    assert "-  not e, v, w: with_pallas(enabled=False)" in off
    assert "Pallas" not in optadamw.describe(optadamw.adamw(1e-3), params)
    wide = NamedSharding(mesh_of(None, size=4), P("data"))
    shapes = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=wide)}
    assert "cuts blocks" in optadamw.describe(adamw(), shapes)  # 2 blocks, 4 devices
    tx = optadamw.with_pallas(adamw(), shardings={"w": wide})
    assert "cuts blocks" in optadamw.describe(tx, shapes)


@pytest.mark.parametrize(
    ("specs", "kernels"), [((P(), P(None, None)), 2), ((P(), P(None, "data")), 0)]
)
def test_what_describe_says_of_kernels_over_auto_axes(specs, kernels):
    mesh = mesh_of(None, size=4)
    shardings = dict(zip("vw", (NamedSharding(mesh, s) for s in specs), strict=True))
    shapes = {
        name: jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=sharding)
        for name, sharding in shardings.items()
    }
    text = optadamw.describe(adamw(), shapes)
    assert f"on a TPU: {kernels} of 2 parameters run in Pallas kernels" in text
    several = "-  not v, w: over Auto axes, parameters of one shape are divided in"
    assert (several in text) == (kernels == 0)
    text = optadamw.describe(optadamw.with_pallas(adamw(), shardings=shardings), shapes)
    assert "on a TPU: 2 of 2 parameters run in Pallas kernels" in text


def test_pallas_is_not_imported_for_a_step_on_a_cpu():
    code = (
        "import sys, jax.numpy as jnp, optadamw\n"
        "tx = optadamw.adamw(1e-3, precision='compact')\n"
        "p = {'w': jnp.ones((64, 64), jnp.bfloat16)}\n"
        "tx.step(p, tx.init(p), p)\n"
        "assert 'jax.experimental.pallas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
