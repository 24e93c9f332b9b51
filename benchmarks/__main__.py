"""The command line of the benchmarks."""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks import contenders, environment, plans, report, suite
from benchmarks.contenders.contender import Contender
from benchmarks.topology import command as topology
from benchmarks.topology import layouts
from benchmarks.workloads import CONFIGS, TREES

_RESULTS = Path(__file__).parent / "results"
_DEFAULTS = suite.Settings()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}.")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare optadamw with Optax, Keras and PyTorch on the same work.",
    )
    for option, choices, default in (
        ("--tree", TREES, _DEFAULTS.trees),
        ("--config", CONFIGS, _DEFAULTS.configs),
        ("--contenders", plans.CONTENDERS, _DEFAULTS.contenders),
    ):
        parser.add_argument(
            option, nargs="+", metavar="NAME", choices=choices, default=default
        )
    parser.add_argument(
        "--rounds", type=_positive, help="turns of each contender (default: 15)"
    )
    parser.add_argument(
        "--burst", type=_positive, help="timed steps in a turn (default: 3)"
    )
    parser.add_argument(
        "--compile-rounds", type=_positive, help="compilations of each (default: 3)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=_DEFAULTS.patience,
        metavar="SECONDS",
        help="how long each case may wait for other processes to leave the machine",
    )
    parser.add_argument("--threads", type=_positive, default=_DEFAULTS.threads)
    parser.add_argument("--seed", type=int, default=_DEFAULTS.seed)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: seconds, no meaning"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--step-only", action="store_true", help="time steps only")
    part.add_argument("--compile-only", action="store_true", help="compile only")
    parser.add_argument(
        "--output",
        metavar="NAME",
        help="write benchmarks/results/NAME.json, or the path if it ends in .json",
    )
    parser.add_argument(
        "--topology",
        metavar="NAME",
        help="compile steps for devices that need not be here, such as v5e:1x1, "
        "v5e:16x16 or h100:1x1x8, and print the bytes that they move; writes "
        "benchmarks/results/topology-NAME-jax-VERSION.json unless --quick",
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        default=(),
        metavar="WORD",
        help="with --topology: only cases with one of these words in their names",
    )
    parser.add_argument(
        "--layouts",
        action="store_true",
        help="with --topology: bytes per device and collectives of replicated "
        "parameters, ZeRO-1, FSDP and offload; writes layouts-NAME-jax-VERSION.json",
    )
    parser.add_argument(
        "--list", action="store_true", help="list what can be named, and stop"
    )
    return parser


def _settings(arguments: argparse.Namespace, threads: int) -> suite.Settings:
    # Quick is to see that everything runs; explicit counts still win.
    counts = (3, 1, 1) if arguments.quick else (15, 3, 3)
    return suite.Settings(
        trees=arguments.tree and tuple(arguments.tree),
        configs=tuple(arguments.config),
        contenders=arguments.contenders and tuple(arguments.contenders),
        rounds=arguments.rounds or counts[0],
        burst=arguments.burst or counts[1],
        compile_rounds=arguments.compile_rounds or counts[2],
        patience=arguments.patience,
        quick=arguments.quick,
        steps=not arguments.compile_only,
        compilation=not arguments.step_only,
        threads=threads,
        seed=arguments.seed,
    )


def _list() -> None:
    print("trees:", *TREES)
    print("configurations:", *CONFIGS)
    print("contenders:")
    for name in contenders.NAMES:
        found = contenders.find(name)
        print(f"  {name}: {'installed' if isinstance(found, Contender) else found}")
    print("contenders that are optadamw with other parts:")
    print(*(f"  {n}" for n in plans.CONTENDERS if n not in contenders.NAMES), sep="\n")


def main() -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if a contender was refused, because it did not do the same
        work; 0 otherwise, whatever the verdicts.
    """
    parser = _parser()
    arguments = parser.parse_args()
    threads = environment.prepare(arguments.threads)
    if arguments.list:
        _list()
        return 0
    if arguments.topology:
        return _compile(arguments, parser)
    settings = _settings(arguments, threads)
    if not settings.cases:
        parser.error(
            "nothing is left to measure: none of these contenders, or no times of "
            "steps or of compilation, are planned for these configurations. See "
            "benchmarks/plans.py."
        )
    result = suite.start(settings)
    print(report.head(result))
    for case in suite.cases(settings):
        result["cases"].append(case)
        print(report.case(case), flush=True)
        if arguments.output:  # After each case: an interrupted run keeps its figures.
            report.write(result, _path(arguments.output))
    if arguments.output:
        print(f"\nwrote {_path(arguments.output)}")
    refused = any(
        "refused" in figures
        for case in result["cases"]
        for figures in case["contenders"].values()
    )
    return int(refused)


def _compile(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Compiles for a topology; the status is 1 if a case moves more than its goal."""
    # Where libtpu is installed, JAX would look for a TPU in this machine.
    jax.config.update("jax_platforms", "cpu")
    name, output = arguments.topology, arguments.output
    kind = "layouts" if arguments.layouts else "topology"
    path = _path(output) if output else topology.path_of(_RESULTS, name, kind)

    def write(result: dict[str, Any]) -> None:
        # A part of the cases or small leaves do not replace the figures of all.
        if output or not (arguments.quick or arguments.cases):
            report.write(result, path)

    try:
        if arguments.layouts:
            layouts.run(name, arguments.quick, write)
            return 0
        result = topology.run(name, arguments.cases, arguments.quick, write)
    except (ValueError, ModuleNotFoundError) as error:
        parser.error(str(error))
    return int(not all(f.get("met", True) for f in result["cases"].values()))


def _path(output: str) -> Path:
    return Path(output) if output.endswith(".json") else _RESULTS / f"{output}.json"


if __name__ == "__main__":
    sys.exit(main())
