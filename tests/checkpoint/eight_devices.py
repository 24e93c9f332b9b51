"""States saved on one mesh and restored on another; a lane of 8 CPU devices (F4)."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optadamw
from optadamw import checkpoint
from tests.support import trees

KINDS: trees.Kinds = {"even": (jnp.float32, (48, 5)), "odd": (jnp.bfloat16, (7,))}
TX = optadamw.adamw(0.1, ema_decay=0.9, accumulate_steps=2, skip_nonfinite=True)


def _on(devices: int, kind: AxisType, tree: Any) -> Any:
    mesh = jax.make_mesh(
        (devices,), ("x",), axis_types=(kind,), devices=jax.devices()[:devices]
    )
    specs = {"even": PartitionSpec("x"), "odd": PartitionSpec()}
    return {name: _put(mesh, specs[name], x) for name, x in tree.items()}


def _put(mesh: Any, spec: Any, x: Any) -> Any:
    return jax.device_put(x, NamedSharding(mesh, spec))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("path", [(8, 4, 8), (8, 1, 8), (8, 6)], ids=str)
def test_bits_and_shardings_on_another_mesh(kind, path):
    grads = trees.normal(KINDS, seed=1)
    params = _on(path[0], kind, trees.normal(KINDS, seed=0))
    state = TX.init(params)
    for _ in range(3):
        params, state = jax.jit(TX.step)(_on(path[0], kind, grads), state, params)
    whole = jax.device_get(state)
    for devices in path[1:]:
        saved = checkpoint.to_portable(TX, state, params)
        params = checkpoint.params_of(saved, _on(devices, kind, jax.device_get(params)))
        state, report = checkpoint.restore(TX, params, saved)
        assert report.is_whole
        trees.assert_same_bits(jax.device_get(state), whole)
        fresh = TX.init(params)
        for one, other in zip(
            jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True
        ):
            assert one.sharding == other.sharding
        jax.jit(TX.step)(_on(devices, kind, grads), state, params)
