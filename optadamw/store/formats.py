"""The forms of a buffer that a user may ask for, and the storage of each."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Constant, Dynamic, Hyperparameter
from optadamw.base.masks import selector
from optadamw.base.types import DTypeLike
from optadamw.store.block_code import RELATIVE
from optadamw.store.blockwise import BlockStorage, Blockwise, Rounding
from optadamw.store.dense import Dense, dense
from optadamw.store.store import Storage

REMEDY = "Use stochastic('bfloat16'), blockwise() or 'float32'."


@dataclass(frozen=True)
class Stochastic:
    """A 16-bit dtype, rounded at random; `stochastic` makes it."""

    # Not `dtype`, by which `jnp.dtype` would take it for that dtype itself.
    kept_as: np.dtype

    def __repr__(self) -> str:
        return f"stochastic({self.kept_as.name!r})"


Stored = DTypeLike | Stochastic | Blockwise
"""What `mu_dtype`, `nu_dtype` and `ema_dtype` take."""


def stochastic(dtype: DTypeLike = "bfloat16") -> Stochastic:
    """Keep a buffer in 16 bits, rounded up or down at random, right on average.

    For `mu_dtype`, `nu_dtype` and `ema_dtype`. Rounded to nearest, a second moment with
    b2 = 0.999 never decays in bfloat16: a step of a thousandth is below half a unit in
    the last place. At random it decays on average. The bits are a hash of (seed, step,
    leaf, buffer, element); see `with_seed`.

    Source: Gupta et al., arXiv 1502.02551; Zamirai et al., arXiv 2010.06192.

    Args:
      dtype: "bfloat16", or "float16", whose range suits first moments alone.

    Returns:
      A value for those arguments.

    Raises:
      TypeError: another dtype.

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
) -> Blockwise:
    """Keep moments in 8 bits: codes in the parameter's shape, and a scale per block.

    For `mu_dtype` and `nu_dtype`. Neighbours along the last axis share a power of two;
    each number is a small float below it with 3 bits of mantissa, so that its error is
    relative to itself: an eighth at most where it is rounded at random, a sixteenth to
    nearest, over the range 3.7e-5 (first moment) or 5.6e-10 (second moment) to 1 of the
    largest in its block. Below, a first moment becomes 0 or the smallest number, the
    nearer one, and a second moment the smallest number, never 0. A step uses the
    moments before they are rounded.

    One number that is not finite would spoil its block, so a guard is needed: `adamw`
    brings `skip_nonfinite`; put `skip_nonfinite` around other chains.

    The state holds uint8 codes in `mu` and `nu`, and the scales in `mu_scales` and
    `nu_scales`, arrays of the parameter's rank too, None for leaves that stay as they
    are: `dequantize(state)` gives the numbers.

    Source: the E8M0 scale and E4M3 elements of the OCP Microscaling Formats (MX)
    specification v1.0, without subnormals, and 5 bits of exponent for the second
    moment. docs/moment_codes.md compares it with the dynamic map of Dettmers et al.,
    arXiv 2110.02861, and others.

    Args:
      block_size: numbers that share a scale, >= 1; it must divide the last axis of
        every leaf that is kept so. None: for each leaf the largest divisor up to 32
        (of a prime that is 1, and 2 bytes).
      min_size: leaves of fewer numbers stay float32, >= 0. Scalars do in any case.
      keep: leaves that stay float32 whatever their size: what `mask` takes, such as
        "*/embedding". None: none.
      rounding: "stochastic", or "nearest", in which moments freeze unless their beta is
        below 0.93.

    Returns:
      A value for those arguments.

    Raises:
      TypeError, ValueError: an argument of another kind or out of its range.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> kept = optadamw.blockwise(keep="embedding")
      >>> tx = optadamw.adamw(1e-3, mu_dtype=kept, nu_dtype=kept)
      >>> state = tx.init({"embedding": jnp.ones((512, 64)), "w": jnp.ones((64, 64))})
      >>> state.mu["w"].shape, state.mu_scales["w"].shape
      ((64, 64), (64, 2))
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
    )


def storage(name: str, given: Stored, *, signed: bool = True) -> Any:
    """The storage of a buffer, in any form that a user may ask for.

    Whether the numbers move in that form is not checked: `moment`, `maximum` and
    `average` do that for the buffers that they are for.

    Args:
      name: the argument that the user gave, for errors.
      given: a dtype, `stochastic(...)`, `blockwise(...)`, or None for float32 (float64
        for float64 parameters).
      signed: whether the buffer may hold negative numbers. Only the buffers `nu` and
        `nu_max` may be kept in 8 bits without a sign.

    Raises:
      TypeError, ValueError: what is no form.
    """
    if isinstance(given, Blockwise):
        return BlockStorage(given, signed)
    if isinstance(given, Stochastic):
        return Dense(given.kept_as, draws=True)
    if callable(given) and given in (blockwise, stochastic):
        raise mistyped(name, "a dtype or a storage", given, "Call it: blockwise().")
    return dense(name, given)


def moment(name: str, given: Stored, beta: Hyperparameter) -> Storage:
    """The storage of a running mean with the decay `beta`.

    Raises:
      TypeError, ValueError: what is no form for it, or one in which it would freeze.
    """
    is_square = name == "nu_dtype"
    found = storage(name, given, signed=not is_square)
    if is_square:
        _check_range(name, found)
    _check_moves(name, found, beta, must_know=is_square)
    return found


def maximum(name: str, given: Stored) -> Storage:
    """The storage of a maximum, rounded to nearest: at random it would climb."""
    if isinstance(given, Blockwise):
        how = Blockwise(given.block_size, given.min_size, given.keep, "nearest")
        return BlockStorage(how, signed=False)
    if isinstance(given, Stochastic):
        given = given.kept_as
    found = storage(name, given, signed=False)
    _check_range(name, found)
    return found


def average(name: str, given: Stored, legal: str) -> Dense:
    """The storage of the running average of the parameters.

    Raises:
      TypeError, ValueError: what is no form for it, or one in which it stands still.
    """
    if isinstance(given, Blockwise):
        raise invalid(
            name,
            legal,
            given,
            "3 bits of mantissa are no model: its weights would be off by 6 percent.",
        )
    found = storage(name, given, signed=True)
    assert isinstance(found, Dense)
    if found.dtype is not None and found.dtype.itemsize < 4 and not found.draws:
        raise invalid(
            name,
            legal,
            found.dtype.name,
            "In 16 bits, rounded to nearest, an average with decay 0.999 stands still: "
            "its steps are below half a unit in the last place.",
        )
    return found


def as_written(kept: Storage) -> str:
    """A storage as the user writes it."""
    if isinstance(kept, BlockStorage):
        return repr(kept.how)
    if not isinstance(kept, Dense) or kept.dtype is None:
        return "None"
    return repr(Stochastic(kept.dtype)) if kept.draws else repr(kept.dtype.name)


def _check_range(name: str, kept: Any) -> None:
    """Refuse a form of squares in which those of small gradients are 0."""
    if getattr(kept, "dtype", None) == jnp.float16:
        raise invalid(
            name,
            "a form with the range of float32",
            "float16",
            "There the squares of gradients below 2.4e-4 are 0. " + REMEDY,
        )


def _check_moves(
    name: str, kept: Any, beta: Hyperparameter, *, must_know: bool
) -> None:
    """Refuse a mean that its rounding would not let decay.

    A mean decays by the factor beta, and stands still where 1 - beta is not above half
    a unit in the last place, which is at most 2**-(bits of mantissa + 1) of a number.
    """
    half = _half_unit(kept)
    if half is None:
        return
    letter = "b2" if name == "nu_dtype" else "b1"
    known = _known(beta)
    if known is None:
        if must_know:
            raise ValueError(
                f"`{name}` is {as_written(kept)}, rounded to nearest, in which a mean "
                f"stands still unless {letter} is below {1 - half:.4g}; got "
                f"{letter}={beta!r}, of which that is not known. {REMEDY}"
            )
    elif 1 - known <= half:
        raise ValueError(
            f"`{name}` must be a form in which the moment decays; got "
            f"{as_written(kept)}, rounded to nearest, with {letter}={known!r}: a step "
            f"of {1 - known:.3g} is below half a unit in the last place ({half:.3g}), "
            f"so it would never decay. {REMEDY}"
        )


def _half_unit(kept: Any) -> float | None:
    """Half a unit in the last place, relative, of what is rounded to nearest."""
    if kept.draws:
        return None
    if isinstance(kept, BlockStorage):
        return RELATIVE["nearest"]
    if kept.dtype is None or kept.dtype.itemsize >= 4:
        return None
    return 2.0 ** -(jnp.finfo(kept.dtype).nmant + 1)


def _known(beta: Hyperparameter) -> float | None:
    if isinstance(beta, Constant):
        return beta.value
    if isinstance(beta, Dynamic) and not beta.is_traced:
        return float(np.asarray(jax.device_get(beta.value)))
    return None


def _whole(name: str, value: Any, least: int) -> int:
    rule = f"a whole number >= {least}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise mistyped(name, rule, value)
    if value < least:
        raise invalid(name, rule, value)
    return int(value)
