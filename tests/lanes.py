"""The short lane, which the README's command runs, and the long lane.

    python -m pytest -n 2                            the short lane: minutes
    python -m pytest -n 2 --lane long                what the short one left out
    python -m pytest -n 2 --lane all                 both
    python -m pytest -n 2 --lane long --part 1/3     a third of a lane

XLA takes nearly all of the time of this suite, a program for each case. `lanes.toml`
has the tests whose cases are many rows of one kind: the short lane runs one case in so
many, the long lane the others. A test that is one long case by itself has 0 there.
"""

import tomllib
from pathlib import Path

import pytest

SHARES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
"""By file and function: one case in so many is in the short lane; 0: none."""

COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""Where pytest's config holds all tests, those of the other lane too."""


def is_short(items: list[pytest.Item]) -> list[bool]:
    """For each test whether it is in the short lane, by its place among its cases."""
    seen: dict[tuple[str, str], int] = {}
    short = []
    for item in items:
        file, function = key(item)
        number = seen.get((file, function), 0)
        seen[file, function] = number + 1
        share = SHARES.get(file, {}).get(function, 1)
        short.append(share > 0 and number % share == 0)
    return short


def is_in(part: str, count: int) -> list[bool]:
    """For each of `count` tests whether it is in `part`: of "2/3" each third one."""
    number, _, parts = part.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise pytest.UsageError(f"--part must be as 1/3, 2/3 or 3/3, got {part!r}.")
    return [i % int(parts) == int(number) - 1 for i in range(count)]


def key(item: pytest.Item) -> tuple[str, str]:
    """The file and function of a test, as the table has them."""
    path, _, name = item.nodeid.removeprefix("tests/").partition("::")
    return path, name.partition("[")[0]
