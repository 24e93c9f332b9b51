"""A buffer of a commit that only 16-bit parameters have; for others it is None."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.numerics import is_narrow, is_tiny
from optadamw.base.random_bits import Site
from optadamw.base.tree import Leaves
from optadamw.base.types import Array, PyTree
from optadamw.commit.commit import Commit
from optadamw.store.dense import Dense

DtypeOf = Callable[[Any], np.dtype]


@dataclass(frozen=True)
class Narrow:
    """An array of the parameter's shape, for 16-bit parameters only.

    The array is neither decoded nor encoded: only the commit interprets its numbers.
    """

    dtype_of: DtypeOf
    """Returns the dtype of the buffer for a parameter."""
    copies: bool = False
    """Whether a floating buffer begins as a copy of the parameter; default: zeros."""

    draws: ClassVar[bool] = False
    is_lossy: ClassVar[bool] = False
    has_scales: ClassVar[bool] = False

    def resolved(self, name: str, leaves: Leaves, tree: PyTree) -> "list[Narrow]":
        del name, tree
        return [self] * len(leaves.paths)

    def zeros(self, param: Any) -> Any:
        if not is_narrow(param.dtype):
            return None
        made = Dense(self.dtype_of(param))
        starts = made.copy if self.copies and self.dtype_of(param).kind == "f" else None
        return (starts or made.zeros)(param)

    def copy(self, param: Any) -> Any:
        return self.zeros(param)

    def fitted(self, buffer: Any, param: Any) -> "Narrow":
        del buffer, param
        return self

    def check(self, path: str, buffer: Any, param: Any) -> None:
        if not is_narrow(param.dtype):
            if buffer is not None:
                raise at_leaf(
                    path,
                    f"it is {param.dtype} and has a residual, which only parameters "
                    "of 16 bits have.",
                    "The state is of other parameters; make one with tx.init.",
                )
            return
        if buffer is None:
            raise at_leaf(
                path,
                f"it is {param.dtype} and its residual is None.",
                "The state is of other parameters; make one with tx.init.",
            )
        Dense(self.dtype_of(param)).check(path, buffer, param)

    def decode(self, buffer: Any, param: Any) -> Any:
        del param
        return buffer

    def encode(self, value: Array, param: Any, site: Site | None = None) -> Any:
        del param, site
        return value

    def summary(self, param: Any) -> tuple[str, int]:
        if not is_narrow(param.dtype):
            return "", 0
        dtype = self.dtype_of(param)
        return dtype.name, math.prod(param.shape) * dtype.itemsize


class NarrowCommit(Commit):
    """A commit for 16-bit parameters, which rounds all others to nearest."""

    def check(self, dtypes: list[Any], paths: tuple[str, ...]) -> None:
        """Refuse a tree without 16-bit parameters, on which it would have no effect.

        Raises:
          ValueError: no parameter has 16 bits; the message names one of them.
        """
        if dtypes and not any(is_narrow(dtype) for dtype in dtypes):
            dtype = jnp.dtype(dtypes[0])
            otherwise = f"or leave `commit` out: {dtype} is written exactly."
            if is_tiny(dtype):
                otherwise = f"in which a step moves numbers that {dtype} cannot hold."
            raise ValueError(
                f"commit={self.name!r} is for 16-bit parameters, and there are none: "
                f"'{paths[0]}' is {dtype}. Cast the model to bfloat16, {otherwise} "
                "(precision='mixed' and 'compact' set `commit`; for 8-bit moments "
                "alone use mu_dtype=nu_dtype=blockwise().)"
            )


def bits_of(x: Array) -> Array:
    """Return the bits of a float32 or 16-bit array as unsigned integers."""
    wanted = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, wanted)
