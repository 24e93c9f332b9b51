"""Fit one saved array to the leaf of the new state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.checkpoint.names import PARAMS, is_in

KINDS = (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_)


def fitted(name: str, array: np.ndarray, like: Any, *, cast: bool) -> Any:
    """Return `array` with the dtype, devices and sharding of `like`.

    Raises:
      ValueError: the shape or dtype does not fit; the message names the leaf.
    """
    _check_fits(name, array, like, cast=cast)
    dtype = native_dtype(like)
    if array.dtype != dtype:
        array = _cast(name, array, dtype)
    return _placed(array, like)


def _check_fits(name: str, array: np.ndarray, like: Any, *, cast: bool) -> None:
    """Refuse another shape, and another dtype unless `cast`."""
    if array.shape != np.shape(like):
        by_field = "" if is_in(name, PARAMS) else " or afresh=('its field',)"
        raise at_leaf(
            name,
            f"it was saved with shape {array.shape}, and here it has {np.shape(like)}.",
            "Restore into parameters of the shape they had, name the saved leaf that "
            "is meant with rename={'its/path': 'saved/path'}, or start it afresh with "
            f"rename={{'its/path': None}}{by_field}.",
        )
    wanted = native_dtype(like)
    if array.dtype == wanted:
        return
    if _kind(array.dtype) != _kind(wanted):
        raise at_leaf(
            name,
            f"it was saved as {array.dtype}, and here it is {wanted}: another kind of "
            "number.",
            "Make a transformation and parameters of the kind that was saved.",
        )
    if not cast:
        raise at_leaf(
            name,
            f"it was saved as {array.dtype}, and here it is {wanted}.",
            "Pass cast=True to convert it, or keep the dtype that it had (mu_dtype, "
            "the parameters' dtype, jax_enable_x64).",
        )


def _cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert `array` to another dtype of its kind, rounded to nearest.

    A finite number beyond the range becomes the largest number of the dtype, as in a
    step. A counter beyond the range is refused.
    """
    if jnp.issubdtype(dtype, jnp.floating):
        most = float(jnp.finfo(dtype).max)
        if most < float(jnp.finfo(array.dtype).max):
            wide = array.astype(np.result_type(array.dtype, np.float32), copy=False)
            array = np.where(np.isfinite(wide), np.clip(wide, -most, most), wide)
    elif jnp.issubdtype(dtype, jnp.integer) and array.size:
        bounds = jnp.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise at_leaf(
                name,
                f"it was saved as {array.dtype}, and {array.max()} does not fit "
                f"{dtype}.",
            )
    return array.astype(dtype)


def native_dtype(like: Any) -> np.dtype:
    """Return the dtype of an array or a Python number, in this machine's byte order."""
    dtype = getattr(like, "dtype", None)
    if dtype is None:
        return np.dtype(jnp.result_type(like))
    is_swapped = isinstance(dtype, np.dtype) and not dtype.isnative
    return dtype.newbyteorder("=") if is_swapped else dtype


def _placed(array: np.ndarray, like: Any) -> Any:
    """Return `array` as the type of `like`, on its devices and in its sharding."""
    if isinstance(like, jax.ShapeDtypeStruct):
        return jax.device_put(np.array(array), like.sharding)
    if not isinstance(like, jax.Array):
        return array.copy() if isinstance(like, np.ndarray) else array.item()
    if like.weak_type and like.shape == ():
        # Only a Python number makes an array with a weak type; without it the step
        # would be compiled again.
        array = array.item()
    else:
        # A copy, because on CPU device_put would share the caller's memory.
        array = np.array(array)
    # device_put with a sharding would commit to devices an array that was uncommitted.
    return jax.device_put(array, like.sharding if like.committed else None)


def _kind(dtype: np.dtype) -> Any:
    return next((kind for kind in KINDS if jnp.issubdtype(dtype, kind)), None)
