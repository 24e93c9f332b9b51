"""Run a test for rows of the table of transformations."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.support.transformations import Row

NO_FAULTS: Mapping[str, str] = {}


def over(
    rows: Iterable[Row],
    faults: Mapping[str, str] = NO_FAULTS,
    *,
    is_strict: bool = True,
) -> Any:
    """Parametrize a test over rows.

    Args:
      rows: rows of the table in `tests/support/transformations.py`.
      faults: for the names of rows that are known to break the law, the reason. A
        fault that is gone fails the test, so that it is struck off.
      is_strict: False for faults that some processors do not have.
    """
    marked = {
        name: pytest.mark.xfail(strict=is_strict, reason=reason)
        for name, reason in faults.items()
    }
    params = [
        pytest.param(row, id=row.name, marks=marked.pop(row.name, ())) for row in rows
    ]
    assert not marked, f"no such rows: {list(marked)}"
    return pytest.mark.parametrize("row", params)
