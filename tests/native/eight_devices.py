"""Kernels on eight devices: inside `jax.shard_map`, and XLA's path outside of it.

Run by `test_devices.py` under `XLA_FLAGS=--xla_force_host_platform_device_count=8`.
"""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from tests.support import trees

SPECS = {"w": P("data", "model"), "b": P("model"), "s": P()}
SHAPES = {"w": (16, 12), "b": (6,), "s": ()}


def sharded(kind):
    mesh = jax.make_mesh(
        (4, 2), ("data", "model"), axis_types=(getattr(AxisType, kind),) * 2
    )
    rng = np.random.default_rng(0)
    params = {
        name: jax.device_put(
            jnp.asarray(rng.normal(size=shape), jnp.float32),
            NamedSharding(mesh, SPECS[name]),
        )
        for name, shape in SHAPES.items()
    }
    return mesh, params


def step_of(kernel):
    tx = optadamw.adamw(1e-2, ema_decay=0.9, skip_nonfinite=True, kernel=kernel)
    return tx, lambda g, s, p: tx.step(g, s, p)


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_divided_arrays_are_stepped_by_xla(kind, inside):
    mesh, params = sharded(kind)
    with jax.set_mesh(mesh) if inside else contextlib.nullcontext():
        xla, plain = step_of("xla")
        _, auto = step_of("auto")
        state = xla.init(params)
        made = compiled(auto, params, state, params)
        assert "optadamw_" not in made.as_text()
        assert "all-gather" not in made.as_text()
        expected = jax.jit(plain)(params, state, params)
        actual = jax.jit(auto)(params, state, params)
        trees.assert_same_bits(actual, expected)
        assert jax.tree.map(lambda x: x.sharding, actual) == jax.tree.map(
            lambda x: x.sharding, expected
        )
        with pytest.raises(ValueError, match="XLA divides its arrays over devices"):
            jax.jit(step_of("native")[1]).lower(params, state, params)


def test_by_default_steps_are_those_of_xla():
    """Also those of one device: how arrays lie is not known when a step is traced."""
    tx, plain = step_of(None)
    params = {"w": jnp.ones((16, 12))}
    made = compiled(plain, params, tx.init(params), params)
    assert "optadamw_" not in made.as_text()
    assert optadamw.describe(tx, params).endswith("\npass: XLA (8 devices)")


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_kernels_run_inside_shard_map(kind):
    mesh, params = sharded(kind)
    xla, plain = step_of("xla")
    _, native = step_of("native")
    state = jax.jit(xla.init)(params)
    specs = jax.tree.map(lambda x: x.sharding.spec, state)
    ends = []
    for function in (native, plain):
        # The guard's check differs between the parts, so the norm is left out.
        mapped = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(SPECS, specs, SPECS),
            out_specs=(SPECS, specs),
            check_vma=False,
        )
        text = compiled(mapped, params, state, params).as_text()
        assert ("optadamw_" in text) == (function is native)
        assert not re.search(r"= .*all-gather\(", text)
        ends.append(jax.jit(mapped)(params, state, params))
    trees.assert_same_bits(*ends)
