"""Which parameters run in Pallas kernels, and in words why the others do not."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from jax.sharding import AxisType, NamedSharding

from optadamw.base.errors import some
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
    mixed = _divided_in_several_ways(leaves.arrays)
    rows = [
        (path, array, of(row))
        for path, array, row in zip(leaves.paths, leaves.arrays, plan, strict=True)
        if not composition.is_frozen(row.group)
    ]
    lines = []
    for target, name in NAMES.items():
        asked = composition.kernel is not None
        wanted = [row for row in rows if asked or gains(target, row[2])]
        if not wanted:
            continue
        reasons: dict[str, list[str]] = {}
        for path, array, program in wanted:
            why = why_whole(target, program, array)
            why = why or _why_gathered(program, array, mixed)
            if why is not None:
                reasons.setdefault(why, []).append(path or "(the root)")
        count = len(wanted) - sum(map(len, reasons.values()))
        lines.append(
            f"on {name}: {count} of {len(rows)} parameters run in Pallas kernels"
        )
        lines += [
            f"-  not {some(paths, MOST)}: {why}" for why, paths in reasons.items()
        ]
    return lines


def _why_gathered(
    program: Program, array: Any, mixed: Collection[tuple[int, ...]]
) -> str | None:
    """Return why the shards of a parameter have no kernels; None if they have."""
    sharding = _sharding_of(array)
    if sharding is None:
        return None
    is_auto = AxisType.Auto in sharding.mesh.axis_types
    if is_auto and program.sharding is not None:
        sharding = program.sharding
    elif is_auto and array.shape in mixed:
        return (
            "over Auto axes, parameters of one shape are divided in several ways; call "
            "tx.jit_step, or state them in with_pallas(tx, shardings=...)"
        )
    if not divides(layout_of(program, array.shape), sharding):
        return f"its sharding {sharding.spec} cuts blocks, or divides no axis evenly"
    return None


def _divided_in_several_ways(arrays: Iterable[Any]) -> set[tuple[int, ...]]:
    """Return the shapes of which parameters are divided in more than one way."""
    first: dict[tuple[int, ...], NamedSharding] = {}
    mixed = set()
    for array in arrays:
        sharding = _sharding_of(array)
        if sharding is None:
            continue
        known = first.setdefault(array.shape, sharding)
        if not sharding.is_equivalent_to(known, len(array.shape)):
            mixed.add(array.shape)
    return mixed


def _sharding_of(array: Any) -> NamedSharding | None:
    """Return the sharding of a parameter over several devices; None: it has none."""
    sharding = getattr(array, "sharding", None)
    several = isinstance(sharding, NamedSharding) and sharding.mesh.size > 1
    return sharding if several else None
