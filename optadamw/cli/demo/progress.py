"""A progress bar with rate and time left on a terminal, and nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text


class _Rate(ProgressColumn):
    """The units that are done in a second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or a placeholder until one is known."""
        rate = task.finished_speed or task.speed
        return Text("-" if rate is None else f"{rate:.1f} {task.fields['unit']}/s")


class Progress:
    """Shows one bar for each part of the demo.

    Args:
        stream: The stream to which bars are written. Nothing is written if it is not a
            terminal: bars in a log file help nobody.
        quiet: Whether to write nothing in any case.
    """

    def __init__(self, stream: TextIO, quiet: bool = False):
        # rich draws the bar in ASCII if the stream's encoding is not UTF-8, and
        # without color if NO_COLOR is set or TERM says so.
        self._console = Console(file=stream, highlight=False)
        self._live = self._console.is_terminal and not quiet

    @contextmanager
    def task(
        self, title: str, total: int, unit: str
    ) -> Iterator[Callable[[str], None]]:
        """Show the progress of a part in a context.

        Args:
            title: The name of the part.
            total: The number of units of the whole part.
            unit: The word for these units.

        Yields:
            A function to call after each unit, with a text that says what was done.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        with Bars(*columns, console=self._console, disable=not self._live) as bars:
            bar = bars.add_task(title, total=total, unit=unit, status="compiling ...")

            def advance(status: str) -> None:
                bars.update(bar, advance=1, status=status)

            yield advance
