"""The line of `describe` on the pass of a CPU: kernels in C, or XLA, and why."""

from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp

from optadamw.base.errors import counted
from optadamw.base.tree import parameters
from optadamw.base.types import PyTree
from optadamw.native.kernel import Refusal, usable_compiler
from optadamw.transforms.transformation import Transformation
from optadamw.walk.composition import Composition
from optadamw.walk.homes import shardings_of
from optadamw.walk.init import init
from optadamw.walk.native import NoKernelError
from optadamw.walk.step import advance


def pass_line(tx: Transformation, params: PyTree) -> str | None:
    """Say what runs `step` on the CPU, and why XLA runs leaves if it does.

    Return None where a step runs on other devices and nobody chose for CPUs, and for a
    step that can be traced only inside a `jax.shard_map`.
    """
    composition = tx.recipe.composition
    if composition.cpu_pass is None:
        if jax.default_backend() != "cpu":
            return None
        if composition.why_xla is not None:
            return f"pass: XLA ({composition.why_xla})"
    if composition.cpu_pass == "xla":
        return 'pass: XLA (kernel="xla")'
    compiler = usable_compiler()
    if isinstance(compiler, Refusal):
        return f"pass: XLA ({compiler.reason})"
    if composition.axes:
        return None
    reasons = reasons_for_xla(composition, params)
    kernels = f"native ({compiler.version})"
    if not reasons:
        return f"pass: {kernels}"
    counts = Counter(reasons.values()).most_common()
    text = "; ".join(f"{reason}: {count}" for reason, count in counts)
    if len(reasons) == len(parameters(params).paths):
        return f"pass: XLA ({'; '.join(reason for reason, _ in counts)})"
    return f"pass: {kernels}, XLA for {counted(len(reasons), 'parameter')} ({text})"


def reasons_for_xla(composition: Composition, params: PyTree) -> dict[str, str]:
    """Return by its path why a leaf has no kernel, for all leaves that have none.

    A step is traced and not run, and kernels are compiled if they are not in the cache.
    """
    forced = replace(composition, cpu_pass="native")
    if composition.shardings is None and composition.zero1 is None:
        # A trace does not show how parameters are divided over Auto axes.
        forced = replace(forced, shardings=shardings_of(params))

    def step(params: PyTree) -> PyTree:
        grads, state = params, init(composition, params)
        extra = {"loss": jnp.float32(0)} if composition.control.needs_loss else {}
        return advance(forced, grads, state, params, extra, "param")

    try:
        jax.eval_shape(step, params)
    except NoKernelError as error:
        return error.reasons
    return {}
