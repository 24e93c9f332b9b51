"""The storage of Adam's own buffers, in which rounding must let the numbers change."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import Constant, Dynamic, Hyperparameter
from optadamw.store.block_code import RELATIVE
from optadamw.store.blockwise import BlockStorage, Blockwise
from optadamw.store.dense import Dense
from optadamw.store.formats import Stochastic, Stored, as_written, storage
from optadamw.store.store import Storage

REMEDY = "Use stochastic('bfloat16'), blockwise() or 'float32'."


def moment(
    name: str, given: Stored, beta: Hyperparameter, letter: str | None = None
) -> Storage:
    """Return the storage of a running mean with the decay `beta`.

    Errors call the decay `letter`; None: b2 for `nu_dtype` and else b1.

    Raises:
      TypeError, ValueError: `given` is no format for a moment, or the mean would never
        decay in it.
    """
    is_square = name == "nu_dtype"
    found = storage(name, given, signed=not is_square)
    if is_square:
        _check_range(name, found)
    letter = letter or ("b2" if is_square else "b1")
    _check_moves(name, found, beta, letter, must_know=letter != "b1")
    return found


def maximum(name: str, given: Stored) -> Storage:
    """Return the storage of a maximum, always rounded to nearest.

    A maximum of random roundings would grow.
    """
    if isinstance(given, Blockwise):
        how = replace(given, rounding="nearest")
        return BlockStorage(how, signed=False)
    if isinstance(given, Stochastic):
        given = given.kept_as
    found = storage(name, given, signed=False)
    _check_range(name, found)
    return found


def average(name: str, given: Stored, legal: str) -> Dense:
    """Return the storage of the running average of the parameters.

    Raises:
      TypeError, ValueError: `given` is no format for an average, or the average would
        not change in it.
    """
    if isinstance(given, Blockwise):
        raise invalid(
            name,
            legal,
            given,
            "With 3 bits of mantissa the averaged weights would be off by 6 percent.",
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


def _check_range(name: str, kept: Any) -> None:
    """Refuse a format of the second moment in which small squares are 0."""
    if getattr(kept, "dtype", None) == jnp.float16:
        raise invalid(
            name,
            "a form with the range of float32",
            "float16",
            "There the squares of gradients below 2.4e-4 are 0. " + REMEDY,
        )


def _check_moves(
    name: str, kept: Any, beta: Hyperparameter, letter: str, *, must_know: bool
) -> None:
    """Refuse a mean that rounding would keep from decaying.

    A mean decays by the factor beta. It does not change if 1 - beta is at most half a
    unit in the last place, which is at most 2**-(bits of mantissa + 1) of a number.
    """
    half = _half_unit(kept)
    if half is None:
        return
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
    """Return half a relative unit in the last place; None if not rounded to nearest."""
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
