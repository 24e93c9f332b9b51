"""Compare every recording with its float64 transcription and print the table.

Run as `python -m tests.peers.verify [peer ...]`; the exit status says whether all rows
lie within their bounds. The columns:

    ulps    largest distance of the recorded run from the transcription, in units in
            the last place of the row's dtype at the largest magnitude that this
            element has had so far: where a parameter crosses zero its own ulp
            vanishes, the rounding of the values it came from does not
    exact   the same against the formula in doubles: what the peer's float32 powers of
            beta and rates add to it
    double  largest distance of the recorded float64 run, relative to the same magnitude
    final   largest distance of a buffer at the end from the transcription's, relative
            to the largest element of that leaf's buffer
"""

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tests.peers import recording
from tests.peers.feed import checked_calls, feed
from tests.peers.float64 import final, trajectory
from tests.peers.rows import ROWS
from tests.peers.streams import Tree, flatten

# The largest magnitudes are about 3, and 50 steps round 50 times. Most rows end within
# 10 ulps. The `default` rows do not: a decay of 4e-6 moves a parameter by the same 34.4
# ulps at every step, and is rounded to 34 at every step.
ULPS = {"float32": 20.0, "complex64": 20.0, "bfloat16": 40.0}
DOUBLE = 1e-14
# A first moment that has just changed its sign is smaller than what it came from.
FINAL = {"float32": 1e-5, "complex64": 1e-5, "bfloat16": 0.06}
# A schedule that the peer evaluates in float32 even in its float64 run, and PyTorch's
# `differentiable`, whose scalars are float32 then too: the step is off by a few 1e-8
# of itself, and the parameters by as much of what they have moved.
FLOAT32_SCALARS = {
    "torch": ("differentiable",),
    "keras_jax": ("schedule_cosine", "everything"),
    "optax": ("schedule", "schedule_decay", "multi_steps_schedule"),
    "tf_keras": ("schedule", "schedule_cosine", "everything"),
    "tfa": ("schedule", "schedule_decay", "schedule_both", "everything"),
}
# In bfloat16, where beta_2 = 0.999 rounds to 1, Keras does not move at all.
NEVER_TRAINS = ("bfloat16_default_betas",)

EPS = {"float32": 2.0**-23, "complex64": 2.0**-23, "bfloat16": 2.0**-7}


class Line(NamedTuple):
    """One row of the table; NaN in `double`: the peer has no float64 run of it."""

    peer: str
    row: str
    ulps: float
    exact: float
    double: float
    final: float


def compare(peer: str, name: str, recorded: recording.Recorded) -> Line:
    """Compare one recorded row with its transcription."""
    row = ROWS[peer][name]
    start, grads = feed(row)
    first = flatten(start)

    def transcribed(scalars: str) -> np.ndarray:
        trees = trajectory(peer, row, start, grads, scalars)
        return np.stack([flatten(tree) for tree in trees])

    exact = transcribed("exact")
    size = _magnitude(first, exact)
    unit = 2.0 ** np.floor(np.log2(size)) * EPS[row.dtype]
    ulps = _largest(recorded.params, transcribed("float32"), unit)
    distance, double = _largest(recorded.params, exact, unit), np.nan
    if recorded.params64 is not None:
        calls = checked_calls(row.calls)
        expected = transcribed("float64")[calls]
        double = _largest(recorded.params64, expected, size[calls])
    buffers = final(peer, row, start, grads, "float32")
    worst = max(
        _buffer(recorded.tree, array, buffers[buffer])
        for buffer, array in recorded.final.items()
    )
    return Line(peer, name, ulps, distance, double, worst)


def _buffer(cut: Callable, array: np.ndarray, expected: Tree) -> float:
    """Compare one buffer leaf by leaf."""
    worst = 0.0
    for name, leaf in cut(array).items():
        size = np.max(np.abs(expected[name])) + 1e-30
        worst = max(worst, float(np.max(np.abs(leaf - expected[name])) / size))
    return worst


def _magnitude(first: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the largest magnitude of each element up to each call."""
    all_of_it = np.abs(np.concatenate([first[None], expected]))
    return np.maximum.accumulate(all_of_it)[1:]


def _largest(got: np.ndarray, expected: np.ndarray, unit: np.ndarray) -> float:
    return float(np.max(np.abs(got - expected) / unit))


def table(peers: list[str]) -> Iterator[Line]:
    """Compare every row of these peers that was really run."""
    for peer in peers:
        if not (recording.FOLDER / f"{peer}.npz").exists():
            print(f"{peer}: not recorded")
        elif recording.metadata(peer)["transcription"]:
            print(f"{peer}: a transcription only, nothing to compare")
        else:
            recorded = recording.load(peer)
            for name in ROWS[peer]:
                yield compare(peer, name, recorded[name])


def accepted(line: Line) -> bool:
    """Say whether one row lies within its bounds."""
    bound = 2e-7 if line.row in FLOAT32_SCALARS.get(line.peer, ()) else DOUBLE
    dtype = ROWS[line.peer][line.row].dtype
    near = line.ulps <= ULPS[dtype] or line.row in NEVER_TRAINS
    double = np.isnan(line.double) or line.double <= bound
    return near and double and line.final <= FINAL[dtype]


if __name__ == "__main__":
    outside = 0
    print(f"{'':60}{'ulps':>8}{'exact':>10}{'double':>11}{'final':>11}")
    for line in table(sys.argv[1:] or list(ROWS)):
        mark = "" if accepted(line) else "   outside its bounds"
        outside += bool(mark)
        numbers = f"{line.ulps:8.3g}{line.exact:10.3g}{line.double:11.2e}"
        numbers += f"{line.final:11.2e}"
        print(f"{line.peer:18}{line.row:42}{numbers}{mark}")
    sys.exit(f"{outside} rows outside their bounds" if outside else 0)
