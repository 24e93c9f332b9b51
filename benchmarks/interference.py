"""The share of the machine that other processes took during a timing.

Ratios cancel what slows all contenders alike, but a second process does not: XLA hands
out work in small pieces and loses what was taken; OpenMP waits at every barrier for its
slowest thread. One busy neighbor on 2 cores makes PyTorch's step 3.5 times as long (30
to 104 ms on `large`), XLA's 1.4 times.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Cores taken by others above which a time is no longer trusted.
TOLERATED = 0.1
_PAUSE_SECONDS = 1.0


def undisturbed(
    play: Callable[[], None], drop: Callable[[], None], rounds: int, patience: float
) -> dict[str, Any]:
    """Plays rounds, each when the machine is quiet, and replaces disturbed ones.

    What decides is the others' use of the machine alone, never a measured time, so that
    no contender gains.

    Args:
        play: Measures one round.
        drop: Forgets the round measured last.
        rounds: How many to keep.
        patience: Seconds to spend on waiting and on rounds that are replaced.

    Returns:
        The cores that others took, as the median over the kept rounds (None where the
        system does not say), and the number of rounds replaced.
    """
    taken: list[float | None] = []
    replaced = 0
    while len(taken) < rounds:
        while patience > 0 and (_others(_pause) or 0.0) > TOLERATED:
            patience -= _PAUSE_SECONDS
        start = time.perf_counter()
        others = _others(play)
        if patience > 0 and (others or 0.0) > TOLERATED:
            patience -= time.perf_counter() - start
            drop()
            replaced += 1
        else:
            taken.append(others)
    known = [others for others in taken if others is not None]
    return {
        "others": statistics.median(known) if known else None,
        "replaced_rounds": replaced,
    }


def _pause() -> None:
    time.sleep(_PAUSE_SECONDS)


def _others(do: Callable[[], None]) -> float | None:
    """Runs something and returns how many cores other processes used meanwhile."""
    start, own, everyone = time.perf_counter(), time.process_time(), _busy()
    do()
    if everyone is None:
        return None
    total = (_busy() or 0.0) - everyone
    by_others = total - (time.process_time() - own)
    return max(0.0, by_others / (time.perf_counter() - start))


def _busy() -> float | None:
    """Reads the seconds that all cores together have worked or been withheld."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, fields[:8])
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK")
