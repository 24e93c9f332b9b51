"""The formats of a buffer that a user may choose, and the storage of each format."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.masks import selector
from optadamw.base.plain import whole_number
from optadamw.base.types import DTypeLike
from optadamw.store.blockwise import BlockStorage, Blockwise, Rounding
from optadamw.store.dense import Dense, dense
from optadamw.store.store import Storage


@dataclass(frozen=True)
class Stochastic:
    """The checked argument of `stochastic`: a 16-bit dtype, rounded at random."""

    # Not called `dtype`: `jnp.dtype` would take the object for the dtype itself.
    kept_as: np.dtype

    def __repr__(self) -> str:
        return f"stochastic({self.kept_as.name!r})"


Stored = DTypeLike | Stochastic | Blockwise
"""A value of `mu_dtype`, `nu_dtype` or `ema_dtype`; None is float32."""


def stochastic(dtype: DTypeLike = "bfloat16") -> Stochastic:
    """Store a buffer in 16 bits, rounded at random so that the expected value is exact.

    The result is a value for `mu_dtype`, `nu_dtype` and `ema_dtype`. Rounded to
    nearest, a second moment with b2 = 0.999 never decays in bfloat16: a step of a
    thousandth is below half a unit in the last place. Rounded at random it decays on
    average. The random bits are a hash of (seed, step, leaf, buffer, element); see
    `with_seed`.

    Source: Gupta et al., arXiv 1502.02551; Zamirai et al., arXiv 2010.06192.

    Args:
      dtype: "bfloat16" (default), or "float16", whose range is too small for second
        moments.

    Returns:
      A value for `mu_dtype`, `nu_dtype` or `ema_dtype`.

    Raises:
      TypeError: `dtype` is neither bfloat16 nor float16.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> kept = optadamw.stochastic("bfloat16")
      >>> tx = optadamw.adamw(1e-3, mu_dtype=kept, nu_dtype=kept)
      >>> tx.init({"w": jnp.ones(2)}).nu["w"].dtype.name
      'bfloat16'
    """
    rule = "'bfloat16' or 'float16'"
    try:
        found = jnp.dtype(dtype)
    except TypeError as error:
        raise mistyped("dtype", rule, dtype) from error
    if not jnp.issubdtype(found, jnp.floating) or found.itemsize != 2:
        raise mistyped("dtype", rule, dtype)
    return Stochastic(found)


def blockwise(
    *,
    block_size: int | None = None,
    min_size: int = 4096,
    keep: Any = None,
    rounding: Rounding = "stochastic",
    axis: int | None = None,
) -> Blockwise:
    """Store moments in 8 bits: codes in the parameter's shape, and a scale per block.

    The result is a value for `mu_dtype` and `nu_dtype`. A block of neighbours along one
    axis shares a power of two as its scale; each number is a small float relative
    to this scale, with 3 bits of mantissa. Its relative error is at most an eighth if
    rounded at random and a sixteenth if rounded to nearest, for numbers from 3.7e-5
    (first moment) or 5.6e-10 (second moment) to 1 times the largest number of the
    block. A smaller first moment becomes 0 or the smallest number, whichever is nearer;
    a smaller second moment becomes the smallest number, never 0. A step uses the
    moments before they are rounded. Codes are whole numbers, through which JAX has no
    derivative: the moments of the steps before count as constants.

    One number that is not finite would spoil its block, so a guard is required: `adamw`
    adds `skip_nonfinite`; around other chains put it yourself.

    The state holds uint8 codes in `mu` and `nu`, and the scales in `mu_scales` and
    `nu_scales`, with None for leaves that stay float32. `dequantize(state)` returns the
    numbers.

    Source: the E8M0 scale and E4M3 elements of the OCP Microscaling Formats (MX)
    specification v1.0, without subnormals, and 5 bits of exponent for the second
    moment. docs/ideas/moment_codes.md compares it with the dynamic map of Dettmers et
    al., arXiv 2110.02861, and others.

    Args:
      block_size: numbers that share a scale, >= 1; it must divide the axis of the
        blocks in every leaf in 8 bits. None (default): for each leaf the largest
        divisor of this axis up to 32. A prime axis has blocks of 1, which take 2 bytes
        per number.
      min_size: leaves with fewer numbers stay float32, >= 0; scalars always do.
        Default: 4096.
      keep: leaves that stay float32 at any size, chosen as by `mask`, such as
        "*/embedding". None (default): none.
      rounding: "stochastic" (default), or "nearest", with which a moment never decays
        unless its beta is below 0.9375.
      axis: the axis along which the numbers of a block lie, counted from the end: -1 is
        the last. A leaf with fewer axes has blocks along its first. None (default): for
        each leaf the axis before the last, if its blocks there are a multiple of 8 and
        as large as those along the last axis, because a TPU and XLA then read and write
        each byte once; else the last. A state that was made with blocks along another
        axis keeps them there.

    Returns:
      A value for `mu_dtype` or `nu_dtype`.

    Raises:
      TypeError, ValueError: an argument is of a wrong type or out of its range.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> kept = optadamw.blockwise(keep="embedding")
      >>> tx = optadamw.adamw(1e-3, mu_dtype=kept, nu_dtype=kept)
      >>> state = tx.init({"embedding": jnp.ones((512, 64)), "w": jnp.ones((64, 64))})
      >>> state.mu["w"].shape, state.mu_scales["w"].shape
      ((64, 64), (2, 64))
      >>> state.mu["w"].dtype.name, state.mu["embedding"].dtype.name
      ('uint8', 'float32')
    """
    size = None if block_size is None else _whole("block_size", block_size, 1)
    if rounding not in ("nearest", "stochastic"):
        raise invalid("rounding", "'nearest' or 'stochastic'", rounding)
    return Blockwise(
        block_size=size,
        min_size=_whole("min_size", min_size, 0),
        keep=None if keep is None else selector("keep", keep),
        rounding=rounding,
        axis=None if axis is None else _from_end(axis),
    )


def storage(name: str, given: Stored, *, signed: bool = True) -> Any:
    """Return the storage of a buffer, in any format that a user may choose.

    This function does not check that rounding lets the numbers change; for Adam's own
    buffers the functions in `store.moments` do.

    Args:
      name: the name of the argument in errors.
      given: a dtype, `stochastic(...)`, `blockwise(...)`, or None for float32 (float64
        for float64 parameters).
      signed: whether the buffer may hold negative numbers; default: True. Only the
        buffers `nu` and `nu_max` may be stored in 8 bits without a sign.

    Raises:
      TypeError, ValueError: `given` is no format.
    """
    if isinstance(given, Blockwise):
        return BlockStorage(given, signed)
    if isinstance(given, Stochastic):
        return Dense(given.kept_as, draws=True)
    if callable(given) and given in (blockwise, stochastic):
        remedy = f"Call it: {given.__name__}()."
        raise mistyped(name, "a dtype or a storage", given, remedy)
    return dense(name, given)


def as_written(kept: Storage) -> str:
    """Return a storage as a user would write it."""
    if isinstance(kept, BlockStorage):
        return repr(kept.how)
    if not isinstance(kept, Dense) or kept.dtype is None:
        return "None"
    return repr(Stochastic(kept.dtype)) if kept.draws else repr(kept.dtype.name)


def _whole(name: str, value: Any, least: int) -> int:
    rule = f"a whole number >= {least}"
    return whole_number(name, value, rule, least)


def _from_end(axis: Any) -> int:
    rule = "a whole number < 0, counted from the last axis (-1), or None"
    place = whole_number("axis", axis, rule)
    if place >= 0:
        raise invalid("axis", rule, axis, "Leaves have different numbers of axes.")
    return place
