"""A float32 master copy of 16-bit parameters.

A float32 has the 16 bits of a bfloat16 and 16 more. Beside a bfloat16 parameter the
state therefore keeps only the other 16 bits, 2 bytes instead of 4; parameter and
buffer together give the float32 number exactly. The bits of a float16 are no part of
a float32, so a float16 parameter has a whole float32 copy. Where a parameter is not its
copy, rounded, it was changed between two steps, and the step begins from it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.numerics import as_reals, compute_dtype, from_reals, is_narrow
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.commit.commit import Buffers
from optadamw.commit.narrow import Narrow, NarrowCommit, bits_of
from optadamw.store.slot import Slot


def _dtype_of(param: Any) -> np.dtype:
    is_half = param.dtype == jnp.bfloat16
    return np.dtype(np.int16) if is_half else np.dtype(np.float32)


@jax.custom_jvp
def joined(param: Array, lower: Array) -> Array:
    """Return the float32 of a bfloat16 parameter and what its bits lack, an int32.

    `write` leaves no negative residual beside a zero. optax.apply_updates can: it
    rounds `parameter + update`, to 0 where the parameter just crosses it, and 0 minus a
    bit pattern would be the pattern of a NaN.
    """
    upper = bits_of(param).astype(jnp.uint32) << 16
    is_zero = upper << 1 == 0  # by its bits: a CPU compares subnormals as 0
    # In 32 bits: Mosaic (libtpu 0.0.42 and 0.0.50) has no maximum of 16-bit integers.
    lower = jnp.where(is_zero, jnp.maximum(lower, 0), lower)
    return jax.lax.bitcast_convert_type(upper + lower.astype(jnp.uint32), jnp.float32)


@joined.defjvp
def _joined_jvp(primals, tangents):
    return joined(*primals), tangents[0].astype(jnp.float32)


@jax.custom_jvp
def halves(target: Array) -> tuple[Array, Array]:
    """Return a float32 as bfloat16, and what its bits lack of the float32, an int16.

    The derivative of the first is that of `target`; an integer has none.
    """
    bits = bits_of(target)
    # Halves are rounded away from zero, so that the difference fits a signed 16-bit
    # integer; with halves to even it could be +0x8000.
    upper = (bits + jnp.uint32(0x8000)) & jnp.uint32(0xFFFF0000)
    finite = jnp.isfinite(target)
    written = jax.lax.bitcast_convert_type(upper, jnp.float32).astype(jnp.bfloat16)
    written = jnp.where(finite, written, target.astype(jnp.bfloat16))
    lower = (bits - upper).astype(jnp.int32).astype(jnp.int16)
    return written, jnp.where(finite, lower, 0)


@halves.defjvp
def _halves_jvp(primals, tangents):
    written, lower = halves(*primals)
    return (written, lower), (tangents[0].astype(jnp.bfloat16), no_tangent(lower))


def no_tangent(lower: Array) -> np.ndarray:
    """Return the derivative that JAX wants for integers."""
    return np.zeros(lower.shape, jax.dtypes.float0)


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
        written, lower = halves(target)
        return written, {**buffers, "residual": lower}
