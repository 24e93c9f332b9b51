"""A map under one scale for each row and each column, as in the 4-bit optimizers.

The scale of an element is the smaller one of the largest magnitudes of its row and of
its column (Li et al., arXiv 2309.01507, Section 4.2): an outlier spoils one row and one
column, and of these only the numbers that have no smaller maximum. An array of another
rank takes the smallest of the maxima over all other axes, one for each axis.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

from benchmarks.codes.code import Array, Code
from benchmarks.codes.mapped import Map, nonzero, number_of

Stored = tuple[Array, list[Array]]


@dataclass(frozen=True)
class RankOne:
    """A code as `Code`, of whole arrays of numbers that are not negative."""

    entries: Map
    element_bits: int
    stochastic: bool = False
    block: int = 0
    """None: a scale reaches over a whole row or column."""

    @property
    def label(self) -> str:
        """Name and rounding."""
        rounding = "stochastic" if self.stochastic else "nearest"
        return f"{self.entries.name}/rows and columns {rounding}"

    @property
    def bits(self) -> float:
        """Bits per value, without its share of the scales, which the shape decides."""
        return self.element_bits

    def at_random(self) -> "RankOne":
        """Return this code with rounding at random."""
        return replace(self, stochastic=True)

    def store(self, values: Array, bits: Array | None) -> Stored:
        """Encodes an array of any shape; `bits` has that shape."""
        axes = range(values.ndim)
        scales = [
            jnp.max(jnp.abs(values), [a for a in axes if a != axis]) for axis in axes
        ]
        unit = values / nonzero(_scale(scales, values.shape))
        code = number_of(self.entries, unit, bits if self.stochastic else None)
        return code.astype(jnp.uint8), scales

    def load(self, stored: Stored, shape: tuple[int, ...]) -> Array:
        """Decodes to an array of that shape."""
        codes, scales = stored
        return self.entries.value(codes.astype(jnp.int32)) * _scale(scales, shape)

    def through(self, values: Array, bits: Array | None) -> Array:
        """Return `values` after a store and a load."""
        return self.load(self.store(values, bits), values.shape)


AnyCode = Code | RankOne


def _scale(scales: list[Array], shape: tuple[int, ...]) -> Array:
    if len(shape) == 1:  # One row: the paper takes one maximum for all.
        return jnp.broadcast_to(jnp.max(scales[0]), shape)
    found = jnp.full(shape, jnp.inf)
    for axis, scale in enumerate(scales):
        others = [other for other in range(len(shape)) if other != axis]
        found = jnp.minimum(found, jnp.expand_dims(scale, others))
    return found
