"""The guard: which gradients are bad, and what a bad one costs."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from optadamw.aliases import Array
from optadamw.errors import invalid, mistyped

OnBad = Literal["drop", "abort"]


class Verdict(NamedTuple):
    """What was found of one gradient; both are boolean scalars."""

    nonfinite: Array
    spike: Array

    @property
    def ok(self) -> Array:
        return ~(self.nonfinite | self.spike)


@dataclass(frozen=True)
class Guard:
    """A gradient that is not finite changes nothing and is counted.

    Attributes:
      on_bad: what a bad micro-batch costs under accumulation: itself ("drop", also
        for None) or its window ("abort").
      max_consecutive: so many bad gradients in a row are reported as a stall.
    """

    on_bad: OnBad | None = None
    max_consecutive: int | None = None

    @property
    def drops(self) -> bool:
        return self.on_bad != "abort"


def guard(on_bad: object, max_consecutive: object) -> Guard:
    """A guard of checked settings.

    Raises:
      ValueError, TypeError: a setting that is not legal.
    """
    if on_bad not in (None, "drop", "abort"):
        raise invalid("on_bad_micro_step", "'drop', 'abort' or None", on_bad)
    if max_consecutive is not None:
        rule = "a whole number >= 1, or None"
        if isinstance(max_consecutive, bool) or not isinstance(max_consecutive, int):
            raise mistyped("max_consecutive", rule, max_consecutive)
        if max_consecutive >= 2**31:
            raise invalid("max_consecutive", "below 2**31", max_consecutive)
        if max_consecutive < 1:
            raise invalid("max_consecutive", rule, max_consecutive)
    return Guard(on_bad, max_consecutive)
