"""Time to trace, lower and compile a step, and the memory of what was compiled."""

import gc
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import interference
from benchmarks.contenders.contender import Contender
from benchmarks.workloads import Config

PHASES = ("trace_s", "lower_s", "compile_s")


def measure(contender: Contender, config: Config, tree: Any) -> dict[str, float]:
    """Traces, lowers and compiles one contender's step once, with nothing reused.

    Returns:
        The seconds of each phase, and bytes: of temporaries, of the donated arrays, of
        those among them whose memory the results take over, and of the parameters.
    """
    assert contender.program is not None
    tree = contender.cast(tree)
    program = contender.program(config, tree)
    carry = jax.eval_shape(program.init, tree)
    jax.clear_caches()
    gc.collect()
    # A new function object each time, because the program was made anew.
    function = jax.jit(program.step, donate_argnums=1)
    start = time.perf_counter()
    traced = function.trace(tree, carry)
    traced_at = time.perf_counter()
    lowered = traced.lower()
    lowered_at = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return {
        "trace_s": traced_at - start,
        "lower_s": lowered_at - traced_at,
        "compile_s": end - lowered_at,
        **_bytes(compiled, tree, carry),
    }


def memory(contender: Contender, config: Config, tree: Any) -> dict[str, int]:
    """Reads the memory of one contender's step from one compilation, as it is used.

    Ours is what `jit_step` compiles; the others' steps are jitted here.
    """
    assert contender.program is not None
    tree = contender.cast(tree)
    program = contender.program(config, tree)
    carry = jax.eval_shape(program.init, tree)
    if program.compiled is not None:
        return _bytes(program.compiled(tree, carry), tree, carry)
    function = jax.jit(program.step, donate_argnums=1)
    return _bytes(function.lower(tree, carry).compile(), tree, carry)


def _bytes(compiled: jax.stages.Compiled, tree: Any, carry: Any) -> dict[str, int]:
    memory = compiled.memory_analysis()
    assert memory is not None
    return {
        "temporary_bytes": memory.temp_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "donated_bytes": size_in_bytes(carry),
        "parameter_bytes": size_in_bytes(tree),
    }


def alternate(
    contenders: Mapping[str, Contender],
    config: Config,
    tree: Any,
    tiny: Any,
    rounds: int,
    patience: float,
    seed: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Measures each contender in turn, in random order, round after round.

    Args:
        contenders: The contenders by name; all of them on JAX.
        config: The configuration.
        tree: The shapes of the parameters.
        tiny: A small tree of the same kind, run through first, so that no contender
            pays for imports and for starting the compiler.
        rounds: How often.
        patience: Seconds to wait for a quiet machine and to repeat disturbed rounds.
        seed: Of the random order.

    Returns:
        For each contender the seconds of each phase as lists, the bytes as numbers; and
        what is known of the disturbance.
    """
    order = np.random.default_rng(seed)
    for contender in contenders.values():
        measure(contender, config, tiny)
    results: dict[str, dict[str, Any]] = {
        name: {phase: [] for phase in PHASES} for name in contenders
    }

    def play() -> None:
        for name in order.permutation(list(contenders)):
            for key, value in measure(contenders[name], config, tree).items():
                if key in PHASES:
                    results[name][key].append(value)
                else:
                    results[name][key] = value

    def drop() -> None:
        for figures in results.values():
            for phase in PHASES:
                figures[phase].pop()

    return results, interference.undisturbed(play, drop, rounds, patience)


def size_in_bytes(tree: Any) -> int:
    """Adds up the bytes of a tree of arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
