"""The documented table of the lane is that of the committed results."""

import json
import re
from pathlib import Path

from benchmarks.topology import table
from benchmarks.topology.cases import APART, CASES

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
PAGE, SHARDING = GUIDES / "precision.md", GUIDES / "sharding.md"


def test_the_page_has_the_table_of_the_results():
    rows = table.of(table.read()).splitlines()
    page = PAGE.read_text().splitlines()
    assert [row for row in rows if row not in page] == []
    assert len(rows) == 2 + len(CASES) - len(APART)


def test_the_page_of_many_devices_has_the_bytes_of_a_reproducible_norm():
    plain, page = table.read(), SHARDING.read_text()
    found = {}
    for path in table.RESULTS.glob("reproducible-*.json"):
        one = json.loads(path.read_text())
        assert sorted(one["cases"]) == sorted(APART) and not one["quick"]
        found[one["topology"]] = round(one["cases"]["clip, reproducible"]["bytes"])
    assert found == {"v5e:1x1": 36, "v5e:4x4": 29, "h100:1x1x1": 36, "h100:1x1x8": 36}
    for name in ("v5e:1x1", "h100:1x1x1", "h100:1x1x8"):
        assert round(plain[f"{name}, jax 0.10.2"]["clip"]["bytes"]) == 32
    assert "| one H100, and eight with FSDP | 32.0 | 36.0 |" in page
    assert "| one TPU v5e | 32.0 | 36.0 |" in page
    assert re.search(r"^\| sixteen TPU v5e with FSDP.*\| 29\.0 \|$", page, re.M)


def test_no_step_moves_more_than_its_goal():
    """On one device and on many, over Auto axes and with stated shardings."""
    results = table.read()
    assert len(results) >= 8
    for name, cases in results.items():
        for case, found in cases.items():
            assert found.get("met", True), (name, case)


def test_a_cell_says_bytes_and_temporaries():
    found = {"ideal": 28.0, "bytes": 28.004, "temporaries": 0.013}
    made = table.of({"v5e:1x1, jax 1": {"adamw": found}, "h100:1x1x8, jax 1": {}})
    assert made.splitlines()[2:] == ["| adamw | 28.0 | 28.0 / 0.01 | - |"]
