"""Decide whether a saved window of accumulation continues in the new state."""

from collections.abc import Collection
from typing import Any, Literal, get_args

from optadamw.base.errors import invalid
from optadamw.checkpoint.record import Meaning

WINDOW = ("accumulator", "micro_step", "weight")
"""The fields of an open window."""

OnPartial = Literal["refuse", "keep", "drop"]


def check_choice(choice: Any) -> None:
    """Refuse an illegal value of `partial_window`."""
    if choice not in get_args(OnPartial):
        raise invalid("partial_window", "'refuse', 'keep' or 'drop'", choice)


def starts_afresh(
    filled: int,
    kept: Collection[str],
    old: Meaning | None,
    new: Meaning | None,
    choice: OnPartial,
) -> str | None:
    """Return why the window starts afresh; None: it continues as it was saved.

    Args:
      filled: the number of micro-batches in the saved window.
      kept: the fields of the new state.
      old: the meaning of the saved state; None: unknown.
      new: the meaning of the new state; None: unknown.
      choice: the argument `partial_window` of `restore`.

    Raises:
      ValueError: the new transformation counts the window otherwise, and `choice` is
        "refuse".
    """
    if not filled:
        return None
    inside = f"{filled} micro-batch{'' if filled == 1 else 'es'}"
    what = f"The state was saved inside a window, with {inside} in it"
    dropped = f"the open window, with {inside} in it, is dropped"
    if "accumulator" not in kept:
        if choice == "drop":
            return dropped
        raise ValueError(
            f"{what}, and the new transformation does not accumulate: their gradients "
            "would be lost. Apply them first with tx.flush(state, params) of the old "
            "one, or lose them with partial_window='drop'."
        )
    if choice == "drop":
        return dropped
    was, now = (None if m is None else m.get("window") for m in (old, new))
    if choice == "keep" or (was is not None and was == now):
        return None
    if was is None or now is None:
        raise ValueError(
            f"{what}, and it is not known of how many. Pass made_by=<the "
            "transformation that made it> (and inner= for what "
            "optax.inject_hyperparams wraps), or say what to do: "
            "partial_window='keep' goes on with it, 'drop' begins a new one."
        )
    raise ValueError(
        f"{what}: {_words(was)} then, {_words(now)} now. Finish the window with "
        "the old transformation (tx.flush), or say what to do: partial_window='keep' "
        "goes on with it by the new rule, 'drop' begins a new one."
    )


def _words(window: Any) -> str:
    text = f"the {window['kind']} of {window['every']}"
    return f"{text}, a bad one {window['bad']}" if "bad" in window else text
