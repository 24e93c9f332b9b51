"""Steps that are compiled for a TPU which is not at hand: what moves, and what waits.

Nothing is executed. A kernel reads and writes each of its arguments once, so what is
asserted is that the leaves are kernels, in place, and that nothing of the size of a
leaf is computed, copied or gathered beside them.
"""

import importlib.util
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw

if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu is not installed", allow_module_level=True)

EIGHT = optadamw.blockwise()
SIXTEEN = optadamw.stochastic("bfloat16")
SHAPE = (8192, 8192)
BLOCKS = {"mu_dtype": EIGHT, "nu_dtype": EIGHT}

ROWS = {
    "8-bit": (jnp.float32, BLOCKS),
    "8-bit, clip, average": (
        jnp.float32,
        {**BLOCKS, "clip_global_norm": 1.0, "ema_decay": 0.9, "amsgrad": True},
    ),
    "compact": (jnp.bfloat16, {"precision": "compact"}),
    "stochastic moments": (jnp.float32, {"mu_dtype": SIXTEEN, "nu_dtype": SIXTEEN}),
    "mixed": (jnp.bfloat16, {"precision": "mixed"}),
    "kahan": (jnp.bfloat16, {"commit": "kahan"}),
}


@pytest.fixture(scope="module")
def topology():
    """Return the devices of a topology by its name."""
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield lambda name: topologies.get_topology_desc(f"{name}:2x2", "tpu").devices
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def chips(topology):
    return topology("v5e")


def compiled(tx, devices, dtype, shape=SHAPE, spec=None, kind="Auto", call=None):
    """A donated step of two leaves: its text, and its memory in bytes per number."""
    wide = spec is not None
    grid = np.array(devices[:4] if wide else devices[:1]).reshape(-1, 2 if wide else 1)
    mesh = Mesh(grid, ("data", "model"), axis_types=(getattr(AxisType, kind),) * 2)
    of = NamedSharding(mesh, spec or P())
    params = {k: jax.ShapeDtypeStruct(shape, dtype, sharding=of) for k in "ab"}

    def placed(x):
        own = x.sharding or NamedSharding(mesh, P())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=own)

    if wide and kind == "Auto":
        tx = optadamw.with_pallas(tx, shardings=dict.fromkeys("ab", of))
    state = jax.tree.map(placed, tx.init(params))
    call = call or (lambda params, state, grads: tx.step(grads, state, params))
    made = jax.jit(call, donate_argnums=(0, 1)).lower(params, state, params).compile()
    memory, numbers = made.memory_analysis(), 2 * math.prod(shape) / grid.size
    kept = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return made.as_text(), memory.temp_size_in_bytes / numbers, kept / numbers


def large(text, least):
    """The results of `least` numbers or more of fusions, copies and collectives."""
    found = []
    for kind, dims, name in re.findall(
        r"= \(?(\w+)\[([\d,]+)\]\S* (fusion|copy|all-gather|all-to-all)\(", text
    ):
        if math.prod(map(int, dims.split(","))) >= least:
            found.append(f"{name} of {kind}[{dims}]")
    return found


@pytest.mark.parametrize("name", ["v5e", "v6e"])
@pytest.mark.parametrize("row", ROWS)
def test_a_step_is_one_kernel_for_each_leaf(topology, row, name):
    dtype, options = ROWS[row]
    tx = optadamw.adamw(1e-3, **options)
    text, temporaries, unaliased = compiled(tx, topology(name), dtype)
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert large(text, math.prod(SHAPE)) == []
    assert temporaries <= 0.2 and unaliased < 0.01


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("spec", [P("data", "model"), P(None, ("data", "model"))])
def test_each_chip_runs_its_shard(chips, kind, spec):
    tx = optadamw.adamw(1e-3, **BLOCKS)
    text, temporaries, unaliased = compiled(
        tx, chips, jnp.float32, spec=spec, kind=kind
    )
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert large(text, math.prod(SHAPE) // 4) == [] and "all-gather" not in text
    assert temporaries <= 0.2 and unaliased < 0.01


@pytest.mark.parametrize("shape", [(48, 768, 768), (3, 3, 2048, 2048), (50304, 768)])
def test_leaves_of_other_shapes(chips, shape):
    tx = optadamw.adamw(1e-3, **BLOCKS)
    text, temporaries, _ = compiled(tx, chips, jnp.float32, shape=shape)
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert temporaries <= 0.2


def test_what_no_kernel_takes_is_noticed_by_these_assertions(chips):
    """Blocks along the last axis: XLA computes, and copies."""
    kept = optadamw.blockwise(axis=-1)
    tx = optadamw.adamw(1e-3, mu_dtype=kept, nu_dtype=kept)
    text, temporaries, _ = compiled(tx, chips, jnp.float32, shape=(4096, 4096))
    assert "tpu_custom_call" not in text
    assert large(text, 4096 * 4096) != [] and temporaries > 1


def test_in_a_scan_under_vmap_and_with_x64(chips):
    tx = optadamw.adamw(1e-3, **BLOCKS)

    def scanned(params, state, grads):
        def turn(carry, _):
            return tx.step(grads, carry[1], carry[0]), None

        return jax.lax.scan(turn, (params, state), None, length=3)[0]

    def mapped(params, state, grads):
        raised = jax.tree.map(lambda x: x[None], (grads, state, params))
        made = jax.vmap(tx.step)(*raised)
        return jax.tree.map(lambda x: x[0], made)

    for call in (scanned, mapped):
        text, _, unaliased = compiled(tx, chips, jnp.float32, call=call)
        assert text.count('custom_call_target="tpu_custom_call"') == 2
        assert unaliased < 0.01
    with jax.enable_x64(True):
        text, temporaries, _ = compiled(tx, chips, jnp.float32)
        assert text.count('custom_call_target="tpu_custom_call"') == 2
        assert temporaries <= 0.2
