"""Before a contender is timed: has it done the work, all of it?"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from benchmarks import reference, workloads
from benchmarks.contenders.contender import Session
from benchmarks.reference import Conventions
from benchmarks.workloads import Config

_STEPS = len(workloads.GRADIENT_SCALES)


@dataclasses.dataclass(frozen=True)
class Expected:
    """The workload and what it leads to, at the sampled elements.

    Made once for a tree and a configuration; the norms are of whole gradients.
    """

    tree: Any
    config: Config
    seed: int
    initial: list[np.ndarray]
    gradients: list[list[np.ndarray]]
    norms: list[float]


def expect(tree: Any, config: Config, seed: int) -> Expected:
    """Draws the workload once for its norms and its sampled elements."""
    initial = [workloads.sample(p).copy() for p in workloads.parameters(tree, seed)]
    gradients, norms = [], []
    for step in range(_STEPS):
        sampled, squares = [], 0.0
        for gradient in workloads.mean_gradients(tree, config, seed, step):
            sampled.append(workloads.sample(gradient).copy())
            squares += float(np.sum(np.square(gradient)))
        gradients.append(sampled)
        norms.append(squares**0.5)
    return Expected(tree, config, seed, initial, gradients, norms)


def errors(
    session: Session, conventions: Conventions, expected: Expected
) -> dict[str, float]:
    """Runs the checked steps and compares with the reference in float64.

    Returns:
        The largest errors of the parameters and of their average as multiples of what
        is allowed: at most 1 if the work is the same.
    """
    config = expected.config
    for step, micro_batch in itertools.product(range(_STEPS), range(config.window)):
        session.load(
            workloads.gradients(expected.tree, expected.seed, step, micro_batch)
        )
        session.step()
        session.wait()
    averaged = config.ema_decay is not None
    parameters = session.parameters()
    averages = session.average() if averaged else []
    # Five percent of the average's motion in one step, and a thousandth of the
    # parameters'. The rounding of bias corrections, norms and moments stays below
    # 1e-5 of a step; without decay the error is 3 weight_decay |p|, 0.03 of a step at
    # |p| = 0.1; without clip or AMSGrad's maximum, or with an average that stands
    # still or lags by a step, it is of the order of a step.
    moved = 1e-3 * config.learning_rate
    averaged_moved = 0.05 * (1 - (config.ema_decay or 0.0)) * config.learning_rate
    worst = {"parameters": 0.0}
    if averaged:
        worst["average"] = 0.0
    for index, initial in enumerate(expected.initial):
        gradients = [sampled[index] for sampled in expected.gradients]
        p, ema = reference.trajectory(
            initial, gradients, expected.norms, config, conventions
        )
        worst["parameters"] = _worse(worst["parameters"], parameters[index], p, moved)
        if averaged:
            worst["average"] = _worse(
                worst["average"], averages[index], ema, averaged_moved
            )
    return worst


def refuses_nan(session: Session, expected: Expected) -> bool:
    """Feeds a whole step of gradients with a NaN: is every parameter as it was?

    The session is of no use afterwards: under `optax.MultiSteps` the NaN stays.
    """
    before = session.parameters()
    for _ in range(expected.config.window):
        session.load(workloads.spoiled_gradients(expected.tree, expected.seed))
        session.step()
        session.wait()
    return all(map(np.array_equal, before, session.parameters()))


def _worse(worst: float, got: np.ndarray, want: np.ndarray, allowed: float) -> float:
    # Each step also rounds the parameter or average once or twice.
    rounding = 2 * _STEPS * np.spacing(np.abs(want).astype(np.float32))
    error = np.abs(got.astype(np.float64) - want) / (allowed + rounding)
    # A NaN is the worst of all; `max` would drop it.
    return max(worst, float(np.max(np.where(np.isnan(error), np.inf, error))))
