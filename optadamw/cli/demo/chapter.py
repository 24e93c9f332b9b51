"""A chapter of the report: what one part of the demo did and found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Plot(NamedTuple):
    """A PNG file of a chapter, its content in words, and one for narrow screens."""

    path: Path
    alternative: str
    narrow: Path | None = None


class Chapter(NamedTuple):
    """The results of one part of the demo.

    Attributes:
        title: The heading.
        question: What the part tries, in a few sentences.
        findings: What the numbers of this run show, a sentence or two each.
        table: Rows of cells, the heading first; may be empty.
        plots: The plots, in order.
        facts: The numbers, for the summary.
        failures: Texts for standard error; with one, the demo's exit status is 1.
    """

    title: str
    question: str
    findings: Sequence[str]
    table: Sequence[Sequence[str]]
    plots: Sequence[Plot]
    facts: dict[str, Any]
    failures: Sequence[str] = ()
