"""Check that a State belongs to the transformation that gets it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from optadamw.store.state import SCALARS, State, buffer_in


def check_fields(state: Any, kept: Sequence[str], absent: Collection[str] = ()) -> None:
    """Refuse an object that is no State, or the State of another transformation.

    Args:
      state: the argument `state` of a call.
      kept: the names of the buffers, scales and scalars that the transformation keeps.
      absent: those of `kept` that may be None, because the parameters are one array,
        which lacks them. Default: none.
    """
    if not isinstance(state, State):
        raise TypeError(
            f"`state` must be the State that tx.init(params) returned; got "
            f"{type(state).__name__}. A state of another library is not read "
            "here, and tx.init starts afresh."
        )
    names = [name for name in State._fields[1:] if name != "custom"]  # step: always
    custom = [name for name in kept if name not in State._fields]
    for name in dict.fromkeys([*names, *custom, *(state.custom or {})]):
        present = buffer_in(state, name) is not None
        if present != (name in kept) and (present or name not in absent):
            has = "holds" if present else "lacks"
            what = f"`{name}`" if name in SCALARS else f"the buffer `{name}`"
            raise ValueError(
                f"`state` {has} {what}, which this transformation "
                f"{'does not keep' if present else 'keeps'}: it is the state of "
                "another transformation. Use the state that this tx.init(params) "
                "returned, or restore the old state by name with checkpoint.restore."
            )


def check_scalars(state: State, like: Mapping[str, Any]) -> None:
    """Refuse scalars of another dtype or shape, such as a counter in 16 bits."""
    if isinstance(state.step, jax.ShapeDtypeStruct):
        raise TypeError(
            "`state` holds shapes in the place of arrays, as `state_shapes` and "
            "jax.eval_shape return them. tx.init(params) makes the arrays."
        )
    for name, wanted in like.items():
        pairs = [(f"state.{name}", getattr(state, name), wanted)]
        if isinstance(wanted, dict):
            found = getattr(state, name)
            if not isinstance(found, dict) or found.keys() != wanted.keys():
                raise ValueError(
                    f"`state.{name}` has the groups {_keys(found)}, expected "
                    f"{_keys(wanted)}. The state is of other options; make one with "
                    "tx.init."
                )
            pairs = [
                (f"state.{name}[{key!r}]", found[key], wanted[key]) for key in wanted
            ]
        for shown, found, expected in pairs:
            dtype = getattr(found, "dtype", type(found).__name__)
            if dtype != expected.dtype or np.shape(found) != expected.shape:
                shape = "scalar" if expected.shape == () else list(expected.shape)
                raise TypeError(
                    f"`{shown}` must be: {expected.dtype} {shape}; got "
                    f"{dtype}{list(np.shape(found))}. Keep the state that "
                    "tx.init(params) returned as it is."
                )


def _keys(found: Any) -> list[str]:
    return sorted(found) if isinstance(found, dict) else []
