"""Buffers in 8 bits: one buffer in two arrays, its codes and its scales."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.checkpoint.names import Name
from optadamw.store.block_code import Blocks, decoded, encoded
from optadamw.store.dequantize import UNSIGNED
from optadamw.store.state import is_buffer, scales_of


class Form(NamedTuple):
    """A buffer of one leaf: its array, and its scales if the array holds codes."""

    array: Any
    scales: Any = None

    @property
    def text(self) -> str:
        """The name of the form, for reports and errors."""
        if self.scales is None:
            return str(self.array.dtype)
        return f"8 bits in blocks of {self.array.shape[-1] // self.scales.shape[-1]}"


def scales_beside(name: Name) -> Name | None:
    """Return the name of a buffer's scales; None for a leaf that cannot have any."""
    if not is_buffer(name.field):
        return None
    return name._replace(field=scales_of(name.field))


def saved_scales(name: Name, taken: str) -> str:
    """Return the name of the scales of the saved buffer `taken`.

    The buffer has the field of `name`.
    """
    stem = str(Name(name.scope, name.field, ""))
    scales = str(Name(name.scope, scales_of(name.field), ""))
    return scales + taken.removeprefix(stem)


def reformed(name: Name, saved: Form, like: Form, *, cast: bool) -> Form:
    """Convert `saved` to the form of `like`, on the host.

    Raises:
      ValueError: the forms differ, and `cast` is False.
    """
    if saved.array.shape != like.array.shape:
        # `fitted` raises the error, as for all other leaves.
        return Form(saved.array)
    is_same = np.shape(saved.scales) == np.shape(like.scales)
    if is_same and (saved.scales is None) == (like.scales is None):
        return saved
    if not cast:
        raise at_leaf(
            str(name),
            f"it was saved as {saved.text}, and here it is {like.text}.",
            "Pass cast=True to convert it, or keep it in the form that it had "
            "(mu_dtype, nu_dtype).",
        )
    signed = name.field not in UNSIGNED
    numbers = saved.array
    if saved.scales is not None:
        numbers = np.asarray(decoded(Blocks(numbers, saved.scales), signed=signed))
    if like.scales is None:
        return Form(numbers)
    block = numbers.shape[-1] // like.scales.shape[-1]
    numbers = jnp.asarray(numbers, jnp.float32)
    return Form(*map(np.asarray, encoded(numbers, block, None, signed=signed)))
