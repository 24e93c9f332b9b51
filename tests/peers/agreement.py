"""The distance of our calls from the numbers of the real packages, row by row.

    python -m tests.peers.agreement [peer ...]   print the table of dialects/numbers.md

A distance is counted in units in the last place of the row's dtype, at the largest
magnitude that the element has had so far. The bound: no further from the peer than the
peer is from float64, plus 4 units or 0.3 for each call, whichever is more (goal R4: 4
in 20 calls). Every call rounds the parameters by up to half a unit, and where an
element moves by nearly the same at each call, by the same part of one: a run without
any other error is 4.7 units from float64 after 17 calls (`paper`, `restarts`, whose
recording is float64). In bfloat16, where nearly every call moves by less than a few
units, half a unit a call.
"""

import functools
import sys
from typing import NamedTuple

import numpy as np

from tests.peers import calls, recording
from tests.peers.feed import feed
from tests.peers.float64 import trajectory
from tests.peers.rows import ROWS
from tests.peers.streams import flatten

EPS = {"float32": 2.0**-23, "complex64": 2.0**-23, "bfloat16": 2.0**-7}

_OWN_COUNT = "one count of steps for all parameters, each its own there"
BY_DESIGN = {
    ("torch", "late_gradient"): _OWN_COUNT,
    ("torch", "missing_gradient"): _OWN_COUNT,
    ("timm", "late_gradient"): _OWN_COUNT,
    ("bitsandbytes", "late_gradient"): _OWN_COUNT,
    ("keras_jax", "bfloat16_default_betas"): "beta_2 is 1 there: nothing moves",
    ("keras_torch", "bfloat16_default_betas"): "beta_2 is 1 there: nothing moves",
    ("tf_keras", "loss_scale_optimizer"): "a skipped call counts as a step there",
    ("tf_keras", "loss_scale_optimizer_ema"): "a skipped call counts as a step there",
}
"""Rows in which our call does the sane thing, and what the peer does instead."""


class Distance(NamedTuple):
    """The largest distances over all elements, in ULPs, after each call."""

    ours_to_peer: np.ndarray
    peer_to_float64: np.ndarray
    ours_to_float64: np.ndarray

    @property
    def is_within(self) -> bool:
        """Whether the bound holds after every call."""
        calls = np.arange(1, len(self.ours_to_peer) + 1)
        more = np.maximum(4, (0.5 if self.is_narrow else 0.3) * calls)
        return bool(np.all(self.excess <= more))

    @property
    def excess(self) -> np.ndarray:
        """Our distance from the peer, less the peer's distance from float64."""
        return self.ours_to_peer - np.maximum.accumulate(self.peer_to_float64)

    is_narrow: bool = False


@functools.cache
def recorded(peer: str) -> dict[str, recording.Recorded]:
    return recording.load(peer)


@functools.cache
def distance(peer: str, name: str) -> Distance:
    """Run our call on a row and measure it against the peer and against float64."""
    row = ROWS[peer][name]
    ours, _ = calls.run(calls.OPENED[peer](row), row)
    start, grads = feed(row)
    exact = np.stack([flatten(tree) for tree in trajectory(peer, row, start, grads)])
    first = np.abs(flatten(start))[None]
    size = np.maximum.accumulate(np.concatenate([first, np.abs(exact)]))[1:]
    unit = 2.0 ** np.floor(np.log2(size)) * EPS[row.dtype]
    theirs = recorded(peer)[name].params

    def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.max(np.abs(a.astype(np.complex128) - b) / unit, axis=1)

    return Distance(
        ulps(ours, theirs),
        ulps(theirs, exact),
        ulps(ours, exact),
        row.dtype == "bfloat16",
    )


def table(peers: list[str]) -> str:
    """The distances of every row, as Markdown."""
    lines: list[str] = []
    counted: list[Distance] = []
    for peer in peers:
        about = recording.metadata(peer)
        versions = ", ".join(f"{k} {v}" for k, v in sorted(about["versions"].items()))
        kind = "a float64 transcription" if about["transcription"] else versions
        lines += [
            f"### {peer}",
            "",
            f"Recorded with {kind}.",
            "",
            "| configuration | dtype | ours to peer | peer to float64 "
            "| ours to float64 | |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in ROWS[peer].items():
            found = distance(peer, name)
            by_design = BY_DESIGN.get((peer, name))
            if by_design is None and row.dtype != "bfloat16":
                counted.append(found)
            numbers = [_shown(np.max(ulps)) for ulps in found[:3]]
            verdict = by_design or ("green" if found.is_within else "RED")
            shown = " | ".join(["differs" if by_design else numbers[0], *numbers[1:]])
            lines.append(f"| {name} | {row.dtype} | {shown} | {verdict} |")
        lines.append("")
    close = sum(np.max(d.excess[:20]) <= 4 for d in counted)
    lines += [f"{len(counted)} rows of float32: {close} within 4 units in 20 calls."]
    return "\n".join(lines)


def _shown(ulps: float) -> str:
    return f"{ulps:.1f}" if ulps < 1000 else f"{ulps:.1e}"


if __name__ == "__main__":
    print(table(sys.argv[1:] or list(calls.OPENED)))
