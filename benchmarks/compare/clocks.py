"""Seconds of two checkouts, in turn, and their ratios."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import ratios
from benchmarks.compare.process import Process

_BURST = 3


class Sizes(NamedTuple):
    """Sizes of the timed trees."""

    leaves: int = 1000
    """Of shape (64, 64), for the seconds of a compilation."""
    large: int = 8 * 1024**2
    """Elements of each of 4 leaves, for the seconds of a step."""


QUICK = Sizes(leaves=20, large=2**16)


class Ratio(NamedTuple):
    """The new checkout's seconds divided by the old one's, within each round."""

    case: str
    of: str
    old: float
    new: float
    """Medians of the seconds of each."""
    ratio: ratios.Spread


def compilations(
    old: Process, new: Process, sizes: Sizes, rounds: int, compile_rounds: int
) -> Iterator[Ratio]:
    """Time tracing and lowering a step of many leaves, and compiling it less often."""
    for case in ("adamw", "adamw, clip, average, guard"):
        for process in (old, new):  # nobody pays for what is imported when first used
            process.result("compilation", name=case, leaves=2, compiles=True)
        given = {"name": case, "leaves": sizes.leaves}
        short = {"what": "compilation", **given, "compiles": False}
        long = {"what": "compilation", **given, "compiles": True}
        pairs = _alternate(old, new, long, compile_rounds)
        pairs += _alternate(old, new, short, rounds - compile_rounds)
        for phase in ("trace", "lower", "compile"):
            timed = [[one[phase] for one in pair] for pair in pairs if phase in pair[0]]
            if timed:
                yield _ratio(case, phase, timed)


def steps(old: Process, new: Process, sizes: Sizes, rounds: int) -> Iterator[Ratio]:
    """Time steps of 4 large leaves."""
    case = "adamw, clip, average"
    given = {"name": case, "leaves": 4, "elements": sizes.large, "burst": _BURST}
    request = {"what": "turn", **given}
    _alternate(old, new, request, 1)  # compiles
    yield _ratio(case, "step", _alternate(old, new, request, rounds))


def _alternate(
    old: Process, new: Process, request: Mapping[str, Any], rounds: int
) -> list[tuple[Any, Any]]:
    """Ask both in each round, the other one first every second time."""
    pairs = []
    for index in range(rounds):
        if index % 2:
            second, first = new.result(**request), old.result(**request)
        else:
            first, second = old.result(**request), new.result(**request)
        pairs.append((first, second))
    return pairs


def _ratio(case: str, of: str, pairs: Sequence[Sequence[Any]]) -> Ratio:
    old, new = zip(*pairs, strict=True)
    medians = (ratios.spread(_flat(samples)).median for samples in (old, new))
    return Ratio(case, of, *medians, ratios.per_round(new, old))


def _flat(samples: Sequence[float | Sequence[float]]) -> list[float]:
    return [
        second
        for sample in samples
        for second in (sample if isinstance(sample, Sequence) else [sample])
    ]
