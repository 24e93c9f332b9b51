"""`python -m benchmarks --topology NAME`: compile each case, print, write."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import environment
from benchmarks.topology import measure
from benchmarks.topology.cases import CASES, shapes
from optadamw.reports.topology import topology_mesh

HEAD = (
    f"{'case':24} {'ideal':>6} {'bytes':>7} {'most':>7} {'loops':>7} {'temp':>6} "
    f"{'left':>5} {'fused':>5} {'copies':>6} {'init':>5} {'s':>5}  collectives"
)
LEGEND = (
    "Bytes per parameter that move between main memory and cores: the ideal; what is "
    "compiled, with the cheapest and the dearest branch; the part in loops of at most "
    "one turn. Temporaries, bytes per parameter. Bytes of results that are not in "
    "place. Kernels; copies in main memory; arrays replicated by jit(init); seconds to "
    "compile; collectives and their bytes on a device."
)


def run(
    name: str,
    words: Iterable[str],
    quick: bool,
    write: Callable[[dict[str, Any]], None],
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compiles the cases whose names contain one of the words; all if none is given.

    Raises:
        ValueError: The topology or a word is not known.
        ModuleNotFoundError: XLA's compiler for the topology is not installed.
    """
    mesh = topology_mesh(name)
    chosen = list(_chosen(list(words)))
    result: dict[str, Any] = {
        **environment.of_topology(name, mesh, quick),
        "cases": {},
    }
    jax_version = result["versions"]["jax"]
    say(f"{name}: {mesh.size} x {result['device_kind']}, jax {jax_version}")
    say(f"{LEGEND}\n\n{HEAD}")
    for case in chosen:
        figures = measure.case(mesh, CASES[case], shapes(quick))
        result["cases"][case] = figures
        say(row(case, figures))
        write(result)
    return result


def row(name: str, figures: dict[str, Any]) -> str:
    """Prints a case as a line of the table."""
    if "error" in figures:
        return f"{name:24} {figures['error']}"
    collectives = ", ".join(
        f"{n} {kind} of {figures['collective_bytes_per_device'][kind]:,} B"
        for kind, n in figures["collectives"].items()
    )
    missed = "" if figures.get("met", True) else "  above the goal"
    return (
        f"{name:24} {figures['ideal']:6.2f} {figures['bytes']:7.2f} "
        f"{figures['most_bytes']:7.2f} {figures['bytes_in_loops']:7.2f} "
        f"{figures['temporaries']:6.2f} {figures['unaliased_bytes']:5} "
        f"{figures['fusions']:5} {figures['copies']:6} "
        f"{figures['init']['replicated']:5} {figures['compile_s']:5.1f}  "
        f"{collectives}{missed}"
    ).rstrip()


def path_of(folder: Path, name: str, kind: str = "topology") -> Path:
    """Names the file of results: one for each topology and version of JAX."""
    return folder / f"{kind}-{name.replace(':', '-')}-jax-{jax.__version__}.json"


def _chosen(words: list[str]) -> Iterator[str]:
    for word in words:
        if not any(word in name for name in CASES):
            raise ValueError(f"no case has {word!r} in its name: {', '.join(CASES)}")
    for name in CASES:
        if not words or any(word in name for word in words):
            yield name
