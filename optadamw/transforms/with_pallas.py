"""Run each parameter as one Pallas kernel."""

from dataclasses import replace

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.hyperparameters import switch
from optadamw.leaf.program import Kernel
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation


@prints_as_call
def with_pallas(inner: Transformation, *, interpret: bool = False) -> Transformation:
    """Run the step of each parameter as one Pallas kernel on NVIDIA GPUs.

    This is for moments in 8 bits: a block can be encoded only after its largest number
    is known, and XLA makes two passes of this. A kernel runs the same rules on tiles of
    a parameter, in place. The step runs as without kernels on other devices, and for
    parameters and chains that cannot be cut into tiles (complex or float64 parameters,
    blocks that are no power of two, `clip_by_norm`, `cautious`, `stats="norms"`).

    XLA does not divide a kernel over devices but gathers its operands: use kernels on
    one device, or inside `jax.shard_map`.

    In Pallas's interpreter the kernels give the bits of the plain step, up to the
    contraction of products and sums, and they lower to Triton. They are an option and
    not the default, because they have not been measured on a device and JAX plans to
    remove its Triton backend.

    Args:
      inner: a transformation of this library.
      interpret: whether to run the kernels in Pallas's interpreter, on any device and
        slowly, for tests. Default: False.

    Returns:
      A transformation with the state of `inner`.

    Raises:
      TypeError: `inner` is not from this library, or `interpret` is no bool.
      ValueError: `inner` runs as kernels already.

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
