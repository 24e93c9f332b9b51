"""Step times of several contenders, alternating in one process."""

import gc
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import interference
from benchmarks.contenders.contender import Session


def alternate(
    sessions: Mapping[str, Session], rounds: int, burst: int, patience: float, seed: int
) -> tuple[dict[str, list[list[float]]], dict[str, Any]]:
    """Times a few steps of each contender in turn, in random order, round after round.

    Every step is timed by itself, from the call until all its results exist. Before a
    turn the contender's arrays move to new memory: which pages they lie in changes the
    same program's step by 2 %, and must not favor one contender for the whole run. The
    first step of a turn is not timed: it fills the caches and outlasts the threads of
    the previous contender (OpenMP's spin for about 1 ms).

    Args:
        sessions: The contenders by name, compiled and loaded.
        rounds: How many turns each contender has.
        burst: How many steps are timed in a turn.
        patience: Seconds to wait for a quiet machine and to repeat disturbed rounds.
        seed: Of the random order.

    Returns:
        For each contender, for each round, the seconds of each timed step; and what is
        known of the disturbance.
    """
    order = np.random.default_rng(seed)
    samples: dict[str, list[list[float]]] = {name: [] for name in sessions}

    def play() -> None:
        for name in order.permutation(list(sessions)):
            session = sessions[name]
            session.move()
            session.step()
            session.wait()
            samples[name].append([_one(session) for _ in range(burst)])

    def drop() -> None:
        for turns in samples.values():
            turns.pop()

    gc.collect()
    gc.disable()  # A collection takes milliseconds and would strike at random.
    try:
        return samples, interference.undisturbed(play, drop, rounds, patience)
    finally:
        gc.enable()


def _one(session: Session) -> float:
    start = time.perf_counter()
    session.step()
    session.wait()
    return time.perf_counter() - start
