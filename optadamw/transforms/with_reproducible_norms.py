"""Norms and means that have the same bits on every mesh."""

from dataclasses import replace

from optadamw.base.errors import misplaced, mistyped, shown
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation
from optadamw.walk.composition import Composition


@prints_as_call
def with_reproducible_norms(inner: Transformation) -> Transformation:
    """Take every norm and mean in a way that has the same bits on every mesh.

    A sum of floats depends on its order, and each mesh adds the numbers of an array in
    another one. Without this wrapper a step that clips by a norm therefore differs
    between meshes by about 1e-7 of its size, and so does a step with ZeRO-1 from one
    without. With it, 1 device, 1 x 8 and 2 x 4 devices write the same bits, if they get
    the same bits as gradients:

        e = exponent of the largest |x|, exact in every order
        n = 2^e sqrt(sum of round((x 2^-e)^2), as integers in 64 bits)

    The squares are rounded once, and sums of integers are exact in every order. The
    norm is within 1.6e-7 of the exact one in float32 (2.6 units of 2**-24), however
    many elements there are, and a norm of gradients overflows only if float32 cannot
    represent it. All of these are taken in this way: the norms of
    `clip_by_global_norm` and `clip_by_norm`, of guards and `with_stats`, the mean of
    `clip_update_by_rms` and the share of `cautious`.

    The maximum comes first, so each gradient is read again for the sum. Compiled with
    jax 0.10.2, the norm of float32 gradients reads 8 bytes per element on an H100 and
    on a TPU v5e, where the plain norm reads 4, unless a device's part fits the v5e's
    own memory: then it reads 1 byte, as the plain norm does. There are two exchanges of
    a few numbers between the devices in place of one. On the CPU the norm takes 6 to 7
    times as long as the plain one.

    Gradients that differ between meshes stay different: the mean of a loss over devices
    is a sum too, and is the caller's.

    Source: Demmel & Nguyen, "Parallel reproducible summation", IEEE Transactions on
    Computers 64 (2015), for the scale from the maximum; the limbs are integers here.

    Args:
      inner: a transformation of this library that takes a norm or a mean.

    Returns:
      A transformation with the state of `inner`.

    Raises:
      TypeError: `inner` is not from this library.
      ValueError: `inner` has it already, or takes no norm and no mean; it has a rule of
        your own that sums by itself and not by `leaf.reductions`. When traced inside
        `shard_map`: `with_stats(norms=True)` measures a parameter of which each device
        has a part.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.with_reproducible_norms(optadamw.clip_by_global_norm(1.0))
      >>> g = {"w": jnp.array([3.0]), "b": jnp.array([4.0])}
      >>> tx.update(g, tx.init(g))[0]
      {'b': Array([0.8], dtype=float32), 'w': Array([0.6], dtype=float32)}
    """
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    composition = inner.recipe.composition
    if composition.has_reproducible_norms:
        raise misplaced(
            f"{shown(inner)} has with_reproducible_norms already.", "Use it once."
        )
    for rule in composition.all_rules:
        if rule.sums and not rule.sums_by_reductions:
            raise misplaced(
                f"{rule.verb} sums over a parameter by itself, and the order of such a "
                "sum depends on the mesh.",
                "Take its sums by leaf.reductions, and write `sums_by_reductions: "
                "ClassVar[bool] = True` in its class; or leave reproducible norms out.",
            )
    if not _takes_norms(composition):
        raise misplaced(
            "Reproducible norms have no effect: the transformation takes no norm and "
            "no mean over many elements.",
            "Leave `reproducible_norms` (with_reproducible_norms) out, or put the "
            "wrapper around the clip, guard or statistics that takes one.",
        )
    return transformation(replace(composition, has_reproducible_norms=True))


def _takes_norms(composition: Composition) -> bool:
    control = composition.control
    is_measured = control.effective_guard is not None or control.statistics is not None
    return is_measured or any(r.reads_norm or r.sums for r in composition.all_rules)
