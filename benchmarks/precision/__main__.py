"""The command line of the study."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks import environment
from benchmarks.precision import convex, digits, report, study, transformer
from benchmarks.precision.contenders import CONTENDERS, HYPERPARAMETERS
from benchmarks.precision.problem import Problem

_RESULTS = Path(__file__).parent.parent / "results"
_PROBLEMS = {"transformer": transformer.problem, "digits": digits.problem}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description="Compare the final loss of ways to keep parameters and moments.",
    )
    for option, choices in (("--contenders", CONTENDERS), ("--problems", _PROBLEMS)):
        parser.add_argument(
            option,
            nargs="+",
            metavar="NAME",
            choices=list(choices),
            default=list(choices),
        )
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument(
        "--steps", type=int, help="fewer, to see that it runs; the figures mean nothing"
    )
    parser.add_argument(
        "--convex",
        action="store_true",
        help="10,000 steps with tiny gradients instead: frozen moments, biased writes",
    )
    parser.add_argument(
        "--output",
        metavar="NAME",
        help="write benchmarks/results/NAME.json, or the path if it ends in .json; "
        "what the file has of other contenders stays",
    )
    return parser


def main() -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if a contender could not take part, 0 otherwise.
    """
    arguments = _parser().parse_args()
    path = _path(arguments.output) if arguments.output else None
    found = json.loads(path.read_text()) if path and path.exists() else {}
    if arguments.convex:
        cases = {"convex": _Convex(arguments.steps, range(arguments.seeds))}
    else:
        cases = {name: _Case(name, arguments) for name in arguments.problems}
    complete = True
    for name, case in cases.items():
        figures = found.setdefault(name, {"contenders": {}})
        if figures.setdefault("settings", case.settings) != case.settings:
            raise SystemExit(f"{path} has {name} with other settings; name another.")
        for chosen in arguments.contenders:
            entry = _entry(chosen, case)
            complete = complete and "absent" not in entry
            figures["contenders"][chosen] = entry
            print(f"{name}: {chosen}: {case.said(entry)}", file=sys.stderr, flush=True)
            done = figures["contenders"]
            figures["contenders"] = {n: done[n] for n in CONTENDERS if n in done}
            if path:  # After each: an interrupted run keeps its figures.
                path.write_text(json.dumps(found, indent=1) + "\n")
        print(case.table(figures), end="\n\n", flush=True)
    return 0 if complete else 1


class _Case:
    """A problem whose final loss is compared."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        steps = {} if arguments.steps is None else {"steps": arguments.steps}
        self._problem: Problem = _PROBLEMS[name](**steps)
        self._seeds = range(arguments.seeds)
        sizes = [p.size for p in jax.tree.leaves(self._problem.initial(0))]
        self.settings: dict[str, Any] = {
            "parameters": sum(sizes),
            "steps": self._problem.steps,
            "peak": self._problem.peak,
            "seeds": list(self._seeds),
            **HYPERPARAMETERS,
            **self._problem.about,
        }

    def measure(self, chosen: str) -> dict[str, Any]:
        runs = study.runs(self._problem, CONTENDERS[chosen], self._seeds)
        return {"runs": list(runs)}

    def table(self, figures: dict[str, Any]) -> str:
        return report.problem(self._problem.name, figures)

    def said(self, entry: dict[str, Any]) -> str:
        return entry.get("absent") or str([run["loss"] for run in entry["runs"]])


class _Convex:
    """The convex problem, on which moments and parameters are compared."""

    def __init__(self, steps: int | None, seeds: range) -> None:
        self._steps = steps or convex.STEPS
        self._seeds = seeds
        self._references: list[convex.Trace] = []
        self.settings = {
            "steps": self._steps,
            "seeds": list(seeds),
            **convex.SETTINGS,
        }

    def measure(self, chosen: str) -> dict[str, Any]:
        if not self._references:
            self._references = [convex.reference(self._steps, s) for s in self._seeds]
        return convex.compared(CONTENDERS[chosen], self._references, self._steps)

    def table(self, figures: dict[str, Any]) -> str:
        return convex.table(figures)

    def said(self, entry: dict[str, Any]) -> str:
        return entry.get("absent") or str(entry["bias"])


def _entry(chosen: str, case: _Case | _Convex) -> dict[str, Any]:
    contender = CONTENDERS[chosen]
    entry: dict[str, Any] = {"what": contender.what, "kept": contender.kept}
    # Files are filled by several commands: each contender says what it ran on.
    entry |= {
        "source": environment.commit(),
        "versions": study.versions(),
        "machine": environment.machine(),
    }
    try:
        return entry | case.measure(chosen)
    except (ImportError, NotImplementedError) as error:
        return entry | {"absent": f"{type(error).__name__}: {error}"}


def _path(output: str) -> Path:
    return Path(output) if output.endswith(".json") else _RESULTS / f"{output}.json"


if __name__ == "__main__":
    sys.exit(main())
