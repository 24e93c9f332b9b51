"""The record of a row, and the limits that the rows of all peers share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tests.peers.values import Cosine, Exponential, PiecewiseTable

NORM = 9.0  # about the median of the global norms of the stream
LEAF = 2.0  # clips three leaves at some calls, all of them in a burst
VALUE = 0.6
INFINITE = (5, 6, 20, 33)

DECAYING = Exponential(0.03, 10, 0.6)
WAVE = Cosine(0.03, 35, 0.1)
STAIRS = PiecewiseTable((6, 21), (0.03, 0.002, 0.01))


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration: what is called, with what, on what, for how long."""

    function: str
    kwargs: Mapping[str, Any]
    dtype: str = "float32"
    calls: int = 50
    outside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
