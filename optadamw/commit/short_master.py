"""A master copy of 24 bits for bfloat16 parameters: 1 byte beside each parameter.

A bfloat16 has the upper 16 bits of a float32. The state keeps the next 8, as a signed
integer: parameter and buffer together are a float32 whose last 8 bits are zero, a
number of 16 significant bits. New numbers are rounded to it at random, so that updates
below its last bit, 2**-15 of the parameter, are not lost but applied on average.
The bits of a float16 are no part of a float32, so a float16 parameter has a whole
float32 copy here too.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from optadamw.base.random_bits import Site, bits_at
from optadamw.base.types import Array
from optadamw.commit.commit import Buffers
from optadamw.commit.halves import halves, joined
from optadamw.commit.master import Master
from optadamw.commit.narrow import Narrow, bits_of
from optadamw.store.slot import Slot

_KEPT = np.uint32(0xFFFFFF00)


def _dtype_of(param: Any) -> np.dtype:
    is_half = param.dtype == jnp.bfloat16
    return np.dtype(np.int8) if is_half else np.dtype(np.float32)


@dataclass(frozen=True)
class ShortMaster(Master):
    """Step a copy of 24 bits; a bfloat16 parameter is this copy, rounded to nearest."""

    draws: ClassVar[bool] = True

    @property
    def keeps(self) -> str:
        return f"{super().keeps} with residual_bits=8"

    def check(self, dtypes: list[Any], paths: tuple[str, ...]) -> None:
        """Refuse a tree without bfloat16 parameters, on which 8 bits have no effect.

        Raises:
          ValueError: no parameter is bfloat16; the message names one of them.
        """
        super().check(dtypes, paths)
        if dtypes and not any(dtype == jnp.bfloat16 for dtype in dtypes):
            raise ValueError(
                "residual_bits=8 is for bfloat16 parameters, and there are none: "
                f"'{paths[0]}' is {jnp.dtype(dtypes[0])}. Cast the model to bfloat16, "
                "or leave residual_bits out: the master of a float16 parameter takes "
                "32 bits."
            )

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("residual", Narrow(_dtype_of, copies=True)),)

    def read(self, param: Any, buffers: Buffers) -> Array:
        if param.dtype != jnp.bfloat16:
            return super().read(param, buffers)
        return joined(param, buffers["residual"].astype(jnp.int32) << 8)

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        if param.dtype != jnp.bfloat16:
            return super().write(target, param, buffers, site)
        assert site is not None
        cut = _cut(target, bits_at(site, target.shape))
        written, lower = halves(target, cut, np.dtype(np.int8))
        return written, {**buffers, "residual": lower}


def _cut(target: Array, noise: Array) -> Array:
    """Return the bits of a float32 that is rounded to 24 bits at random."""
    bits = bits_of(target)
    cut = (bits + (noise >> 24)) & _KEPT
    # The largest numbers are not rounded up to infinity.
    is_beyond = (cut << 1) == np.uint32(0xFF000000)
    return jnp.where(is_beyond, bits & _KEPT, cut)
