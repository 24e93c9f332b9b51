"""The table of layouts on the page of many devices is that of the committed results."""

import json
from pathlib import Path

from benchmarks.topology.layouts import LAYOUTS, table

ROOT = Path(__file__).parents[2]
TOPOLOGIES = ("v5e-4x4", "v5e-16x16", "h100-1x1x8")


def test_the_page_has_the_committed_figures():
    folder = ROOT / "benchmarks" / "results"
    results = [
        json.loads((folder / f"layouts-{name}-jax-0.10.2.json").read_text())
        for name in TOPOLOGIES
    ]
    for result in results:
        assert list(result["layouts"]) == list(LAYOUTS) and not result["quick"]
    page = (ROOT / "docs" / "guides" / "sharding.md").read_text()
    assert table(results) in page
