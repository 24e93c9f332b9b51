"""The sentences of `describe` on settings that can stall a training, or surprise."""

from collections.abc import Iterator

import jax.numpy as jnp

from optadamw.base.horizon import horizon_of
from optadamw.base.hyperparameters import Clock
from optadamw.base.masks import OfTree, Predicate
from optadamw.base.numerics import is_complex, is_narrow
from optadamw.base.tree import Leaves
from optadamw.base.types import PyTree
from optadamw.rules.groups import Variant
from optadamw.rules.rule import Rule, Stage
from optadamw.store.blockwise import BlockStorage
from optadamw.walk.composition import Composition
from optadamw.walk.remarks import remarks_of


def notes_on(composition: Composition, leaves: Leaves, params: PyTree) -> list[str]:
    """The remarks of `init`, and where the learning rate's schedules end: a section."""
    notes = [
        *remarks_of(composition, leaves, params),
        *_on_stacks(composition, leaves),
        *_on_small_leaves(composition, leaves),
        *_on_complex_leaves(composition, leaves),
    ]
    for rules in composition.variants:
        rate = getattr(rate_of(rules), "learning_rate", None)
        end = horizon_of(rate)
        if rate is not None and end is not None:
            last = float(rate.at(Clock.at(jnp.asarray(end, jnp.int32))))
            notes.append(
                f"the schedule of learning_rate ends after {end:,} steps; it stays at "
                f"{last:.4g} from then on, and stats_of(state, tx).steps_past_schedule "
                "counts the steps"
            )
    lines = [f"!  {note}" for note in dict.fromkeys(notes)]
    return ["\n".join(lines)] if lines else []


def _on_stacks(composition: Composition, leaves: Leaves) -> Iterator[str]:
    """Say that layers stacked for a scan count as one parameter, where it matters."""
    pairs = list(zip(leaves.keys, leaves.arrays, strict=True))
    deep = [keys for keys, array in pairs if array.ndim >= 3]
    rules = [r for rules in composition.variants for r in rules if r is not None]
    for verb in dict.fromkeys(rule.verb for rule in rules if rule.sums and deep):
        yield (
            f"{verb} computes one number from each whole array: if layers are stacked "
            f"along the first axis of '{'/'.join(deep[0])}', as for jax.lax.scan, all "
            "of them share it"
        )
    stacks = {(keys[:-1], array.shape[0]) for keys, array in pairs if array.ndim >= 3}
    flat = [k for k, x in pairs if x.ndim == 2 and (k[:-1], x.shape[0]) in stacks]
    functions = [r for r in rules if isinstance(r.selector, Predicate | OfTree)]
    if flat and functions:
        yield (
            f"'{'/'.join(flat[0])}' has two axes and looks like a stack of vectors: a "
            "function that chooses by the number of axes takes it for a matrix"
        )


def _on_small_leaves(composition: Composition, leaves: Leaves) -> Iterator[str]:
    """Say that nothing is kept in 8 bits if all parameters are too small for it."""
    largest = max((array.size for array in leaves.arrays), default=0)
    sizes = {
        slot.name: slot.store.how.min_size
        for slot in composition.slots
        if isinstance(slot.store, BlockStorage)
    }
    if sizes and largest < min(sizes.values()):
        yield (
            f"{' and '.join(sizes)} stay in float32 instead of 8 bits: each parameter "
            f"has fewer than {min(sizes.values()):,} numbers (`min_size` of blockwise)"
        )


def _on_complex_leaves(composition: Composition, leaves: Leaves) -> Iterator[str]:
    """Say that buffers of complex parameters do not get a dtype of 16 bits."""
    pairs = zip(leaves.paths, leaves.arrays, strict=True)
    first = next((path for path, array in pairs if is_complex(array.dtype)), None)
    narrow = [
        slot.name
        for slot in composition.buffers
        if (dtype := getattr(slot.store, "dtype", None)) is not None
        and is_narrow(dtype)
    ]
    if first is not None and narrow:
        yield (
            f"{' and '.join(narrow)} of '{first}' and other complex parameters stay in "
            "their full precision: no complex dtype has parts of 16 bits"
        )


def rate_of(rules: Variant) -> Rule | None:
    """Return the rule that multiplies by the learning rate; None without one."""
    return next((r for r in rules if r is not None and r.stage == Stage.RATE), None)
