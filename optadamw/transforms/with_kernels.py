"""Choose what runs a step on the CPU: kernels, or XLA's own code."""

from dataclasses import replace
from typing import Literal, get_args

from optadamw.base.errors import invalid, misplaced, mistyped
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation
from optadamw.walk.composition import CpuPass

Kernel = Literal["auto", "native", "xla"]


@prints_as_call
def with_kernels(inner: Transformation, kernel: Kernel = "auto") -> Transformation:
    """Run `step` on the CPU in one pass over memory, by kernels made of the rules.

    XLA's CPU backend reads and writes the leaves once for each result: three passes for
    parameter, mu and nu. A kernel makes one pass, in place. It is not written by hand:
    the jaxpr of the rules, also of your own, becomes a loop in C, which the machine's C
    compiler (`cc`, or the one that the variable `CC` names) compiles at the first use,
    in about 0.3 seconds, into a private cache. docs/guides/native.md has measurements.

        "auto"    kernels for the leaves that have one, XLA for the others
        "native"  kernels only: a leaf that has none is an error with the reason
        "xla"     no kernels

    A leaf has a kernel if its rules compute each element by itself; moments in 8 bits
    are computed block by block. `clip_by_norm`, `clip_update_by_rms`, `cautious`,
    `stats="norms"` and complex parameters have none. A rule of your own has none if it
    calls `exp` and its like, since C's functions have other bits, if it divides by a
    scalar, a root or a quotient, which XLA computes in one of two ways, or if it
    computes with the shape of a parameter.
    The norm of all gradients is formed in C too, in double, also for `update` and under
    `jax.vmap`. Otherwise `update`, `flush`, `jax.vmap`, derivatives, `jax.export` and
    other devices take XLA's path.

    On several CPU devices each runs the kernels on its part of a parameter, and XLA
    forms the norm. The part is known on Explicit axes and inside `jax.shard_map`; on
    Auto axes `tx.jit_step` sees it, or the arguments of the compiled function show it,
    if all that have the shape of the parameter are divided alike. XLA runs the other
    parameters, and those whose sharding cuts blocks of 8 bits.

    A kernel has the bits of XLA's path, except for the rounding of a global norm, and
    where XLA contracts the other one of two products into a fused multiply-add. Then
    numbers differ in the last place. The latter was
    seen with betas and decays that are arrays or schedules, with Nesterov, and in small
    leaves with jax 0.12; docs/guides/native.md has the measurements.

    Without `with_kernels`, a step is run as by "auto" if JAX's default device is an
    x86-64 CPU, the only device, and there is a C compiler; otherwise as by "xla". The
    variable OPTADAMW_NATIVE=0 switches all kernels off, and OPTADAMW_NATIVE=1 makes
    "auto" the default on every machine; another value raises an error when a step is
    traced. OPTADAMW_CACHE_DIR is the folder of compiled kernels; default: `optadamw` in
    XDG_CACHE_HOME or `~/.cache`.

    Args:
      inner: a transformation of this library.
      kernel: "auto" (default), "native" or "xla".

    Returns:
      A transformation with the state of `inner`.

    Raises:
      TypeError: `inner` is not from this library.
      ValueError: `kernel` is another word, or `inner` has kernels already; when traced,
        with "native", for a leaf that has no kernel, with the leaf's path.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.with_kernels(optadamw.adamw(1e-3))
      >>> tx == optadamw.adamw(1e-3, kernel="auto")
      True
      >>> params = {"w": jnp.ones((4, 64))}
      >>> params, state = tx.step(params, tx.init(params), params)
      >>> int(state.step)
      1
    """
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    if kernel not in get_args(Kernel):
        raise invalid("kernel", '"auto", "native" or "xla"', kernel)
    composition = inner.recipe.composition
    if composition.cpu_pass is not None:
        raise misplaced(f"{inner!r} has kernels already.", "Choose them once.")
    chosen: CpuPass = kernel
    return transformation(replace(composition, cpu_pass=chosen))
