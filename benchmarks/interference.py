"""How much of the machine other processes took while something was timed.

Ratios cancel what slows all contenders alike, but a second process does not: XLA hands
out work in small pieces and loses what was taken; OpenMP waits at every barrier for its
slowest thread. One busy neighbor on 2 cores makes PyTorch's step 3.5 times as long (30
to 104 ms on `large`), XLA's 1.4 times.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

# Cores taken by others above which a time is no longer trusted.
TOLERATED = 0.1


class Others:
    """The cores that other processes kept busy; None where the system does not say."""

    cores: float | None = None


@contextlib.contextmanager
def watch() -> Iterator[Others]:
    """Measures the others' use of the machine while the block runs."""
    others = Others()
    start, own, all_of_it = time.perf_counter(), time.process_time(), _busy()
    yield others
    busy = _busy()
    if busy is not None and all_of_it is not None:
        taken = (busy - all_of_it) - (time.process_time() - own)
        others.cores = max(0.0, taken / (time.perf_counter() - start))


def _busy() -> float | None:
    """Reads the seconds that all cores together have worked or been withheld."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, fields[:8])
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK")
