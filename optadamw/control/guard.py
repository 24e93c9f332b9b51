"""The settings of the guard; `signals` checks, and `walk.decision` refuses the step."""

from dataclasses import dataclass
from typing import Literal

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import Constant, Dynamic, whole_steps

OnBad = Literal["drop", "wait", "abort"]


@dataclass(frozen=True)
class Guard:
    """A gradient that is not finite changes nothing and is counted.

    Attributes:
      on_bad: what a bad micro-batch does while accumulating: "drop" (None, the
        default) leaves it out of the mean, "wait" also waits for a replacement,
        "abort" discards the window.
      max_consecutive: set `stats_of(state).stalled` after this many bad gradients in
        a row; None (default): never.
    """

    on_bad: OnBad | None = None
    max_consecutive: Constant | Dynamic | None = None

    @property
    def drops(self) -> bool:
        """Whether a bad micro-batch is left out and the rest of its window is used."""
        return self.on_bad != "abort"

    @property
    def waits(self) -> bool:
        """Whether only good micro-batches count towards a full window."""
        return self.on_bad == "wait"


def guard(on_bad: object, max_consecutive: object) -> Guard:
    """Check the arguments of a guard, and make it.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.
    """
    if on_bad not in (None, "drop", "wait", "abort"):
        raise invalid("on_bad_micro_step", "'drop', 'wait', 'abort' or None", on_bad)
    limit = None
    if max_consecutive is not None:
        limit = whole_steps("max_consecutive", max_consecutive)
    # "drop" is stored as None, so that guards of the same meaning compare equal.
    return Guard(None if on_bad == "drop" else on_bad, limit)
