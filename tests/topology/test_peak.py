"""The memory of a step at its peak, on TPUs and GPUs: all of it, as it is planned."""

import jax
import jax.numpy as jnp
import pytest

import optadamw
from benchmarks.topology import placed
from benchmarks.topology.cases import shapes
from tests.topology.test_compiled import mesh_of, without_cache

__all__ = ["without_cache"]  # a fixture of each test here

ALONE = ("v5e:1x1", "v6e:1x1", "h100:1x1x1")
MORE = {"clip_global_norm": 1.0, "ema_decay": 0.999}


def memory(name, options, donate=(0, 1)):
    """The bytes per parameter of one step: at its peak, and as they are planned.

    At the peak there are the arguments (parameters, state, gradients), results that
    are not in their place, and temporaries. XLA's own `peak_memory_in_bytes` counts
    what waits in a TPU core's own memory, too.
    """
    mesh = mesh_of(name)
    tx = optadamw.adamw(1e-3, **options)
    full = options.get("precision", "full") == "full"
    dtype = jnp.float32 if full else jnp.bfloat16
    leaves = jax.tree.map(lambda x: x.update(dtype=dtype), shapes(quick=True))
    params = placed.on(mesh, leaves)
    state = placed.on(mesh, jax.eval_shape(tx.init, params))

    def step(params, state, grads):
        return tuple(tx.step(grads, state, params))

    lowered = jax.jit(step, donate_argnums=donate).lower(params, state, params)
    found = lowered.compile().memory_analysis()
    extra = found.output_size_in_bytes - found.alias_size_in_bytes
    peak = found.argument_size_in_bytes + extra + found.temp_size_in_bytes
    count = placed.count(params)
    plan = optadamw.memory_plan(tx, params)
    return peak / count, plan.peak / count


KEPT = {
    # Parameters and state in bytes per parameter, and the options.
    "full": (12, {}),
    "full, clip, average": (16, MORE),
    "mixed": (12, {"precision": "mixed"}),
    "mixed, clip, average": (16, {"precision": "mixed", **MORE}),
    "compact": (4.0625, {"precision": "compact"}),
    "compact, clip, average": (6.0625, {"precision": "compact", **MORE}),
    "compact, 24 bits": (
        5.0625,
        {"precision": "compact", "commit": "master", "residual_bits": 8},
    ),
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("row", KEPT)
def test_a_step_holds_parameters_state_and_gradients(name, row):
    """At most a hundredth more: 6.1 bytes for "compact", where float32 has 16."""
    kept, options = KEPT[row]
    peak, planned = memory(name, options)
    ideal = kept + (2 if "precision" in options else 4)
    assert ideal <= peak <= 1.01 * ideal
    assert planned == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("name", ALONE)
def test_results_beside_their_arguments_are_noticed(name):
    peak, _ = memory(name, {"precision": "compact"}, donate=())
    assert peak > 6.0625 + 4
