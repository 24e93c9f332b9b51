"""`python -m tests.campaigns [NAME ...] [--full] [--out FILE] [--resume] ...`.

The record in FILE is written while the cases are tried. `--resume` keeps it and goes on
after the cases that are in it, so that long campaigns can be tried in parts, also by
several commits, which the record names; a case that was under way when the process
ended is tried again.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import commit, versions
from tests.campaigns.campaign import Tally, cases, names, run


def main(arguments: list[str]) -> int:
    """Run campaigns, print what was tried, held and failed; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--full", action="store_true", help="all cases, not a few")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument(
        "--resume", action="store_true", help="go on after the cases in this file"
    )
    parser.add_argument(
        "--minutes", type=float, help="begin no case later; default: try all"
    )
    asked = parser.parse_args(arguments)
    if unknown := set(asked.names) - set(names()):
        parser.error(f"no campaign is called {', '.join(sorted(unknown))}")
    if asked.resume and asked.out is None:
        parser.error("--resume needs the file to go on from, as --out FILE")
    head = {"versions": versions(), "form": "full" if asked.full else "short"}
    record: dict[str, Any] = head | {"campaigns": {}}
    if asked.resume and asked.out.exists():
        record = json.loads(asked.out.read_text())
        for key, now in head.items():
            if record[key] != now:
                parser.error(f"--resume: the file has {key} {record[key]}, not {now}")
    source = commit()
    until = None if asked.minutes is None else time.monotonic() + 60 * asked.minutes
    failed = 0
    for name in asked.names or names():
        found = record["campaigns"].get(name, {})
        sources = found.get("sources", [])
        sources = sources if source in sources else [*sources, source]
        counted = ("tried", "failed", "figures")
        tally = Tally(**{key: found[key] for key in counted if found})
        rest = itertools.islice(cases(name, full=asked.full), tally.tried, None)
        for _ in run(rest, tally, until=until):
            record["campaigns"][name] = {
                "sources": sources,
                "tried": tally.tried,
                "held": tally.held,
                "failed": tally.failed,
                "figures": tally.figures,
            }
            if asked.out is not None:
                asked.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: {tally}", flush=True)
        failed += len(tally.failed)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
