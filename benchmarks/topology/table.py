"""`python -m benchmarks.topology.table`: all committed results, a column for each."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.precision.report import table
from benchmarks.topology.cases import APART, CASES

RESULTS = Path(__file__).parent.parent / "results"


def read(folder: Path = RESULTS) -> dict[str, Mapping[str, Any]]:
    """Reads the results, by topology and version of JAX: "v5e:1x1, 0.10.2"."""
    found = [json.loads(path.read_text()) for path in folder.glob("topology-*.json")]
    named = {
        f"{one['topology']}, jax {one['versions']['jax']}": one["cases"]
        for one in found
        if not one["quick"]
    }
    return dict(sorted(named.items(), key=lambda item: _order(item[0])))


def of(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Sets bytes moved and temporaries, both per parameter, as a table in Markdown."""
    rows = []
    for name in [name for name in CASES if name not in APART]:
        ideals = [cases[name]["ideal"] for cases in results.values() if name in cases]
        if ideals:
            cells = (_cell(cases.get(name)) for cases in results.values())
            rows.append((name, f"{ideals[0]:.1f}", *cells))
    return table(("case", "ideal", *results), rows)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None or "error" in found:
        return "-"
    return f"{found['bytes']:.1f} / {found['temporaries']:.2f}"


def _order(name: str) -> tuple[str, int, str]:
    """TPUs before GPUs, one device before many."""
    kind, shape = re.match(r"(\w+):([\dx]+)", name).groups()  # type: ignore[union-attr]
    count = 1
    for size in shape.split("x"):
        count *= int(size)
    return ("0" if kind.startswith("v") else "1") + kind, count, name


if __name__ == "__main__":
    print(of(read()))
