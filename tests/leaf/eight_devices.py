"""Kernels of shards, on eight devices, in Pallas's interpreter.

Run by `test_kernels.py` under `XLA_FLAGS=--xla_force_host_platform_device_count=8`. In
this process a CPU is taken for a platform with kernels.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw.leaf.pallas import choice, devices
from tests.support import trees

KEPT = optadamw.blockwise(min_size=0)
TX = optadamw.adamw(1e-2, mu_dtype=KEPT, nu_dtype=KEPT, weight_decay=0.1)

CASES = {
    "rows": ((256, 24), P(("data", "model"))),
    "columns": ((32, 40), P(None, "data")),
    "both": ((128, 24), P("data", "model")),
    "stacked": ((4, 64, 24), P("model", None, "data")),
    "deep": ((2, 4, 64, 8), P("model", "data")),
    "whole": ((64, 24), P()),
}
CUT = ((128, 24), P(("data", "model")))
"""Four blocks over eight devices."""


@pytest.fixture(params=["tpu", "gpu"])
def target(request, monkeypatch):
    """A target whose kernels the interpreter runs."""
    tiles = functools.wraps(choice.run_tiles)(
        lambda program, target, _, *rest: RUN_TILES(program, target, True, *rest)
    )
    monkeypatch.setattr(choice, "run_tiles", tiles)
    monkeypatch.setitem(devices.TARGETS, "cpu", (request.param,))
    monkeypatch.setattr(
        choice, "device_of", lambda *_: contextlib.nullcontext(enter_result=True)
    )
    rule = choice._lowered(request.param)
    mlir.register_lowering(choice.leaf_p, rule, platform="cpu")
    jax.clear_caches()
    return request.param


RUN_TILES = choice.run_tiles


def normal(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def two_steps(tx, shape, sharding=None):
    place = (lambda x: x) if sharding is None else lambda x: jax.device_put(x, sharding)
    params = {"w": place(normal(shape, 0))}
    state, step = tx.init(params), jax.jit(tx.step)
    text = step.lower({"w": place(normal(shape, 1))}, state, params).as_text()
    for seed in (1, 2):
        params, state = step({"w": place(normal(shape, seed))}, state, params)
    return params, state, text


def assert_same(found, expected):
    """Codes and scales bit for bit; parameters up to a contraction."""
    trees.assert_same_bits(found[1], expected[1])
    np.testing.assert_allclose(found[0]["w"], expected[0]["w"], rtol=2e-6, atol=1e-7)


def sharding_of(kind, spec):
    types = (getattr(AxisType, kind),) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    return NamedSharding(mesh, spec)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("case", CASES)
def test_shards_have_the_bits_of_the_whole_leaf(target, kind, case):
    shape, spec = CASES[case]
    sharding = sharding_of(kind, spec)
    tx = TX
    if kind == "Auto":
        tx = optadamw.with_pallas(TX, shardings={"w": sharding})
    found = two_steps(tx, shape, sharding)
    assert "manual" in found[2]  # shard_map
    assert found[0]["w"].sharding.is_equivalent_to(sharding, len(shape))
    expected = two_steps(optadamw.with_pallas(TX, enabled=False), shape)
    assert "manual" not in expected[2]
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_sharding_that_cuts_blocks_or_is_not_stated_has_no_kernel(target, kind):
    shape, spec = CUT
    sharding = sharding_of(kind, spec)
    expected = two_steps(optadamw.with_pallas(TX, enabled=False), shape)
    stated = optadamw.with_pallas(TX, shardings={"w": sharding})
    for tx in (TX, stated) if kind == "Auto" else (TX,):
        found = two_steps(tx, shape, sharding)
        assert "manual" not in found[2]
        assert_same(found, expected)
