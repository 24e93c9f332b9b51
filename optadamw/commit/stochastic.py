"""Stochastic rounding: up or down at random, so that the expected value is exact.

Rounding to nearest loses an update below half a unit in the last place, at every step
anew. Stochastic rounding applies such an update on average
(`optadamw.base.random_bits`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from optadamw.base.numerics import is_narrow
from optadamw.base.random_bits import Site, bits_at, rounded
from optadamw.base.types import Array
from optadamw.commit.commit import Buffers
from optadamw.commit.narrow import NarrowCommit


@dataclass(frozen=True)
class Stochastic(NarrowCommit):
    """Round 16-bit parameters at random and without bias, others to nearest."""

    draws: ClassVar[bool] = True
    name: ClassVar[str] = "stochastic"

    def write(
        self, target: Array, param: Any, buffers: Buffers, site: Site | None
    ) -> tuple[Array, Buffers]:
        if not is_narrow(param.dtype):
            return super().write(target, param, buffers, site)
        assert site is not None
        noise = bits_at(site, target.shape)
        return rounded(target, noise, param.dtype), buffers
