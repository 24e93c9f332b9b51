"""The table of Algorithm 2 in `optadamw/rules/__init__.py` tells the truth."""

import ast
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import optadamw
import optadamw.rules

PACKAGE = Path(optadamw.__file__).parent
ROWS = re.findall(
    r"^ {4}(\d+) +(.+?) {2,}(\S+\.py):(\S+)$", optadamw.rules.__doc__, re.M
)


def falling(step):
    return 0.1 / (1.0 + step)


@pytest.fixture(scope="module")
def called() -> set[tuple[str, str]]:
    """Every function of the package that an eager step with a schedule calls."""
    found: set[tuple[str, str]] = set()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            path = Path(code.co_filename).relative_to(PACKAGE).as_posix()
            found.add((path, code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        # A shape that no other test has: a leaf that was traced before calls nothing.
        # A kernel that was made before calls none of them.
        tx = optadamw.adamw(falling, weight_decay=0.1, kernel="xla")
        params = {"w": jnp.ones((3, 7, 11))}
        tx.step(params, tx.init(params), params)
    finally:
        sys.setprofile(before)
    return found


def test_every_line_of_the_algorithm_has_a_row():
    lines = {int(line) for line, *_ in ROWS}
    assert lines == set(range(1, 13)) - {3}
    assert len(ROWS) >= 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[3]}")
def test_the_function_of_a_row_is_there_and_is_called(row, called):
    _, _, path, name = row
    tree = ast.parse((PACKAGE / path).read_text())
    names = {
        f"{outer.name}.{node.name}" if outer is not tree else node.name
        for outer in [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]
        for node in outer.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert name in names
    assert (path, name) in called
