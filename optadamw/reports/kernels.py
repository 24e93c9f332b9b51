"""Which parameters run in Pallas kernels, and in words why the others do not."""

from collections.abc import Sequence
from typing import Any

from jax.sharding import AxisType, NamedSharding

from optadamw.base.tree import Leaves
from optadamw.leaf.pallas.fits import gains, why_whole
from optadamw.leaf.pallas.kernel import layout_of
from optadamw.leaf.pallas.shards import divides
from optadamw.leaf.pallas.tiles import Target
from optadamw.leaf.program import Program
from optadamw.walk.composition import Composition
from optadamw.walk.plan import LeafPlan
from optadamw.walk.programs import Programs

NAMES: dict[Target, str] = {"tpu": "a TPU", "gpu": "an NVIDIA GPU"}
MOST = 3
"""The number of paths that a line names."""


def kernel_lines(
    composition: Composition, leaves: Leaves, plan: Sequence[LeafPlan]
) -> list[str]:
    """Return for each platform which parameters run in kernels.

    There are no lines if nobody asked for kernels and none would move fewer bytes.
    """
    of = Programs(composition, "param").of
    rows = list(zip(leaves.paths, leaves.arrays, map(of, plan), strict=True))
    lines = []
    for target, name in NAMES.items():
        asked = composition.kernel is not None
        wanted = [row for row in rows if asked or gains(target, row[2])]
        if not wanted:
            continue
        reasons: dict[str, list[str]] = {}
        for path, array, program in wanted:
            why = why_whole(target, program, array) or _why_gathered(program, array)
            if why is not None:
                reasons.setdefault(why, []).append(path or "(the root)")
        count = len(wanted) - sum(map(len, reasons.values()))
        lines.append(
            f"on {name}: {count} of {len(rows)} parameters run in Pallas kernels"
        )
        lines += [f"-  not {_some(paths)}: {why}" for why, paths in reasons.items()]
    return lines


def _why_gathered(program: Program, array: Any) -> str | None:
    """Return why the shards of a parameter have no kernels; None if they have."""
    sharding = getattr(array, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None
    is_auto = AxisType.Auto in sharding.mesh.axis_types
    if is_auto and program.sharding is None:
        return "it lies over Auto axes, and with_pallas(tx, shardings=...) is not used"
    known = program.sharding if is_auto else sharding
    if known is not None and not divides(layout_of(program, array.shape), known):
        return f"its sharding {known.spec} cuts blocks, or divides no axis evenly"
    return None


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - MOST} more" if len(paths) > MOST else ""
    return ", ".join(paths[:MOST]) + more
