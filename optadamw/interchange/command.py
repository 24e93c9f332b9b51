"""Run `optadamw convert`: read one library's state, write another's."""

import dataclasses
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from optadamw.interchange.conversion import (
    Plan,
    read_params,
    read_state,
    summary,
    with_numbers,
    write_state,
)
from optadamw.interchange.files import check_writable


def run(options: Namespace) -> int:
    """Convert a file from parsed arguments.

    Returns:
        0, or 1 if the state cannot be converted, or 2 if an argument is wrong; then
        nothing was written.
    """
    if options.out.exists() and not options.force:
        return _failed(f"'{options.out}' exists. Replace it with --force.", 2)
    if not options.out.parent.is_dir():
        return _failed(f"`--out`: there is no folder '{options.out.parent}'.", 2)
    try:
        check_writable(options.out)
        plan = _plan(options)
    except (OSError, ValueError) as error:
        return _failed(str(error), 2)
    try:
        params = read_params(options.params)
        plan = with_numbers(plan, options.file)
        bare = read_state(plan, options.file, params)
        write_state(plan, bare, options.out, params)
    except (OSError, ValueError, TypeError, ImportError) as error:
        return _failed(str(error), 1)
    print(_table(plan, options.out, bare))
    return 0


def _plan(options: Namespace) -> Plan:
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(Plan)
        if field.name not in ("names", "to_names")
    }
    for name in ("transpose", "to_transpose", "drop"):
        given[name] = tuple(given[name])
    return Plan(names=_names(options.names), to_names=_names(options.to_names), **given)


def _names(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is no JSON ({error}).") from error
    if not isinstance(found, list | dict):
        raise ValueError(f"'{path}' must hold a list or a mapping of names.")
    return found


def _table(plan: Plan, out: Path, bare: Any) -> str:
    rows = summary(bare)
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{plan.source} -> {plan.target}"]
    for name, count, size in rows:
        line = f"  {name:<{widths[0]}}  {count:>{widths[1]}}  {size}"
        lines.append(line.rstrip())
    return "\n".join([*lines, f"Written: {out}"])


def _failed(message: str, status: int) -> int:
    print(f"optadamw convert: error: {message}", file=sys.stderr)
    return status
