"""A campaign: cases, of which each holds or fails, and their count."""

import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import tests.campaigns

NOT_CAMPAIGNS = ("__main__", "campaign")
"""Files of this folder without cases of their own, beside its tests."""


@dataclass(frozen=True)
class Case:
    """One try.

    Attributes:
      name: what is tried.
      check: returns a figure to print, or None; it raises if the case fails.
    """

    name: str
    check: Callable[[], str | None]


@dataclass
class Tally:
    """How many cases were tried, which failed and why, and the figures of the rest."""

    tried: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)

    @property
    def held(self) -> int:
        """How many cases did not fail."""
        return self.tried - len(self.failed)

    def __str__(self) -> str:
        return f"tried {self.tried}, held {self.held}, failed {len(self.failed)}"


def names() -> list[str]:
    """The campaigns in order of the alphabet: the files of this folder."""
    found = (module.name for module in pkgutil.iter_modules(tests.campaigns.__path__))
    return sorted(
        name
        for name in found
        if name not in NOT_CAMPAIGNS and not name.startswith("test_")
    )


def cases(name: str, *, full: bool) -> Iterator[Case]:
    """The cases of one campaign: a few in its short form, all if `full`."""
    yield from importlib.import_module(f"tests.campaigns.{name}").cases(full)


def run(
    tried: Iterator[Case],
    tally: Tally,
    tell: Callable[[str], None] = print,
    until: float | None = None,
) -> Iterator[Case]:
    """Try every case, count it in `tally`, and yield it; a failure is told.

    No case is begun when `time.monotonic()` is later than `until`.
    """
    for case in tried:
        if until is not None and time.monotonic() > until:
            return
        tally.tried += 1
        try:
            figure = case.check()
        except Exception as error:
            tally.failed[case.name] = f"{type(error).__name__}: {error}"
            tell(f"FAILED {case.name}\n{traceback.format_exc()}")
        else:
            if figure is not None:
                tally.figures[case.name] = figure
                tell(f"{case.name}: {figure}")
        yield case
