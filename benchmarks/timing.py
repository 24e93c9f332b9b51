"""Step times of several contenders, alternating in one process."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import interference
from benchmarks.contenders.contender import Timed


def alternate(
    sessions: Mapping[str, Timed],
    times: Callable[[int], bool],
    rounds: int,
    burst: int,
    patience: float,
    seed: int,
) -> tuple[dict[str, list[list[float]]], dict[str, Any]]:
    """Times a few steps of each contender in turn, in random order, round after round.

    Every step is timed by itself, from the call until all its results exist. Before a
    turn the contender's arrays move to new memory: which pages they lie in changes the
    same program's step by 2 %, and must not favor one contender for the whole run. The
    first step of a turn is not timed: it fills the caches and outlasts the threads of
    the previous contender (OpenMP's spin for about 1 ms). Of a window of calls that
    make a step together, those that are not to be timed run between those that are.

    Args:
        sessions: The contenders by name, compiled and loaded, before a window.
        times: Whether a call is timed, of those counted from 0.
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
    clocks = {name: _Clock(session, times) for name, session in sessions.items()}

    def play() -> None:
        for name in order.permutation(list(sessions)):
            sessions[name].move()
            clocks[name].call()
            samples[name].append([clocks[name].timed() for _ in range(burst)])

    def drop() -> None:
        for turns in samples.values():
            turns.pop()

    gc.collect()
    gc.disable()  # A collection takes milliseconds and would strike at random.
    try:
        return samples, interference.undisturbed(play, drop, rounds, patience)
    finally:
        gc.enable()


class _Clock:
    """A session and the calls it has made."""

    def __init__(self, session: Timed, times: Callable[[int], bool]) -> None:
        self._session, self._times, self._calls = session, times, 0

    def call(self) -> float:
        """Makes one call and returns its seconds."""
        start = time.perf_counter()
        self._session.step()
        self._session.wait()
        seconds = time.perf_counter() - start
        self._calls += 1
        return seconds

    def timed(self) -> float:
        """Makes calls up to one that is to be timed, and returns its seconds."""
        while not self._times(self._calls):
            self.call()
        return self.call()
