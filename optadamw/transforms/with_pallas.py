"""Choose which parameters run as Pallas kernels."""

from dataclasses import replace

from jax.sharding import NamedSharding

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.hyperparameters import switch
from optadamw.base.tree import flatten
from optadamw.base.types import PyTree
from optadamw.leaf.program import Kernel
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation
from optadamw.walk.shardings import Shardings


@prints_as_call
def with_pallas(
    inner: Transformation,
    *,
    enabled: bool = True,
    shardings: PyTree | None = None,
    interpret: bool = False,
) -> Transformation:
    """Run the step of each parameter as one Pallas kernel, or none of them.

    A block of 8 bits can be encoded only after its largest number is known, and XLA
    makes two passes of this. A kernel runs the same rules on tiles of a parameter, in
    place, and reads and writes every byte once. Without this wrapper, parameters with
    buffers in 8 bits run as kernels on TPUs (Mosaic) and NVIDIA GPUs (Triton), and on
    TPUs also those with moments or residuals in 16 bits; XLA runs the others. With it,
    every parameter that can be cut into tiles does. `describe(tx, params)` shows which
    do, and why the others do not.

    XLA does not divide a kernel over devices. On Explicit axes, and inside
    `jax.shard_map`, each device runs the kernel on its shard. On Auto axes it does so
    if `shardings` states how the parameters are divided, in `tx.jit_step`, which sees
    it, and if the arguments of the compiled function show it: all that have the shape
    of a parameter are divided alike, as parameters, gradients and buffers of one shape
    mostly are. Otherwise XLA runs the parameter, as it does if a sharding cuts blocks.

    Args:
      inner: a transformation of this library.
      enabled: whether parameters run as kernels. False: none does, on no device.
        Default: True.
      shardings: the NamedSharding of each parameter over Auto axes, as a tree like the
        parameters; states and gradients are divided alike. None (default): as the
        arguments of the compiled function show.
      interpret: whether to run the kernels in Pallas's interpreter, on any device and
        slowly, for tests. Default: False.

    Returns:
      A transformation with the state of `inner`.

    Raises:
      TypeError: `inner` is not from this library, `enabled` or `interpret` is no bool,
        or `shardings` has a leaf that is no NamedSharding.
      ValueError: `inner` has this wrapper already.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> kept = optadamw.blockwise(min_size=0)
      >>> plain = optadamw.adamw(1e-3, mu_dtype=kept, nu_dtype=kept)
      >>> tx = optadamw.with_pallas(plain, interpret=True)
      >>> params = {"w": jnp.ones((4, 64))}
      >>> params, state = tx.step(params, tx.init(params), params)
      >>> int(state.step)
      1
    """
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    enabled, interpret = switch("enabled", enabled), switch("interpret", interpret)
    composition = inner.recipe.composition
    if composition.kernel is not None:
        raise misplaced(f"{inner!r} has kernels already.", "Use it once.")
    kernel: Kernel = "interpreted" if interpret else "compiled"
    return transformation(
        replace(
            composition,
            kernel=kernel if enabled else "never",
            shardings=None if shardings is None else _stated(shardings),
        )
    )


def _stated(shardings: PyTree) -> Shardings:
    leaves = flatten(shardings)
    for path, found in zip(leaves.paths, leaves.arrays, strict=True):
        if not isinstance(found, NamedSharding):
            rule = "a tree of NamedShardings like the parameters, or None"
            raise mistyped("shardings" + (path and f"['{path}']"), rule, found)
    return Shardings(leaves.paths, leaves.arrays)
