"""Run `optadamw demo`: its parts, the report and the summary."""

import dataclasses
import io
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from optadamw.cli.demo import (
    comparison,
    faults,
    heatmap,
    page,
    precision,
    report,
    summary,
)
from optadamw.cli.demo.chapter import Chapter
from optadamw.cli.demo.progress import Progress
from optadamw.cli.demo.settings import EPOCHS, PARTS, QUICK_EPOCHS, Settings

_RUN: dict[str, Callable[[Settings, Progress], Chapter]] = {
    "heatmap": heatmap.run,
    "precision": precision.run,
    "faults": faults.run,
    "training": comparison.run,
}


def run(options: Namespace) -> int:
    """Run the demo from parsed arguments.

    Returns:
        0; 1 if a training met a loss that is not finite, if a promise was broken, or
        if a file could not be written; 2 for arguments that exclude each other.
    """
    start = time.perf_counter()
    settings = _settings(options)
    if settings.only == "heatmap" and settings.model != "digits":
        print(
            "optadamw demo: error: `--model` has no effect on the heatmap, which is "
            f"always of the digits; got {settings.model!r}. Leave out `--model`, or "
            "choose another `--only`.",
            file=sys.stderr,
        )
        return 2
    _print_any_name()
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        with (settings.output / "summary.json").open("a"):
            pass  # it can be written
    except OSError as error:
        return _not_written(error, "Nothing was trained yet.")
    progress = Progress(sys.stdout, settings.quiet)
    chapters: dict[str, Chapter] = {}
    lost: OSError | None = None
    for name in PARTS:
        if settings.only in (None, name):
            chapters[name], failure = _run_part(name, settings, progress)
            lost = lost or failure
            _tell(chapters[name], first=len(chapters) == 1)
    try:
        written = _write(chapters, settings, time.perf_counter() - start)
    except OSError as error:
        lost = lost or error
    if lost is not None:
        return _not_written(lost, "The results above are complete.")
    print("Written: " + ", ".join(map(str, written)))
    return 1 if any(chapter.failures for chapter in chapters.values()) else 0


def _settings(options: Namespace) -> Settings:
    names = (field.name for field in dataclasses.fields(Settings))
    values = {name: getattr(options, name) for name in names}
    if values["epochs"] is None:
        values["epochs"] = QUICK_EPOCHS if options.quick else EPOCHS
    return Settings(**values)


def _run_part(
    name: str, settings: Settings, progress: Progress
) -> tuple[Chapter, OSError | None]:
    """Run a part; if its plots cannot be written, run it again without them."""
    try:
        return _RUN[name](settings, progress), None
    except OSError as error:
        return _RUN[name](dataclasses.replace(settings, plots=False), progress), error


def _tell(chapter: Chapter, first: bool) -> None:
    if not first:
        print()
    print(chapter.title)
    if chapter.table:
        print(report.table(chapter.table))
    for text in chapter.findings:
        print(text)
    sys.stdout.flush()
    for text in chapter.failures:
        print(text, file=sys.stderr)


def _write(
    chapters: dict[str, Chapter], settings: Settings, seconds: float
) -> list[Path]:
    plots = [plot for part in chapters.values() for plot in part.plots]
    written = [path for plot in plots for path in (plot.path, plot.narrow) if path]
    if settings.plots:
        written.append(settings.output / "report.html")
        written[-1].write_text(
            page.write(chapters, summary.versions()), encoding="utf-8"
        )
    facts = {
        name: chapter.facts for name, chapter in chapters.items() if name != "training"
    }
    if "training" in chapters:
        facts |= chapters["training"].facts
    contents = summary.whole(settings, **facts, seconds=seconds)
    written.append(settings.output / "summary.json")
    written[-1].write_text(
        json.dumps(contents, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    return written


def _print_any_name() -> None:
    """Let a folder's name be printed where the terminal has not all its letters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _not_written(error: OSError, left: str) -> int:
    print(
        f"optadamw demo: error: {error.filename or 'the output'} could not be written "
        f"({error.strerror or error}). {left} Choose another folder with --output.",
        file=sys.stderr,
    )
    return 1
