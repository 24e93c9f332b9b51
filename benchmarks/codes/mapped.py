"""Codes that number the entries of a list of values in [-1, 1] or [0, 1].

A block is divided by its largest magnitude; a value is rounded to one of the two
entries beside it. Where a formula gives the entry's number, no table is searched.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.codes.code import Array, Code, chance, largest_of


class Map(NamedTuple):
    """An increasing list of values.

    Attributes:
        name: Its name in the results.
        last: The number of the largest value.
        value: The value of a number.
        below: The number of the last value that is not above one given; it may be off
            by one, as rounding then clips the share.
        split_sign: Whether the list holds magnitudes and the sign has a bit of its own.
        raises: Whether what is above zero and below the first nonzero value is raised
            to that value.
    """

    name: str
    last: int
    value: Callable[[Array], Array]
    below: Callable[[Array], Array]
    split_sign: bool = False
    raises: bool = False


def mapped(entries: Map, block: int, element_bits: int = 8) -> Code:
    """The code of a map under a float32 scale per block."""

    def encode(values: Array, bits: Array | None) -> tuple[Array, Array]:
        scale = largest_of(values)
        unit = values / nonzero(scale)
        target = jnp.abs(unit) if entries.split_sign else unit
        code = number_of(entries, target, bits)
        if entries.raises:
            # Of the value: what is left after the division may have underflowed.
            code = jnp.where(values == 0, 0, jnp.maximum(code, 1))
        if entries.split_sign:
            code = code | ((unit < 0).astype(jnp.int32) << (element_bits - 1))
        return code.astype(jnp.uint8), scale

    def decode(stored: tuple[Array, Array]) -> Array:
        codes, scale = stored[0].astype(jnp.int32), stored[1]
        if not entries.split_sign:
            return entries.value(codes) * scale
        sign_bit = 1 << (element_bits - 1)
        size = entries.value(codes & (sign_bit - 1)) * scale
        return jnp.where(codes & sign_bit, -size, size)

    return Code(entries.name, encode, decode, block, element_bits, 32)


def number_of(entries: Map, target: Array, bits: Array | None) -> Array:
    """The number of one of the two entries beside each target."""
    low = jnp.clip(entries.below(target).astype(jnp.int32), 0, entries.last - 1)
    floor, ceiling = entries.value(low), entries.value(low + 1)
    share = (target - floor) / (ceiling - floor)
    return low + (share > chance(bits)).astype(jnp.int32)


def nonzero(scale: Array) -> Array:
    """The scale as a divisor: 1 where all values are zero."""
    return jnp.where(scale == 0, 1.0, scale)


def dynamic(signed: bool, total_bits: int = 8) -> Map:
    """The dynamic map of bitsandbytes and torchao (7 exponent bits; 3 of 4 bits).

    Source: Dettmers, arXiv 1511.04561 and 2110.02861; the order of operations is that
    of `create_dynamic_map`, so that the entries are theirs.
    """
    exponents = total_bits - 1
    tenths: list[float] = []
    for place in range(exponents):
        count = 2 ** (place + (0 if signed else 1))
        edges = np.linspace(0.1, 1, count + 1, dtype=np.float32)
        means = (edges[:-1] + edges[1:]) / 2
        tenths += (10.0 ** (place - exponents + 1) * means).tolist()
    both = [*tenths, *(-v for v in tenths)] if signed else tenths
    table = np.sort(np.array([*both, 0.0, 1.0], np.float32))
    assert len(table) == 2**total_bits
    return _listed("dynamic" if total_bits == 8 else f"dynamic{total_bits}", table)


def raised(entries: Map) -> Map:
    """Return these entries with only zero mapped to zero."""
    return entries._replace(name=f"{entries.name}+", raises=True)


def _listed(name: str, table: np.ndarray) -> Map:
    return Map(
        name,
        last=len(table) - 1,
        value=lambda number: jnp.asarray(table)[number],
        below=lambda target: (
            jnp.searchsorted(
                jnp.asarray(table), target, "right", method="scan_unrolled"
            )
            - 1
        ),
    )


def logarithmic(decades: float, signed: bool) -> Map:
    """Equal steps of the logarithm over so many decades, and zero."""
    last = 127 if signed else 255
    step = decades * np.log2(10.0) / (last - 1)

    def value(number: Array) -> Array:
        size = jnp.exp2((number - last).astype(jnp.float32) * np.float32(step))
        return jnp.where(number == 0, 0.0, size)

    def below(target: Array) -> Array:
        return jnp.floor(jnp.log2(target) * np.float32(1 / step)) + last

    name = f"log{decades:g}"
    return Map(name, last, value, below, split_sign=signed, raises=not signed)


def power(exponent: int, signed: bool) -> Map:
    """Equal steps of a root: of the value itself (1), of its square root (2)."""
    last = 127 if signed else 255

    def value(number: Array) -> Array:
        return (number.astype(jnp.float32) * np.float32(1 / last)) ** exponent

    def below(target: Array) -> Array:
        root = jnp.sqrt(target) if exponent == 2 else target
        return jnp.floor(root * last)

    name = {1: "linear", 2: "sqrt"}[exponent]
    return Map(name, last, value, below, split_sign=signed)


def powers_without_zero(exponent: int, element_bits: int) -> Map:
    """Equal steps of a root from the first step on: no entry is zero.

    With `exponent=1` and 4 bits, the second moment of the 4-bit optimizers of Li et
    al., arXiv 2309.01507, and of torchao: 1/16, 2/16, ... 1. Where a whole block is
    zero, its scale is zero and so is all that is decoded.
    """
    count = 2**element_bits
    root = power(exponent, signed=False)

    def value(number: Array) -> Array:
        return ((number + 1).astype(jnp.float32) * np.float32(1 / count)) ** exponent

    def below(target: Array) -> Array:
        return jnp.floor((jnp.sqrt(target) if exponent == 2 else target) * count) - 1

    return Map(f"{root.name}{element_bits} without 0", count - 1, value, below)
