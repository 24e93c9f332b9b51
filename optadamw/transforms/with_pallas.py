"""Leaves as kernels of their own."""

from dataclasses import replace

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.hyperparameters import switch
from optadamw.leaf.program import Kernel
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation


@prints_as_call
def with_pallas(inner: Transformation, *, interpret: bool = False) -> Transformation:
    """Run each leaf as one Pallas kernel on NVIDIA GPUs.

    For moments in 8 bits: a block needs the largest of its numbers before it can be
    encoded, and XLA makes two passes of it. A kernel runs the same rules on tiles of a
    leaf, in place. Leaves and chains that have no tiles (complex or float64 parameters,
    blocks that are no power of two, `clip_by_norm`, `cautious`, `stats="norms"`) and
    other devices are run as without it.

    XLA does not divide a kernel over devices, but gathers its operands: use it on one
    device, or inside `jax.shard_map`.

    The kernels give the bits of the plain step in Pallas's interpreter, up to the
    contraction of products and sums, and lower to Triton. They have not been measured
    on a device, and JAX means to give its Triton backend up: hence a choice.

    Args:
      inner: a transformation of this library.
      interpret: run the kernels in Pallas's interpreter, on any device: slow, to test.

    Returns:
      A transformation with the state of `inner`.

    Raises:
      TypeError: `inner` is from elsewhere, `interpret` is no bool.
      ValueError: `inner` has it already.

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
    interpret = switch("interpret", interpret)
    composition = inner.recipe.composition
    if composition.kernel is not None:
        raise misplaced(f"{inner!r} has kernels already.", "Use it once.")
    kernel: Kernel = "interpreted" if interpret else "compiled"
    return transformation(replace(composition, kernel=kernel))
