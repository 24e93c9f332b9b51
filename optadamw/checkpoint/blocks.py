"""Buffers in 8 bits: one buffer in two arrays, its codes and its scales."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.checkpoint.names import Name
from optadamw.store.block_code import Blocks, block_of, decoded, encoded
from optadamw.store.blockwise import sharding_of_scales
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
        blocks = Blocks(self.array, self.scales)
        along = "" if blocks.axis == -1 else f" along axis {blocks.axis}"
        return f"8 bits in blocks of {blocks.block}{along}"


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
    new = Blocks(like.array, like.scales)
    numbers = jnp.asarray(numbers, jnp.float32)
    made = encoded(numbers, new.block, None, signed=signed, axis=new.axis)
    return Form(*map(np.asarray, made))


def with_axis_of(saved: Form, like: Form) -> Form:
    """Return `like` with its blocks along the axis along which `saved` has them.

    If the blocks differ in more than their axis, the result is `like`.
    """
    if saved.scales is None or like.scales is None:
        return like
    shape = tuple(saved.array.shape)
    if shape != tuple(like.array.shape) or len(saved.scales.shape) != len(shape):
        return like
    old, new = Blocks(*saved), Blocks(*like)
    if old.axis == new.axis or old.block not in (new.block, block_of(shape, old.axis)):
        return like
    scales = tuple(saved.scales.shape)
    codes = like.array
    sharding = getattr(codes, "sharding", None)
    if isinstance(codes, jax.Array) and not codes.committed:
        sharding = None
    sharding = sharding_of_scales(sharding, scales, old.axis)
    placed = jax.ShapeDtypeStruct(scales, jnp.uint8, sharding=sharding)
    return Form(codes, placed)
