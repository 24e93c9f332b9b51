"""Kahan's compensated summation: each step adds the rounding error of the last one.

Sources: Kahan, CACM 8(1), 1965; for training Zamirai et al., arXiv 2010.06192,
Algorithm 2. Unlike optimi, this commit compensates weight decay too: rules read the
sum of parameter and compensation.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from optadamw.base.numerics import as_reals, compute_dtype, from_reals, is_narrow
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.commit.commit import Buffers
from optadamw.commit.narrow import Narrow, NarrowCommit
from optadamw.store.slot import Slot


def _own_dtype(param: Any) -> np.dtype:
    return np.dtype(param.dtype)


@dataclass(frozen=True)
class Kahan(NarrowCommit):
    """Round to nearest and keep the rounding error in the parameter's dtype."""

    name: ClassVar[str] = "kahan"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("residual", Narrow(_own_dtype)),)

    def read(self, param: Any, buffers: Buffers) -> Array:
        value = as_reals(param, compute_dtype(param.dtype))
        if not is_narrow(param.dtype):
            return value
        return value + buffers["residual"].astype(value.dtype)

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        del site
        written = from_reals(target, param.dtype)
        if not is_narrow(param.dtype):
            return written, buffers
        lost = target - written.astype(target.dtype)
        # The error of an infinite parameter is set to 0: inf - inf would be NaN.
        lost = jnp.where(jnp.isfinite(lost), lost, 0).astype(param.dtype)
        return written, {**buffers, "residual": lost}
