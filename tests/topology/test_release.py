"""Steps inside the backward pass, compiled for TPUs and GPUs: no gradients of all."""

import jax
import jax.numpy as jnp
import pytest

import optadamw
from benchmarks.topology import modules, placed, traffic
from tests.topology.test_compiled import ALONE, mesh_of, without_cache
from tests.transforms.test_gradient_release import ordinary_stack, released_stack

__all__ = ["without_cache"]  # a fixture of each test here

LAYERS, WIDTH = 16, 2048


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("options", [{}, {"precision": "compact"}], ids=str)
def test_a_stack_needs_the_gradients_of_one_layer(name, options):
    """XLA for TPUs keeps float32 kernels in bfloat16 beside them, in either step.

    On a TPU nothing is copied in main memory. (The fusions that cut a layer out of a
    stack of codes, and that put it back, contain a `copy` of the stack: their view of
    it, in tiles of 8 rows instead of 32, in place.)
    """
    mesh = mesh_of(name)
    dtype = jnp.bfloat16 if options else jnp.float32
    tx = optadamw.adamw(1e-3, **options)
    stack = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), dtype)
    params = placed.on(mesh, {"layers": stack})
    x = placed.on(mesh, jax.ShapeDtypeStruct((128, WIDTH), dtype))
    state = placed.on(mesh, jax.eval_shape(tx.init, params))
    kept = placed.size((params, state))

    def compiled(function):
        step = jax.jit(function, static_argnums=0, donate_argnums=(1, 2))
        made = step.lower(tx, params, state, x).compile()
        memory = made.memory_analysis()
        assert memory.alias_size_in_bytes >= kept
        temporaries = memory.temp_size_in_bytes / (placed.size(params) / LAYERS)
        return temporaries, traffic.of(modules.parse(made.as_text())).copies

    (before, _), (during, copies) = compiled(ordinary_stack), compiled(released_stack)
    assert copies == 0 or name[0] != "v"  # for GPUs, activations and one layer
    assert before > LAYERS
    assert before - during > 0.8 * LAYERS
    assert during < (9 if name[0] == "v" and not options else 6)
