"""`python -m benchmarks.flashoptim`: measure, write, print.

The measurements are those of `benchmarks.codes`, of two pairs of codes: the library's
("MX, both stochastic" there) and FlashOptim's.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment
from benchmarks.codes import drift, moments, stress, training
from benchmarks.codes.candidates import PAIRS
from benchmarks.codes.training import Pair
from benchmarks.flashoptim import codes, tables
from benchmarks.precision import digits, study, transformer
from benchmarks.precision.problem import Problem

_RESULTS = Path(__file__).parent.parent / "results" / "flashoptim.json"
_PROBLEMS: dict[str, Callable[[], Problem]] = {
    "text": transformer.problem,
    "digits": digits.problem,
}
_SNAPSHOTS = (20, 100)
_B1, _B2 = (0.9, 0.95), (0.999, 0.95)


def _pairs() -> dict[str, Pair]:
    ours = PAIRS["MX, both stochastic"]
    return {"optadamw": ours, "FlashOptim": Pair(codes.momentum(), codes.variance())}


def _rounding(seeds: int) -> dict[str, Any]:
    del seeds
    found: dict[str, Any] = {}
    for name, make in _PROBLEMS.items():
        problem = make()
        taken = moments.snapshots(problem, (*_SNAPSHOTS, problem.steps))
        found[name] = {
            label: moments.error(pair, taken) for label, pair in _pairs().items()
        }
    return found


def _drift(seeds: int) -> dict[str, Any]:
    del seeds
    return {
        label: {
            "mu": {str(b1): drift.of_mu(pair.mu, b1) for b1 in _B1},
            "nu": {str(b2): drift.of_nu(pair.nu, b2) for b2 in _B2},
        }
        for label, pair in _pairs().items()
        if pair.mu is not None and pair.nu is not None
    }


def _stress(seeds: int) -> dict[str, Any]:
    del seeds
    return {
        label: {
            "normal": stress.of(pair),
            "heavy tails": stress.of(pair, heavy_tails=True),
        }
        for label, pair in _pairs().items()
    }


def _training(seeds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in _PROBLEMS.items():
        problem = make()
        gradient = training.gradient_of(problem)
        losses = {
            label: [
                training.final_loss(problem, gradient, pair, seed)
                for seed in range(seeds)
            ]
            for label, pair in {"float32": Pair(None, None), **_pairs()}.items()
        }
        found[name] = {"steps": problem.steps, "about": problem.about}
        for label, ends in losses.items():
            apart = np.array(ends) - np.array(losses["float32"])
            found[name][label] = {
                "losses": ends,
                "difference": float(apart.mean()),
                "standard_error": float(apart.std(ddof=1) / math.sqrt(seeds)),
            }
    return found


def _finite(value: Any) -> Any:
    """JSON knows no infinity: None stands for what is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_PARTS = {
    "rounding": _rounding,
    "drift": _drift,
    "stress": _stress,
    "training": _training,
}


def main() -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if FlashOptim's package is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flashoptim",
        description="Compare the 8-bit moments of FlashOptim and of optadamw.",
    )
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--seeds", type=int, default=5, help="of each training")
    parser.add_argument("--output", type=Path, default=_RESULTS)
    parser.add_argument(
        "--tables", action="store_true", help="print the tables of the file, and stop"
    )
    arguments = parser.parse_args()
    path = arguments.output
    found = json.loads(path.read_text()) if path.exists() else {}
    if not arguments.tables:
        if not codes.is_installed():
            print(codes.MISSING, file=sys.stderr)
            return 1
        environment.prepare(1)
        for part in arguments.only:
            print(part, flush=True)
            found[part] = _finite(_PARTS[part](arguments.seeds))
            found.setdefault("environment", {})[part] = {
                "versions": study.versions(),
                "machine": environment.machine(),
                **environment.commit(),
                "threads": 1,
            }
            path.write_text(json.dumps(found, indent=1) + "\n")
    print(tables.all_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
