"""The store of arrays in one dtype: the parameter's shape, rounded or exact."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.errors import at_leaf, invalid, mistyped
from optadamw.base.numerics import (
    as_reals,
    complex_of,
    compute_dtype,
    from_reals,
    is_complex,
    is_narrow,
    real_of,
)
from optadamw.base.random_bits import Site, bits_at, rounded
from optadamw.base.tree import Leaves
from optadamw.base.types import Array, DTypeLike, PyTree
from optadamw.store.block_code import Blocks


@dataclass(frozen=True)
class Dense:
    """An array of the parameter's shape, rounded to nearest or at random.

    A `dtype` of None (default) is the dtype of computation (float32; float64 for a
    float64 parameter). Complex parameters get the complex dtype of the same precision.
    """

    dtype: np.dtype | None = None
    draws: bool = False

    @property
    def has_scales(self) -> bool:
        return False

    @property
    def is_lossy(self) -> bool:
        return self.dtype is not None and self.dtype.itemsize < 4

    def resolved(self, name: str, leaves: Leaves, tree: PyTree) -> "list[Dense]":
        del name, tree
        return [self] * len(leaves.paths)

    def zeros(self, param: Any) -> Any:
        dtype = self.dtype_for(param)
        if isinstance(param, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(param.shape, dtype, sharding=param.sharding)
        if isinstance(param, jax.core.Tracer):
            return tied(jnp.zeros_like(param, dtype=dtype), param)
        return jnp.zeros_like(param, dtype=dtype)

    def copy(self, param: Any) -> Any:
        if isinstance(param, jax.ShapeDtypeStruct):
            return self.zeros(param)
        # A copy, because jit returns an unchanged input as the same buffer, and
        # donation then refuses it ("attempt to donate the same buffer twice").
        return jnp.array(param, dtype=self.dtype_for(param), copy=True)

    def fitted(self, buffer: Any, param: Any) -> "Dense":
        del buffer, param
        return self

    def check(self, path: str, buffer: Any, param: Any) -> None:
        wanted = self.dtype_for(param)
        if isinstance(buffer, Blocks):
            raise at_leaf(
                path,
                f"its buffer is {wanted} here, and `state` has scales of 8 bits for "
                "it.",
                "The state is of other options: carry it over by name with "
                "checkpoint.restore(tx, params, state, cast=True).",
            )
        shape, dtype = np.shape(buffer), getattr(buffer, "dtype", type(buffer))
        if shape != param.shape or dtype != wanted:
            raise at_leaf(
                path,
                f"its buffer is {dtype}{list(shape)}, expected "
                f"{wanted}{list(param.shape)}.",
                "The state is of other parameters or options; make one with tx.init.",
            )

    def decode(self, buffer: Any, param: Any) -> Array:
        return as_reals(buffer, compute_dtype(param.dtype))

    def encode(self, value: Array, param: Any, site: Site | None = None) -> Array:
        dtype = self.dtype_for(param)
        most = float(jnp.finfo(dtype).max)
        if most < float(jnp.finfo(value.dtype).max):
            # A finite value beyond the dtype becomes the largest of the dtype: infinity
            # would never decay, and would end in NaN.
            value = jnp.where(jnp.isfinite(value), jnp.clip(value, -most, most), value)
        if self.draws and site is not None and is_narrow(dtype):
            return rounded(value, bits_at(site, value.shape), dtype)
        return from_reals(value, dtype)

    def summary(self, param: Any) -> tuple[str, int]:
        dtype = self.dtype_for(param)
        return dtype.name, math.prod(param.shape) * dtype.itemsize

    def dtype_for(self, param: Any) -> np.dtype:
        real = self.dtype or compute_dtype(param.dtype)
        return complex_of(real) if is_complex(param.dtype) else real


def tied(made: Array, like: Array) -> Array:
    """Return `made` unchanged; under `jit` it gets the sharding of `like`.

    Zeros depend on nothing, so XLA would put a whole copy of them on every device. The
    selection lets the sharding of `like` reach them. Its predicate stands behind a
    barrier, because XLA for TPU and GPU removes a selection by a known predicate
    before it gives shardings to what is left (libtpu 0.0.42 and 0.0.50, CUDA 13).
    """
    never = lax.optimization_barrier(jnp.zeros((), bool))
    return jnp.where(never, like.astype(made.dtype), made)


def dense(name: str, dtype: DTypeLike | None) -> Dense:
    """Return the store for the dtype that a user passed as the argument `name`."""
    if dtype is None:
        return Dense()
    rule = "a floating dtype such as 'bfloat16' or 'float32', or None"
    try:
        parsed = jnp.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise mistyped(name, rule, dtype) from error
    if is_complex(parsed):
        # Optax takes the complex dtype; here a store names the dtype of the parts.
        parsed = real_of(parsed)
    if not jnp.issubdtype(parsed, jnp.floating) or parsed.itemsize < 2:
        raise mistyped(name, rule, dtype)
    check_enabled(name, parsed)
    return Dense(parsed)


def check_enabled(name: str, dtype: np.dtype) -> None:
    """Refuse float64 if x64 is off, where JAX would make float32 of it."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise invalid(
            name,
            "a dtype that is switched on",
            dtype.name,
            "Set jax_enable_x64, or use float32.",
        )
