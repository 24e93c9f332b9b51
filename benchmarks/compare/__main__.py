"""The command line: `python -m benchmarks.compare OLD NEW`."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import clocks, hlo
from benchmarks.compare.facts import Difference, differences
from benchmarks.compare.process import Process

_QUICK_STRIDE = 6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Compare two checkouts over the table of transformations in the "
        "tests: bits, compiled programs, traces, and times to compile. The exit status "
        "is 1 if anything but a time differs.",
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="folder of a checkout")
    parser.add_argument("new", type=Path, metavar="NEW", help="folder of another one")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=(),
        metavar="WORD",
        help="only rows whose name contains one of these words (default: all rows)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="every sixth row unless --rows chooses, and small sizes: times without "
        "meaning",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=8,
        help="how often each checkout traces and lowers a step of 1,000 leaves; 0 "
        "leaves out all times (default: 8)",
    )
    parser.add_argument(
        "--compile-rounds",
        type=int,
        default=2,
        help="how often it also compiles that step, 36 s for a pair (default: 2)",
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="also time steps of 4 leaves of 8M elements, 3 steps in each of 5 times "
        "as many rounds",
    )
    parser.add_argument(
        "--hlo",
        type=Path,
        metavar="FOLDER",
        help="write the programs that differ here, without names, to be compared",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    return parser


def _chosen(
    old: Sequence[str], new: Sequence[str], words: Sequence[str], is_quick: bool
) -> tuple[list[str], list[Difference]]:
    """Return the rows to compare, and those that one checkout lacks."""

    def wanted(names: Sequence[str]) -> list[str]:
        if words:
            return [n for n in names if any(word in n for word in words)]
        return list(names)

    both = [name for name in wanted(old) if name in new]
    gone = [Difference(n, "table", "is gone") for n in wanted(old) if n not in new]
    added = [Difference(n, "table", "is new") for n in wanted(new) if n not in old]
    return both[:: _QUICK_STRIDE if is_quick and not words else 1], gone + added


def _compare(
    old: Process, new: Process, names: Sequence[str], folder: Path | None
) -> list[Difference]:
    """Compare row after row, both checkouts at a time."""
    found = []
    for index, name in enumerate(names, 1):
        old.ask("row", name=name)
        new.ask("row", name=name)
        before, after = old.answer(), new.answer()
        those = differences(name, before, after)
        found += those
        if folder and any(each.of == "HLO" for each in those):
            folder.mkdir(parents=True, exist_ok=True)
            for word, answer in (("old", before), ("new", after)):
                lines = hlo.program(answer["result"]["hlo"])
                (folder / f"{name}.{word}.txt").write_text("\n".join(lines) + "\n")
        if sys.stderr.isatty():
            print(f"\r{index} of {len(names)} rows", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return found


def _report(rows: int, found: Sequence[Difference]) -> str:
    compared = f"{rows} {'row' if rows == 1 else 'rows'}"
    if not found:
        return f"{compared}, zero differences"
    lines = ["| row | differs in | how |", "|---|---|---|"]
    lines += [f"| `{row}` | {of} | {what} |" for row, of, what in found]
    differing = len({each.row for each in found})
    return "\n".join([f"{compared}, {differing} with differences", "", *lines])


def _shown(times: Iterable[clocks.Ratio]) -> list[clocks.Ratio]:
    """Print each ratio as soon as it is known, and return all."""
    known = []
    for case, of, old, new, ratio in times:
        if not known:
            print("\n| seconds of | old | new | new / old (quartiles) |")
            print("|---|---|---|---|")
        known.append(clocks.Ratio(case, of, old, new, ratio))
        quartiles = f"{ratio.lower:.3f} to {ratio.upper:.3f}"
        values = f"{old:.4g} | {new:.4g} | {ratio.median:.3f} ({quartiles})"
        print(f"| {case}: {of} | {values} |", flush=True)
    return known


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if anything but a time differs."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    with Process(asked.old) as old, Process(asked.new) as new:
        tables = old.result("names"), new.result("names")
        names, found = _chosen(*tables, asked.rows, asked.quick)
        if not names and not found:
            parser.error(f"no row has a name with any of {asked.rows} in it.")
        found += _compare(old, new, names, asked.hlo)
        print(_report(len(names), found), flush=True)
        times = _shown(_timed(old, new, asked))
    if asked.json:
        asked.json.write_text(json.dumps(_record(names, found, times), indent=1) + "\n")
    return int(bool(found))


def _timed(
    old: Process, new: Process, asked: argparse.Namespace
) -> Iterator[clocks.Ratio]:
    sizes = clocks.QUICK if asked.quick else clocks.Sizes()
    if asked.rounds:
        often = asked.rounds, min(asked.rounds, asked.compile_rounds)
        yield from clocks.compilations(old, new, sizes, *often)
    if asked.rounds and asked.time:
        yield from clocks.steps(old, new, sizes, 5 * asked.rounds)


def _record(
    names: Sequence[str],
    found: Sequence[Difference],
    times: Sequence[clocks.Ratio],
) -> dict[str, Any]:
    return {
        "rows": list(names),
        "differences": [each._asdict() for each in found],
        "times": [each._asdict() | {"ratio": each.ratio._asdict()} for each in times],
    }


if __name__ == "__main__":
    sys.exit(main())
