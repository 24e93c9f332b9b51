"""The whole run: every tree with every configuration, checked, compiled, timed."""

import dataclasses
import datetime
import functools
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
from benchmarks.check import Expected
from benchmarks.contenders.contender import Contender, Session, UnavailableError
from benchmarks.plans import PLANS, Part, Plan
from benchmarks.workloads import CONFIGS, TREES, gradients, parameters


@dataclasses.dataclass(frozen=True)
class Settings:
    """The plans of a run and their numbers of rounds.

    Attributes:
        trees: Names of trees; None: those that each configuration is planned for.
        configs: Names of configurations.
        contenders: Names of contenders, who run where they are planned to; None: all.
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

    trees: tuple[str, ...] | None = None
    configs: tuple[str, ...] = tuple(CONFIGS)
    contenders: tuple[str, ...] | None = None
    rounds: int = 15
    burst: int = 3
    compile_rounds: int = 3
    patience: float = 0.0
    quick: bool = False
    steps: bool = True
    compilation: bool = True
    threads: int = 2
    seed: int = 0

    def parts(self, plan: Plan) -> tuple[Part, ...]:
        """The measurements of a plan."""
        return tuple(
            part
            for part in plan.parts
            if (self.steps if part == "steps" else self.compilation)
        )

    def names(self, plan: Plan) -> tuple[str, ...]:
        """The implementations that take part in a plan."""
        asked = plan.contenders if self.contenders is None else self.contenders
        return tuple(name for name in plan.contenders if name in asked)

    @property
    def cases(self) -> list[tuple[str, str]]:
        """The trees and configurations of which anything is measured."""
        return [
            (tree, name)
            for tree in TREES
            for name in self.configs
            if tree in (PLANS[name].trees if self.trees is None else self.trees)
            and self.parts(PLANS[name])
            and self.names(PLANS[name])
        ]


def start(settings: Settings) -> dict[str, Any]:
    """Makes the report, yet without a case."""
    return {
        "schema": 2,
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
    for tree, config in settings.cases:
        yield _case(settings, tree, config)


def _case(settings: Settings, tree_name: str, config_name: str) -> dict[str, Any]:
    tree, config = TREES[tree_name](settings.quick), CONFIGS[config_name]
    plan = PLANS[config_name]
    names, parts = settings.names(plan), settings.parts(plan)
    leaves = jax.tree.leaves(tree)
    case: dict[str, Any] = {
        "tree": tree_name,
        "config": config_name,
        "leaves": len(leaves),
        "parameters": sum(leaf.size for leaf in leaves),
        "parameter_bytes": compiled.size_in_bytes(tree),
        "disturbance": {},
        "contenders": {name: {} for name in names},
    }
    found: dict[str, Contender] = {}
    for name in names:
        contender = contenders.find(name)
        if isinstance(contender, Contender):
            found[name] = contender
        else:
            case["contenders"][name]["absent"] = contender
    # Compilation comes first: it clears JAX's caches, and with them the timed steps.
    on_jax = {name: c for name, c in found.items() if c.program is not None}
    if "compilation" in parts:
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
    if "memory" in parts:
        for name, contender in on_jax.items():
            case["contenders"][name].update(compiled.memory(contender, config, tree))
    if "steps" in parts:
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
    expect = functools.cache(lambda own: check.expect(tree, own, seed))
    sessions: dict[str, Session] = {}
    for name, contender in found.items():
        figures = case["contenders"][name]
        try:
            session = contender.open(config, tree, parameters(tree, seed))
        except UnavailableError as error:
            figures["absent"] = str(error)
            continue
        if contender.checked:
            own = contender.own(config)
            figures |= _checked(session, contender, expect(own))
            if "refused" in figures:
                continue
            if own.guard:  # The check has fed it a NaN.
                session = contender.open(config, tree, parameters(tree, seed))
        session.load(gradients(tree, seed, 0))
        sessions[name] = session
    timed, case["disturbance"]["stepping"] = timing.alternate(
        sessions,
        functools.partial(PLANS[case["config"]].times, window=config.window),
        settings.rounds,
        settings.burst,
        settings.patience,
        seed,
    )
    for name, samples in timed.items():
        case["contenders"][name]["step_s"] = samples
    sessions.clear()
    gc.collect()


def _checked(
    session: Session, contender: Contender, expected: Expected
) -> dict[str, Any]:
    """Checks the results of a session, and what it does with a NaN if it is guarded."""
    errors = check.errors(session, contender.conventions, expected)
    if max(errors.values()) > 1:
        why = "its results differ from the reference"
    elif expected.config.guard and not check.refuses_nan(session, expected):
        why = "a NaN moves its parameters"
    else:
        return {"check": errors}
    return {"check": errors, "refused": why}
