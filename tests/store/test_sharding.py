"""Stores over eight devices, in a process of their own."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optadamw import checkpoint
from tests.store.runs import FORMS, eight, normal, run
from tests.support import trees

DEVICE_SHAPES = {"even": (16, 512), "uneven": (16, 96), "odd": (8, 40), "bias": (24,)}
"""Along the last axis: whole blocks for each device, parts of one, and parts of two."""

LAYOUTS = {
    "first": {name: P("data") for name in DEVICE_SHAPES},
    "last": {name: P(None, "data") for name in DEVICE_SHAPES} | {"bias": P("data")},
}
PLACES = [(kind, layout) for kind in ("Auto", "Explicit") for layout in LAYOUTS]

IN_SHARDS_TO_AN_ULP = jax.__version_info__ >= (0, 12)
"""Whether the step of a shard of other columns may round a parameter otherwise,
by a unit in the last place in one of 64: where a moment is rounded in the state, the
parameter's kernel forms it anew, and what XLA contracts there depends on its shape. The
moments have the same bits."""


def assert_an_ulp_apart(actual, expected):
    for name, wanted in expected.items():
        found, wanted = np.asarray(actual[name]), np.asarray(wanted)
        apart = found != wanted
        np.testing.assert_array_max_ulp(found, wanted, maxulp=3)  # in 3 steps
        assert apart.mean() < 1 / 64, name


def sharded_as_unsharded(tx, kind, layout, grads, params, expected):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(AxisType, kind),))
    shardings = {k: NamedSharding(mesh, spec) for k, spec in LAYOUTS[layout].items()}
    placed = jax.device_put(params, shardings)
    state, step = tx.init(placed), jax.jit(tx.step)
    for buffer in (state.mu, state.nu):
        for key, sharding in shardings.items():
            assert buffer[key].sharding.is_equivalent_to(sharding, buffer[key].ndim)
    if state.mu_scales is not None:
        scales = state.mu_scales["even"]
        assert scales.sharding.is_equivalent_to(shardings["even"], 2)
        assert scales.addressable_shards[0].data.size == scales.size // 8
    before = jax.tree.map(lambda x: x.sharding, (placed, state))
    pair = placed, state
    for g in grads:
        pair = tuple(step(jax.device_put(g, shardings), pair[1], pair[0]))
    trees.assert_same_bits(pair[1], expected[1])
    if IN_SHARDS_TO_AN_ULP and layout == "last":
        assert_an_ulp_apart(pair[0], expected[0])
    else:
        trees.assert_same_bits(pair[0], expected[0])
    leaves = jax.tree.leaves(pair), jax.tree.leaves(before)
    for x, wanted in zip(*leaves, strict=True):
        assert x.sharding.is_equivalent_to(wanted, x.ndim), x.shape
    restored, _ = checkpoint.restore(tx, placed, checkpoint.to_portable(tx, pair[1]))
    trees.assert_same_bits(restored, expected[1])
    born = jax.jit(tx.init)(placed)
    trees.assert_same_bits(born, state)
    assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(born))


def on_eight_devices():
    """Run in a process of its own: prints what fails, by form, kind and layout."""
    assert len(jax.devices()) == 8
    grads = [normal(i, shapes=DEVICE_SHAPES) for i in range(1, 4)]
    params, failures = normal(0, shapes=DEVICE_SHAPES), {}
    for name, form in FORMS.items():
        tx = eight(form=form)
        expected = run(tx, grads, params)
        for place in PLACES:
            try:
                sharded_as_unsharded(tx, *place, grads, params, expected)
            except Exception as error:
                failures[repr((name, *place))] = f"{type(error).__name__}: {error}"
    print(json.dumps(failures))


@functools.cache
def failures_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from tests.store import test_sharding as t; t.on_eight_devices()",
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_sharded_step_is_the_unsharded_one(form, kind, layout):
    """Along the first axis, along the last, and where blocks do not divide."""
    done = failures_on_eight_devices()
    assert done.returncode == 0, done.stderr[-4000:]
    failure = json.loads(done.stdout).get(repr((form, kind, layout)))
    assert failure is None, failure
