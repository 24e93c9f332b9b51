"""Compile a step for a topology and read what was made of it."""

import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from benchmarks.topology import modules, traffic
from benchmarks.topology.cases import Case
from benchmarks.topology.placed import count, on


def case(mesh: Mesh, given: Case, shapes: Any) -> dict[str, Any]:
    """Compiles the step of a case, and its `init`, for the devices of a mesh.

    Returns:
        Bytes per parameter, on all devices together where it says nothing else, and
        counts; `error` and nothing more if XLA refuses the step.
    """
    contender = given.contender
    assert contender.program is not None
    params = on(mesh, contender.cast(shapes))
    program = contender.program(given.config, params)
    carry = on(mesh, jax.eval_shape(program.init, params))

    def step(carry: Any, gradients: Any) -> Any:
        return program.step(gradients, carry)

    try:
        found = module(step, carry, params, mesh)
        found["init"] = _init(program.init, params)
    except Exception as error:  # XLA's, or a kernel's: Mosaic has its own
        return {"error": str(error).splitlines()[0][:300]}
    found["ideal"] = given.ideal(carry, params)
    if given.goal is not None:
        found["met"] = found["bytes"] <= given.goal * found["ideal"] + 0.02
    return found


def module(
    step: Callable[[Any, Any], Any], carry: Any, gradients: Any, mesh: Mesh
) -> dict[str, Any]:
    """Compiles `(carry, gradients) -> carry` in place and reads the module."""
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(carry, gradients)
    between = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    read = traffic.of(modules.parse(compiled.as_text()))
    memory = compiled.memory_analysis()
    mine = count(gradients) / mesh.size
    unaliased = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "bytes": read.least / mine,
        "most_bytes": read.most / mine,
        "bytes_in_loops": read.in_loops / mine,
        "temporaries": memory.temp_size_in_bytes / mine,
        "program_bytes": memory.generated_code_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes / mine,
        "unaliased_bytes": max(0, unaliased - _table(carry, mesh)),
        "fusions": read.fusions,
        "copies": read.copies,
        "loops": read.loops,
        "branches": read.branches,
        "collectives": dict(read.collectives),
        "collective_bytes_per_device": dict(read.collective_bytes),
        "trace_and_lower_s": between - start,
        "compile_s": end - between,
    }


def _table(carry: Any, mesh: Mesh) -> int:
    """The bytes of the table of results: a pointer each, on a TPU 512 at a time."""
    pointers = 8 * len(jax.tree.leaves(carry))
    unit = 512 if mesh.devices.flat[0].platform == "tpu" else 1
    return -(-pointers // unit) * unit


def _init(init: Callable[[Any], Any], params: Any) -> dict[str, int]:
    """Counts the arrays that `jit(init)` leaves whole on every device."""
    compiled = jax.jit(init).lower(params).compile()
    made = jax.tree.leaves(jax.eval_shape(init, params))
    placed = jax.tree.leaves(compiled.output_shardings)
    large = [where for what, where in zip(made, placed, strict=True) if what.ndim > 1]
    devices = {d for where in large for d in where.device_set}
    whole = sum(where.is_fully_replicated for where in large)
    return {"arrays": len(large), "replicated": whole if len(devices) > 1 else 0}
