"""Convert arrays of any framework to NumPy, without importing the framework."""

import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf
from optadamw.checkpoint.arrays import on_host


def to_numpy(where: str, value: Any) -> np.ndarray:
    """Copy the numbers of `value` to the host; errors say `where`.

    It takes arrays of JAX and NumPy, tensors of PyTorch (on a device, with gradients,
    in bfloat16), of TensorFlow and MLX, Keras variables, numbers and lists of numbers.

    Raises:
      TypeError: `value` is no array of numbers.
      ValueError: its values are not known, or not all on this host.
    """
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return on_host(where, value)
    framework = type(value).__module__.partition(".")[0]
    if hasattr(value, "detach"):
        _check_torch(where, value)
        try:
            value = _of_torch(value)
        except Exception as error:  # a subclass of tensors without numbers of its own
            raise kind_at_leaf(
                where,
                f"its tensor cannot become an array ({type(error).__name__}: {error}).",
                "Save it as a plain tensor.",
            ) from error
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
    """Refuse a meta tensor, which has no numbers, and a sparse one."""
    if getattr(tensor, "is_meta", False):
        raise at_leaf(
            where,
            "it is a meta tensor, which has a shape and no numbers.",
            "Save the state of an optimizer on a real device.",
        )
    if getattr(tensor, "is_nested", False):
        raise kind_at_leaf(
            where, "it is a nested tensor, without one shape.", "Save plain tensors."
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
    """Return an array of floating or complex numbers, all of them finite.

    Raises:
      TypeError: an array of integers, or no array.
      ValueError: a NaN or an infinity: the run was broken.
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
    """Return one finite real number out of an array, tensor or variable."""
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
    """Return a count: whole, not negative, and within int32, as `State.step` is."""
    if isinstance(value, int) and not isinstance(value, bool):
        number: float = value
    else:
        number = scalar(where, value)
    if number != int(number) or not 0 <= number <= np.iinfo(np.int32).max:
        raise at_leaf(where, f"it must be whole and in [0, 2**31); got {number!r}.")
    return int(number)


def widened(array: np.ndarray) -> np.ndarray:
    """Copy an array into a dtype that every framework reads.

    16-bit floats become float32: PyTorch and TensorFlow do not know the bfloat16 that
    JAX registers with NumPy.
    """
    if array.dtype.kind not in "fc" or array.dtype.itemsize < 4:
        return np.array(array, np.float32)
    return np.array(array)
