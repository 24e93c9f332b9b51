"""Run `optadamw doctor`: print every section of `sections.SECTIONS`."""

import argparse
import json

from optadamw.cli.doctor.sections import SECTIONS, Line, lines_of


def run(options: argparse.Namespace) -> int:
    """Print the report; the status is 0, or 1 if a section ended in an error."""
    report = {title: lines_of(section) for title, section in SECTIONS.items()}
    if options.json:
        print(json.dumps({title: dict(lines) for title, lines in report.items()}))
    else:
        print("\n\n".join(_text(title, lines) for title, lines in report.items()))
    is_whole = all(name != "error" for lines in report.values() for name, _ in lines)
    return 0 if is_whole else 1


def _text(title: str, lines: list[Line]) -> str:
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in lines)])
