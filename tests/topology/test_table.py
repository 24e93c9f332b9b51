"""The documented table of the lane is that of the committed results."""

from pathlib import Path

from benchmarks.topology import table
from benchmarks.topology.cases import CASES

PAGE = Path(__file__).parents[2] / "docs/guides/precision.md"


def test_the_page_has_the_table_of_the_results():
    rows = table.of(table.read()).splitlines()
    page = PAGE.read_text().splitlines()
    assert [row for row in rows if row not in page] == []
    assert len(rows) == 2 + len(CASES)


def test_no_step_moves_more_than_its_goal():
    """On Auto axes XLA runs what would be a kernel if its shardings were stated."""
    by_kernel = ("8-bit moments", "compact", "16-bit moments")
    results = table.read()
    assert len(results) >= 7
    for name, cases in results.items():
        is_alone = name.partition(",")[0].endswith((":1x1", ":1x1x1"))
        for case, found in cases.items():
            if is_alone or "stated" in case or not case.startswith(by_kernel):
                assert found.get("met", True), (name, case)


def test_a_cell_says_bytes_and_temporaries():
    found = {"ideal": 28.0, "bytes": 28.004, "temporaries": 0.013}
    made = table.of({"v5e:1x1, jax 1": {"adamw": found}, "h100:1x1x8, jax 1": {}})
    assert made.splitlines()[2:] == ["| adamw | 28.0 | 28.0 / 0.01 | - |"]
