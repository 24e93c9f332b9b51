"""Anything that is an array, of whatever framework, as NumPy; none is imported."""

import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf
from optadamw.checkpoint.arrays import on_host


def to_numpy(where: str, value: Any) -> np.ndarray:
    """The numbers of `value` in the host's memory; `where` is for errors.

    Arrays of JAX and NumPy, tensors of PyTorch (on a device, with gradients, in
    bfloat16), of TensorFlow and MLX, Keras variables, numbers and lists of numbers.

    Raises:
      TypeError: it is no array of numbers.
      ValueError: its values are not known, or not all here.
    """
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return on_host(where, value)
    framework = type(value).__module__.partition(".")[0]
    if hasattr(value, "detach"):
        _check_torch(where, value)
        value = _of_torch(value)
    elif framework == "mlx":
        value = _of_mlx(value)
    elif isinstance(getattr(value, "value", None), jax.Array):
        value = value.value  # a Keras variable on the JAX backend, an NNX Variable
    elif hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, jax.Array):
        return on_host(where, value)
    try:
        array = np.asarray(value)
    except Exception as error:  # each framework has its own kinds
        raise kind_at_leaf(
            where,
            f"it must be an array of numbers; got {type(value).__name__} ({error}).",
        ) from error
    return on_host(where, array)


def _check_torch(where: str, tensor: Any) -> None:
    """Refuse a tensor without numbers, or with some of them."""
    if getattr(tensor, "is_meta", False):
        raise at_leaf(
            where,
            "it is a meta tensor, which has a shape and no numbers.",
            "Save the state of an optimizer on a real device.",
        )
    layout = str(getattr(tensor, "layout", "torch.strided"))
    if layout != "torch.strided":
        raise kind_at_leaf(
            where, f"it is a {layout} tensor.", "Save it as tensor.to_dense()."
        )


def _of_torch(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16" or "float8" in str(tensor.dtype):
        tensor = tensor.float()  # wider, so exact; NumPy has no such dtype
    return tensor.numpy()


def _of_mlx(array: Any) -> np.ndarray:
    if str(array.dtype).endswith("bfloat16"):
        # MLX hands out no bfloat16; the bits, though.
        core = sys.modules[type(array).__module__]
        return np.array(array.view(core.uint16)).view(jnp.bfloat16)
    return np.array(array)


def numbers(where: str, value: Any) -> np.ndarray:
    """An array of floating or complex numbers, all of them finite.

    Raises:
      TypeError: of integers, or no array.
      ValueError: NaN or infinite, which a run cannot be taken up with.
    """
    array = to_numpy(where, value)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise kind_at_leaf(
            where,
            f"it must be floating; got {array.dtype}{list(array.shape)}.",
            "Codes of 8 bits are decoded by from_torchao and from_bitsandbytes.",
        )
    count = int(array.size - np.count_nonzero(np.isfinite(array)))
    if count:
        raise at_leaf(
            where,
            f"{count} of its {array.size} numbers are NaN or infinite.",
            "The run was broken when it was saved: take an earlier checkpoint.",
        )
    return array


def scalar(where: str, value: Any) -> float:
    """One finite real number, whatever holds it."""
    array = to_numpy(where, value)
    if array.size != 1 or array.dtype.kind in "cb":
        raise at_leaf(
            where, f"it must be one real number; got {array.dtype}{list(array.shape)}."
        )
    number = float(array.reshape(()))
    if not math.isfinite(number):
        raise at_leaf(where, f"it must be finite; got {number!r}.")
    return number


def whole(where: str, value: Any) -> int:
    """A count: whole, not negative, and within int32, in which we count."""
    if isinstance(value, int) and not isinstance(value, bool):
        number: float = value
    else:
        number = scalar(where, value)
    if number != int(number) or not 0 <= number <= np.iinfo(np.int32).max:
        raise at_leaf(where, f"it must be whole and in [0, 2**31); got {number!r}.")
    return int(number)


def widened(array: np.ndarray) -> np.ndarray:
    """A copy of its own, in a dtype that every framework reads without a word.

    16-bit floats become float32: PyTorch and TensorFlow do not know the bfloat16 that
    JAX registers with NumPy.
    """
    if array.dtype.kind not in "fc" or array.dtype.itemsize < 4:
        return np.array(array, np.float32)
    return np.array(array)
