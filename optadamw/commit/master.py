"""A float32 master copy of 16-bit parameters.

A float32 has the 16 bits of a bfloat16 and 16 more. Beside a bfloat16 parameter the
state therefore keeps only the other 16 bits, 2 bytes instead of 4; parameter and
buffer together give the float32 number exactly. The bits of a float16 are no part of
a float32, so a float16 parameter has a whole float32 copy. Where a parameter is not its
copy, rounded, it was changed between two steps, and the step begins from it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from optadamw.base.numerics import as_reals, compute_dtype, from_reals, is_narrow
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.commit.commit import Buffers
from optadamw.commit.halves import halves, joined
from optadamw.commit.narrow import Narrow, NarrowCommit, bits_of
from optadamw.store.slot import Slot


def _dtype_of(param: Any) -> np.dtype:
    is_half = param.dtype == jnp.bfloat16
    return np.dtype(np.int16) if is_half else np.dtype(np.float32)


def unless_changed(param: Array, copy: Array) -> Array:
    """Return the float32 copy where the parameter is its rounding, else the parameter.

    The bits are compared: between numbers XLA removes the rounding, by its option
    xla_allow_excess_precision, and a copy is almost never equal to its parameter.
    """
    given, rounded = bits_of(param), bits_of(copy.astype(param.dtype))
    are_zero = ((given | rounded) & jnp.uint16(0x7FFF)) == 0  # 0 and -0 are equal
    is_rounded = (given == rounded) | are_zero
    return jnp.where(is_rounded, copy, param.astype(copy.dtype))


@dataclass(frozen=True)
class Master(NarrowCommit):
    """Step a float32 copy; the parameter is this copy, rounded to nearest."""

    name: ClassVar[str] = "master"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("residual", Narrow(_dtype_of, copies=True)),)

    def read(self, param: Any, buffers: Buffers) -> Array:
        if not is_narrow(param.dtype):
            return as_reals(param, compute_dtype(param.dtype))
        residual = buffers["residual"]
        if param.dtype != jnp.bfloat16:
            return unless_changed(param, residual)
        return joined(param, residual.astype(jnp.int32))

    def read_back(self, written: Array, buffers: Buffers) -> Array:
        if written.dtype == jnp.float16:
            return buffers["residual"]
        return self.read(written, buffers)

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        del site
        if not is_narrow(param.dtype):
            return from_reals(target, param.dtype), buffers
        if param.dtype != jnp.bfloat16:
            return target.astype(param.dtype), {**buffers, "residual": target}
        written, lower = halves(target, bits_of(target), np.dtype(np.int16))
        return written, {**buffers, "residual": lower}
