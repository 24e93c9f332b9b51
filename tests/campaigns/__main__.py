"""`python -m tests.campaigns [NAME ...] [--full] [--out FILE]`."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.environment import commit, versions
from tests.campaigns.campaign import cases, names, run


def main(arguments: list[str]) -> int:
    """Run campaigns, print what was tried, held and failed; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--full", action="store_true", help="all cases, not a few")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.names) - set(names()):
        parser.error(f"no campaign is called {', '.join(sorted(unknown))}")
    record, failed = {}, 0
    for name in asked.names or names():
        tally = run(cases(name, full=asked.full))
        print(f"{name}: {tally}", flush=True)
        failed += len(tally.failed)
        record[name] = {"tried": tally.tried, "held": tally.held}
        record[name] |= {"failed": tally.failed, "figures": tally.figures}
    if asked.out is not None:
        form = "full" if asked.full else "short"
        text = {"versions": versions(), **commit(), "form": form, "campaigns": record}
        asked.out.write_text(json.dumps(text, indent=1) + "\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
