"""The whole run: every tree with every configuration, checked, compiled, timed."""

import dataclasses
import datetime
import gc
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import (
    check,
    compiled,
    contenders,
    environment,
    targets,
    timing,
)
from benchmarks.contenders.contender import Contender, Session, UnavailableError
from benchmarks.workloads import CONFIGS, TREES, gradients, parameters


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is run, and how often.

    Attributes:
        trees: Names of trees.
        configs: Names of configurations.
        contenders: Names of contenders.
        rounds: Turns of each contender when steps are timed.
        burst: Timed steps in a turn.
        compile_rounds: Turns of each contender when compilation is timed.
        patience: Seconds that each part of a case may wait for other processes to leave
            the machine, and spend on repeating rounds that they disturbed.
        quick: Tiny sizes, to see that everything runs; no figure means anything.
        steps: Whether steps are timed.
        compilation: Whether compilation is timed and its memory read.
        threads: How many cores are used.
        seed: Of the parameters, the gradients and the order of turns.
    """

    trees: tuple[str, ...] = tuple(TREES)
    configs: tuple[str, ...] = tuple(CONFIGS)
    contenders: tuple[str, ...] = contenders.NAMES
    rounds: int = 15
    burst: int = 3
    compile_rounds: int = 3
    patience: float = 0.0
    quick: bool = False
    steps: bool = True
    compilation: bool = True
    threads: int = 2
    seed: int = 0


def start(settings: Settings) -> dict[str, Any]:
    """Makes the report, yet without a case."""
    return {
        "schema": 1,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": dataclasses.asdict(settings),
        "configs": {
            name: dataclasses.asdict(CONFIGS[name]) for name in settings.configs
        },
        "versions": environment.versions(),
        "source": environment.commit(),
        "machine": environment.machine(),
        "cases": [],
    }


def cases(settings: Settings) -> Iterator[dict[str, Any]]:
    """Runs the cases one after the other."""
    for tree in settings.trees:
        for config in settings.configs:
            yield _case(settings, tree, config)


def _case(settings: Settings, tree_name: str, config_name: str) -> dict[str, Any]:
    tree, config = TREES[tree_name](settings.quick), CONFIGS[config_name]
    leaves = jax.tree.leaves(tree)
    case: dict[str, Any] = {
        "tree": tree_name,
        "config": config_name,
        "leaves": len(leaves),
        "parameters": sum(leaf.size for leaf in leaves),
        "parameter_bytes": compiled.size_in_bytes(tree),
        "disturbance": {},
        "contenders": {name: {} for name in settings.contenders},
    }
    found: dict[str, Contender] = {}
    for name in settings.contenders:
        contender = contenders.find(name)
        if isinstance(contender, Contender):
            found[name] = contender
        else:
            case["contenders"][name]["absent"] = contender
    # Compilation comes first: it clears JAX's caches, and with them the timed steps.
    if settings.compilation:
        on_jax = {name: c for name, c in found.items() if c.program is not None}
        tiny = TREES[tree_name](True)
        measured, case["disturbance"]["compiling"] = compiled.alternate(
            on_jax,
            config,
            tree,
            tiny,
            rounds=settings.compile_rounds,
            patience=settings.patience,
            seed=settings.seed,
        )
        for name, figures in measured.items():
            case["contenders"][name].update(figures)
    if settings.steps:
        _time_steps(settings, case, found, tree)
    exempt = "quick sizes" if settings.quick else None
    if jax.default_backend() != "cpu":
        exempt = "the targets are for the CPU"
    case["verdicts"] = targets.judge(case, exempt)
    return case


def _time_steps(
    settings: Settings, case: dict[str, Any], found: dict[str, Contender], tree: Any
) -> None:
    config, seed = CONFIGS[case["config"]], settings.seed
    expected = check.expect(tree, config, seed)
    sessions: dict[str, Session] = {}
    for name, contender in found.items():
        figures = case["contenders"][name]
        try:
            session = contender.open(config, tree, parameters(tree, seed))
        except UnavailableError as error:
            figures["absent"] = str(error)
            continue
        figures["check"] = check.errors(session, contender.conventions, expected)
        if max(figures["check"].values()) > 1:
            figures["refused"] = "its results differ from the reference"
            continue
        session.load(gradients(tree, seed, 0))
        sessions[name] = session
    timed, case["disturbance"]["stepping"] = timing.alternate(
        sessions, settings.rounds, settings.burst, settings.patience, seed
    )
    for name, samples in timed.items():
        case["contenders"][name]["step_s"] = samples
    sessions.clear()
    gc.collect()
