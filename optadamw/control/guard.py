"""The guard: which gradients are bad, and what a bad one costs."""

from dataclasses import dataclass
from typing import Literal

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import Constant, Dynamic, whole_steps

OnBad = Literal["drop", "wait", "abort"]


@dataclass(frozen=True)
class Guard:
    """A gradient that is not finite changes nothing and is counted.

    Attributes:
      on_bad: what a bad micro-batch costs under accumulation: itself ("drop", also
        for None), the time until another one has come for it ("wait"), or its window
        ("abort").
      max_consecutive: so many bad gradients in a row are reported as a stall.
    """

    on_bad: OnBad | None = None
    max_consecutive: Constant | Dynamic | None = None

    @property
    def drops(self) -> bool:
        return self.on_bad != "abort"

    @property
    def waits(self) -> bool:
        """Whether a window is full only with so many micro-batches that were good."""
        return self.on_bad == "wait"


def guard(on_bad: object, max_consecutive: object) -> Guard:
    """A guard of checked settings.

    Raises:
      ValueError, TypeError: a setting that is not legal.
    """
    if on_bad not in (None, "drop", "wait", "abort"):
        raise invalid("on_bad_micro_step", "'drop', 'wait', 'abort' or None", on_bad)
    limit = None
    if max_consecutive is not None:
        limit = whole_steps("max_consecutive", max_consecutive)
        if isinstance(limit, Constant) and limit.value >= 2**31:
            raise invalid("max_consecutive", "below 2**31", max_consecutive)
    # One spelling for one meaning, so that equal ones compare equal.
    return Guard(None if on_bad == "drop" else on_bad, limit)
