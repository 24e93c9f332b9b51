"""The store of 8-bit moments: codes in the parameter's shape, scales in its rank."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optadamw.base.errors import at_leaf, kind_at_leaf
from optadamw.base.masks import Selector
from optadamw.base.numerics import is_complex
from optadamw.base.random_bits import Site, bits_at
from optadamw.base.tree import Leaves
from optadamw.base.types import Array, PyTree
from optadamw.store.block_code import (
    Blocks,
    axis_of,
    block_of,
    decoded,
    encoded,
    in_blocks,
    spec_of_blocks,
)
from optadamw.store.dense import Dense, tied

Rounding = Literal["nearest", "stochastic"]


@dataclass(frozen=True)
class Blockwise:
    """The checked arguments of `blockwise`: 8 bits for large leaves."""

    block_size: int | None = None
    min_size: int = 4096
    keep: Selector | None = None
    rounding: Rounding = "stochastic"
    axis: int | None = None

    def __repr__(self) -> str:
        plain = Blockwise()
        pairs = [(f.name, getattr(self, f.name)) for f in fields(self)]
        given = [f"{k}={v!r}" for k, v in pairs if v != getattr(plain, k)]
        return f"blockwise({', '.join(given)})"


@dataclass(frozen=True)
class BlockStorage:
    """The 8-bit format of one slot: large leaves have blocks, others are float32."""

    how: Blockwise
    signed: bool
    has_scales: ClassVar[bool] = True

    @property
    def draws(self) -> bool:
        return self.how.rounding == "stochastic"

    def resolved(
        self, name: str, leaves: Leaves, tree: PyTree
    ) -> "list[BlockStore | Dense]":
        how, kept = self.how, (False,) * len(leaves.paths)
        if how.keep is not None:
            kept = how.keep.resolve("keep", leaves, tree)
        store = BlockStore(self.signed, self.draws, how.block_size, how.axis)
        found: list[BlockStore | Dense] = []
        is_part = bool(jax.sharding.get_abstract_mesh().manual_axes)
        for path, array, is_kept in zip(leaves.paths, leaves.arrays, kept, strict=True):
            # Without parameters the leaf is a gradient, which may be None.
            shape = () if array is None else array.shape
            is_small = math.prod(shape) < max(how.min_size, 1)
            if is_kept or is_small or shape == ():
                may_be_cut = is_part and not is_kept and shape != ()
                found.append(SmallPart(whole=store) if may_be_cut else Dense())
                continue
            store.check_leaf(name, path, array)
            found.append(store)
        return found


@dataclass(frozen=True)
class BlockStore:
    """The store of one buffer in blocks of 8 bits."""

    signed: bool
    """Whether the codes have a sign."""
    draws: bool
    """Whether numbers are rounded at random."""
    block_size: int | None
    """Numbers that share a scale; None: `block_of` chooses it for each leaf."""
    axis: int | None = None
    """The axis of the blocks, counted from the end; None: chosen for each leaf."""
    is_lossy: ClassVar[bool] = True

    def check_leaf(self, name: str, path: str, array: Any) -> None:
        """Refuse a leaf that cannot be stored in these blocks."""
        is_wide = is_complex(array.dtype) or jnp.dtype(array.dtype).itemsize > 4
        if is_wide:
            raise kind_at_leaf(
                path,
                f"it is {array.dtype}, and 8 bits for `{name}` are for real parameters "
                "up to float32.",
                "Leave it as it is with blockwise(keep=<a pattern for it>).",
            )
        shape = tuple(array.shape)
        axis = self.axis_in(shape)
        if self.block_size is not None and shape[axis] % self.block_size:
            which = "last axis" if axis == -1 else f"axis {axis}"
            raise at_leaf(
                path,
                f"its {which} of {shape[axis]} is not a multiple of block_size="
                f"{self.block_size}, by which `{name}` is kept.",
                "Leave block_size out, and a divisor is chosen for each leaf, or leave "
                "this one as it is with blockwise(keep=<a pattern for it>).",
            )

    def axis_in(self, shape: tuple[int, ...]) -> int:
        """Return the axis of the blocks of a leaf of this shape, counted from the end.

        A leaf with fewer axes than `axis` asks for has its blocks along its first axis.
        """
        if self.axis is not None:
            return max(self.axis, -len(shape))
        if self.block_size is None:
            return axis_of(shape)
        return -2 if len(shape) > 1 and shape[-2] % self.block_size == 0 else -1

    def block(self, shape: tuple[int, ...]) -> int:
        """Return how many numbers share a scale in a leaf of this shape."""
        return self.block_size or block_of(shape, self.axis_in(shape))

    def shapes(self, param: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape of the codes and the shape of the scales."""
        shape = tuple(param.shape)
        coarse = list(shape)
        coarse[self.axis_in(shape)] //= self.block(shape)
        return shape, tuple(coarse)

    def fitted(self, buffer: Any, param: Any) -> "BlockStore":
        """Return the store for a buffer whose blocks lie along another axis.

        If no axis was asked for, a state keeps the axis with which it was made: states
        of earlier versions have all blocks along the last axis.
        """
        if self.axis is not None or not isinstance(buffer, Blocks):
            return self
        found = np.shape(buffer.scales)
        if self.shapes(param)[1] == found:
            return self
        for axis in range(-1, -len(param.shape) - 1, -1):
            other = replace(self, axis=axis)
            if param.shape[axis] % other.block(param.shape):
                continue
            if other.shapes(param)[1] == found:
                return other
        return self

    def zeros(self, param: Any) -> Blocks:
        shape, coarse = self.shapes(param)
        axis = self.axis_in(shape)
        if isinstance(param, jax.ShapeDtypeStruct):
            sharding = param.sharding
            return Blocks(
                jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding),
                jax.ShapeDtypeStruct(
                    coarse,
                    jnp.uint8,
                    sharding=sharding_of_scales(sharding, coarse, axis),
                ),
            )
        codes = Dense(np.dtype(np.uint8)).zeros(param)
        if isinstance(param, jax.core.Tracer):
            largest = in_blocks(codes, self.block(shape), axis).max(axis)
            return Blocks(codes, tied(jnp.zeros_like(largest), largest))
        scales = jnp.zeros(coarse, jnp.uint8)
        if isinstance(param.sharding, NamedSharding):
            scales = jax.device_put(
                scales, sharding_of_scales(param.sharding, coarse, axis)
            )
        elif param.committed:
            scales = jax.device_put(scales, param.sharding)
        return Blocks(codes, scales)

    def copy(self, param: Any) -> Blocks:
        if isinstance(param, jax.ShapeDtypeStruct):
            return self.zeros(param)
        return self.encode(jnp.asarray(param, jnp.float32), param)

    def check(self, path: str, buffer: Any, param: Any) -> None:
        if not isinstance(buffer, Blocks):
            raise kind_at_leaf(
                path,
                "its buffer has scales here, as it is kept in blocks of 8 bits; got "
                f"{getattr(buffer, 'dtype', type(buffer).__name__)} without.",
                "The state is of other options: carry it over by name with "
                "checkpoint.restore(tx, params, state, cast=True).",
            )
        for part, shape, found in zip(
            ("codes", "scales"), self.shapes(param), buffer, strict=True
        ):
            dtype = getattr(found, "dtype", type(found).__name__)
            if np.shape(found) != shape or dtype != np.uint8:
                raise at_leaf(
                    path,
                    f"the {part} of its buffer are {dtype}{list(np.shape(found))}, "
                    f"expected uint8{list(shape)}.",
                    "The state is of other parameters or options; make one with "
                    "tx.init.",
                )

    def decode(self, buffer: Blocks, param: Any) -> Array:
        del param
        return decoded(buffer, signed=self.signed)

    def encode(self, value: Array, param: Any, site: Site | None = None) -> Blocks:
        noise = None
        if self.draws and site is not None:
            noise = bits_at(site, value.shape)
        block, axis = self.block(param.shape), self.axis_in(param.shape)
        return encoded(value, block, noise, signed=self.signed, axis=axis)

    def summary(self, param: Any) -> tuple[str, int]:
        codes, scales = self.shapes(param)
        form = f"8-bit/{self.block(param.shape)}"
        if self.axis_in(param.shape) != -1:
            form += f"@{self.axis_in(param.shape)}"
        return form, math.prod(codes) + math.prod(scales)


@dataclass(frozen=True)
class SmallPart(Dense):
    """The store of a leaf inside `shard_map` that has fewer numbers than `min_size`.

    If it is a part of a larger parameter, the state has blocks of 8 bits for it.
    """

    whole: BlockStore | None = None
    """The store of the larger parameter."""

    def fitted(self, buffer: Any, param: Any) -> Any:
        """Return the store of the buffer that the state has."""
        if isinstance(buffer, Blocks) and self.whole is not None:
            return self.whole.fitted(buffer, param)
        return Dense()


def sharding_of_scales(sharding: Any, shape: tuple[int, ...], axis: int) -> Any:
    """Return the sharding of the scales: the parameter's, as far as it divides them.

    It is written as the parameter's is: for JAX's cache of compiled programs
    P("data", None) is another sharding than P("data"). An entry that is left out is
    written as JAX writes the result of a step: on explicit axes as None, on automatic
    axes not at all if it is the last.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding
    place = len(shape) + axis
    spec = spec_of_blocks(sharding, place, shape[place])
    if spec != list(sharding.spec):
        while spec[-1:] == [None] and AxisType.Explicit not in sharding.mesh.axis_types:
            spec.pop()
    kind = sharding.memory_kind
    return NamedSharding(sharding.mesh, PartitionSpec(*spec), memory_kind=kind)
