"""Which leaves run in a kernel, and in words why the others do not."""

import math
from typing import Any

import jax.numpy as jnp

from optadamw.base.numerics import compute_dtype, is_complex
from optadamw.leaf.pallas.tiles import THREADS, Target
from optadamw.leaf.program import Program
from optadamw.store.block_code import ROWS
from optadamw.store.blockwise import BlockStore


def targets_of(program: Program, param: Any) -> tuple[Target, ...]:
    """Return the compilers that run a leaf of this program in a kernel."""
    if param is None or program.kernel == "never":
        return ()
    targets: tuple[Target, ...] = ("tpu", "gpu")
    return tuple(t for t in targets if why_whole(t, program, param) is None)


def why_whole(target: Target, program: Program, param: Any) -> str | None:
    """Return why a leaf is run as a whole and not in a kernel; None if it is not."""
    if program.kernel == "never":
        return "with_pallas(enabled=False)"
    if program.kernel is None and not gains(target, program):
        return "XLA reads and writes its bytes once"
    foreign = program.foreign
    if program.kernel is None and foreign:
        return f"{foreign[0].verb} is no rule of this library: use with_pallas"
    return _why_none(program, param) or _why_not(target, program, param)


def _why_none(program: Program, param: Any) -> str | None:
    """Return why no kernel can run a leaf; None if one can."""
    if not param.shape or 0 in param.shape:
        return "it has no axis, or no numbers"
    if getattr(param, "weak_type", False):
        return "it began as a Python number"
    if is_complex(param.dtype) or compute_dtype(param.dtype) != jnp.float32:
        return f"it is {param.dtype}"
    if program.measures:
        return "stats='norms' reduces it"
    for rule in program.rules:
        if rule.sums:
            return f"{rule.verb} reduces it"
    if math.prod(param.shape) > 2**32:
        return "it has more than 2**32 numbers, and an index is one number of 32 bits"
    return None


def _why_not(target: Target, program: Program, param: Any) -> str | None:
    """Return why a compiler cannot run a leaf for which `_why_none` is None."""
    shape = tuple(param.shape)
    stores = [s.store for s in program.slots if isinstance(s.store, BlockStore)]
    blocks = {store.block(shape) for store in stores}
    axes = {store.axis_in(shape) for store in stores}
    if any(block & (block - 1) for block in blocks):
        return f"its blocks of {max(blocks)} are no power of two"
    if len(blocks) > 1:
        return f"its buffers have blocks of {' and '.join(map(str, sorted(blocks)))}"
    if len(axes) > 1 or min(axes, default=-1) < -2:
        return "its blocks do not lie along one of the last two axes"
    if target == "gpu":
        if max(blocks, default=1) > THREADS:
            return f"its blocks of {max(blocks)} are larger than a tile"
        return None
    if len(shape) < 2:
        return "it has one axis"
    if param.dtype == jnp.float16:
        return "it is float16, which a TPU does not compute with"
    if axes == {-1}:
        return "its blocks lie along the last axis"
    if any(block % ROWS for block in blocks):
        return f"its blocks of {min(blocks)} are no multiple of {ROWS}"
    return None


def gains(target: Target, program: Program) -> bool:
    """Return whether a kernel moves fewer bytes than what XLA makes of the program.

    XLA makes two passes of blocks on every device. For a TPU it also makes two of 16
    bits that are rounded at random, and of a parameter with a residual.
    """
    stores = [slot.store for slot in program.slots]
    if any(isinstance(store, BlockStore) for store in stores):
        return True
    draws = any(store.draws and store.is_lossy for store in stores)
    return target == "tpu" and (draws or bool(program.commit.slots))
