"""The command line: measures the parts asked for and merges them into one file."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment
from benchmarks.codes import drift, moments, speed, stress, tables, training
from benchmarks.codes.candidates import (
    BLOCKS,
    LONG_PAIRS,
    TIMED_PAIRS,
    of_bits,
    pairs_of_bits,
)
from benchmarks.codes.rank_one import AnyCode
from benchmarks.codes.training import Pair
from benchmarks.precision import digits, transformer
from benchmarks.precision.problem import Problem

_RESULTS = Path(__file__).parent.parent / "results"
_PROBLEMS: dict[str, Callable[[], Problem]] = {
    "digits": digits.problem,
    "transformer": transformer.problem,
}
_SNAPSHOTS = (20, 100)
_NU_BETAS = (0.95, 0.999)
_MU_BETAS = (0.9, 0.95, 0.99)
_LEAF = (2048, 4096)


def _moments(bits: int | None) -> dict[str, Any]:
    mu, nu = of_bits(bits)
    pairs = pairs_of_bits(bits)
    found: dict[str, Any] = {}
    for name, make in _PROBLEMS.items():
        problem = make()
        taken = moments.snapshots(problem, (*_SNAPSHOTS, problem.steps))
        found[name] = {
            "steps": [step for step, _, _ in taken],
            "spans": {str(b): moments.spans(taken, b) for b in BLOCKS},
            "mu": {k: moments.error(Pair(c, None), taken) for k, c in _told(mu)},
            "nu": {k: moments.error(Pair(None, c), taken) for k, c in _told(nu)},
            "pairs": {k: moments.error(p, taken) for k, p in _told(pairs)},
        }
    return found


def _drift(bits: int | None) -> dict[str, Any]:
    mu, nu = _at_ends(bits)
    return {
        "nu_steps": drift.NU_STEPS,
        "mu_steps": drift.MU_STEPS,
        "mu": {k: {str(b): drift.of_mu(c, b) for b in _MU_BETAS} for k, c in _told(mu)},
        "nu": {k: {str(b): drift.of_nu(c, b) for b in _NU_BETAS} for k, c in _told(nu)},
    }


def _stress(bits: int | None) -> dict[str, Any]:
    mu, nu = _at_ends(bits)
    return {
        "mu": {k: stress.of(Pair(c, None)) for k, c in _told(mu)},
        "nu": {k: stress.of(Pair(None, c)) for k, c in _told(nu)},
        "pairs": {k: stress.of(pair) for k, pair in _told(pairs_of_bits(bits))},
    }


def _at_ends(bits: int | None) -> tuple[dict[str, AnyCode], ...]:
    """The codes of so many bits; of all codes, those of the first and last blocks.

    The block decides how far its values lie apart, which `moments` shows for each.
    """
    codes = of_bits(bits)
    if bits is not None:
        return codes
    ends = (BLOCKS[0], BLOCKS[-1])
    return tuple({k: c for k, c in some.items() if c.block in ends} for some in codes)


def _training(
    bits: int | None, seeds: int, keep: Callable[[Any], None]
) -> dict[str, Any]:
    pairs = pairs_of_bits(bits)
    found: dict[str, Any] = {}
    for name, make in _PROBLEMS.items():
        problem = make()
        gradient = training.gradient_of(problem)
        chosen = [k for k in pairs if name == "digits" or k in LONG_PAIRS]
        base: list[float] = []
        found[name] = {
            "steps": problem.steps,
            "peak": problem.peak,
            "about": problem.about,
            "float32": base,
            "pairs": {},
        }
        for seed in range(seeds):
            pair = Pair(None, None)
            base.append(training.final_loss(problem, gradient, pair, seed))
        for label, pair in _told({label: pairs[label] for label in chosen}):
            ends = [
                training.final_loss(problem, gradient, pair, seed)
                for seed in range(seeds)
            ]
            apart = np.array(ends) - np.array(base)
            found[name]["pairs"][label] = {
                "losses": ends,
                "difference": float(apart.mean()),
                "standard_error": float(apart.std(ddof=1) / math.sqrt(seeds)),
            }
            keep(found)  # Minutes each: an interrupted run keeps its figures.
    return found


def _speed(bits: int | None, rounds: int) -> dict[str, Any]:
    pairs = TIMED_PAIRS if bits is None else pairs_of_bits(bits)
    return {"shape": _LEAF, "pairs": speed.compare(pairs, _LEAF, rounds)}


def _told(named: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in named.items():
        print(f"  {name}", flush=True)
        yield name, value


def _merge(path: Path, bits: int | None, part: str, measured: Any) -> None:
    # Read again for each part: two runs of different parts may share the file.
    result = json.loads(path.read_text()) if path.exists() else {}
    result[part] = _finite(measured)
    result["codes"] = {
        moment: {label: code.bits for label, code in codes.items()}
        for moment, codes in zip(("mu", "nu"), of_bits(bits), strict=True)
    }
    result["pairs"] = {
        name: {"mu": p.mu and p.mu.label, "nu": p.nu and p.nu.label}
        for name, p in pairs_of_bits(bits).items()
    }
    result.setdefault("environment", {})[part] = {
        "versions": environment.versions(),
        "machine": environment.machine(),
        **environment.commit(),
        "threads": 1,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def _finite(value: Any) -> Any:
    """JSON knows no infinity: None stands for what is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    """Runs the command."""
    parts = ("moments", "drift", "stress", "training", "speed")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codes",
        description="Compare codes that keep AdamW's moments in 8 bits or fewer.",
    )
    parser.add_argument(
        "--bits", type=int, help="only codes of so many bits, and pairs with one"
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", type=int, default=5, help="of each training")
    parser.add_argument("--rounds", type=int, default=15, help="of each timing")
    parser.add_argument(
        "--output", type=Path, help="default: codes.json, or codes-4-bits.json"
    )
    parser.add_argument(
        "--tables", action="store_true", help="print the tables of the file, and stop"
    )
    arguments = parser.parse_args()
    bits = arguments.bits
    name = "codes.json" if bits is None else f"codes-{bits}-bits.json"
    path = arguments.output or _RESULTS / name
    if arguments.tables:
        print(tables.all_of(json.loads(path.read_text())))
        return 0
    environment.prepare(1)
    keep = partial(_merge, path, bits)
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "moments": lambda: _moments(bits),
        "drift": lambda: _drift(bits),
        "stress": lambda: _stress(bits),
        "training": lambda: _training(bits, arguments.seeds, partial(keep, "training")),
        "speed": lambda: _speed(bits, arguments.rounds),
    }
    for part in arguments.only:
        print(part, flush=True)
        keep(part, run[part]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
