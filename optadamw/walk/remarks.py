"""Remarks on settings that are legal and train nothing, or less than was meant.

`init` gives them as warnings, and `describe` prints them.
"""

import math
from collections import Counter
from collections.abc import Iterator

import jax.numpy as jnp

from optadamw.base.errors import shortened
from optadamw.base.hyperparameters import Constant
from optadamw.base.masks import OfTree, Predicate, Selector
from optadamw.base.numerics import is_narrow, is_tiny
from optadamw.base.tree import Leaves, hidden
from optadamw.base.types import PyTree
from optadamw.rules.decay import Decay
from optadamw.rules.groups import Variant
from optadamw.rules.rule import Stage
from optadamw.rules.schedule_free import ScheduleFree
from optadamw.store.blockwise import BlockStorage
from optadamw.walk.composition import Composition
from optadamw.walk.plan import plan_of


def remarks_of(
    composition: Composition, leaves: Leaves, tree: PyTree
) -> tuple[str, ...]:
    """Return a sentence or two for each setting that stalls a training in silence.

    Args:
      composition: the rules, and the parts around them.
      leaves: the flattened parameters.
      tree: the parameters themselves, for masks that are functions of them.
    """
    found = [
        *_on_rounding(composition, leaves, tree),
        *_on_choices(composition, leaves, tree),
        *_on_decay(composition),
        *_on_paths(leaves),
    ]
    return tuple(dict.fromkeys(found))


def _on_rounding(
    composition: Composition, leaves: Leaves, tree: PyTree
) -> Iterator[str]:
    if not composition.is_whole:
        return
    if any(isinstance(rule, ScheduleFree) for rule in composition.rules):
        return  # which computes each parameter anew from buffers that lose nothing
    rounds = not (composition.commit.slots or composition.commit.draws)
    if composition.has_chosen_commit and rounds:  # "nearest", which was asked for
        return
    plan, variants = plan_of(composition, leaves, tree), composition.variants
    pairs = enumerate(zip(leaves.paths, leaves.arrays, strict=True))
    trained = [
        (path or "(the root)", jnp.dtype(array.dtype), variants[plan.rows[i].group])
        for i, (path, array) in pairs
        if not plan.is_frozen(i)
    ]
    for path, dtype, rules in [one for one in trained if is_tiny(one[1])][:1]:
        yield (
            f"Parameter '{path}' is {dtype} and is rounded to nearest, whatever "
            "`commit` says, which loses every update below half a unit in its last "
            f"place{_size_that_stalls(rules, dtype)}. Keep the parameters in "
            "bfloat16, for example with precision='compact', and cast them to 8 bits "
            "in the model; commit='nearest' keeps this rounding without a warning."
        )
    narrow = [one for one in trained if is_narrow(one[1])]
    if not rounds or not narrow:
        return
    path, dtype, rules = narrow[0]
    rest = len(narrow) - 1
    others = f" ({rest} more {'is' if rest == 1 else 'are'} 16-bit too)" if rest else ""
    compact = ""
    if dtype == jnp.bfloat16:
        compact = " or, to keep the moments in 8 bits too, precision='compact'"
    yield (
        f"Parameter '{path}' is {dtype}{others} and is rounded to nearest, which loses "
        "every update below half a unit in its last place"
        f"{_size_that_stalls(rules, dtype)}. Pass commit='stochastic'{compact} "
        "to adamw, or put with_commit(tx, 'stochastic') around another chain; 'kahan' "
        "and 'master' keep more bits, and 'nearest' keeps this rounding without a "
        "warning."
    )


def _size_that_stalls(group: Variant, dtype: jnp.dtype) -> str:
    """Say from which size on no weight moves, if the learning rate is a plain number.

    A step of AdamW is about as long as the learning rate. It moves a weight w if it is
    at least half a unit in the last place of w.
    """
    rates = [rule for rule in group if rule and rule.stage == Stage.RATE]
    rate = getattr(rates[0], "learning_rate", None) if rates else None
    if not isinstance(rate, Constant) or rate.value <= 0:
        return ""
    half_unit = float(jnp.finfo(dtype).eps) / 2
    size = 2.0 ** (math.floor(math.log2(rate.value / half_unit)) + 1)
    if size > float(jnp.finfo(dtype).max):
        return ""
    return (
        f": a step as long as the learning rate, {rate.value:g}, moves no weight "
        f"larger than {size:g}"
    )


def _on_choices(
    composition: Composition, leaves: Leaves, tree: PyTree
) -> Iterator[str]:
    # A function may be meant for the parameters that optax.masked hides from the tree.
    if not leaves.paths or hidden(tree):
        return
    plan = plan_of(composition, leaves, tree)
    frozen = [plan.is_frozen(i) for i in range(len(leaves.paths))]
    # `freeze()` has no rules: whoever calls it wants just this.
    if composition.rules and composition.groups and all(frozen):
        yield (
            f"`groups` freezes all of the {len(leaves.paths)} parameters, so nothing "
            "trains. Freeze all but some by a pattern with '!': "
            "groups={'!head/*': {'freeze': True}}."
        )
    for name, choice in _choices(composition):
        if not isinstance(choice, Predicate | OfTree):
            continue
        if not any(choice.resolve(name, leaves, tree)):
            yield (
                f"`{name}`: the function {choice!r} chooses none of the "
                f"{len(leaves.paths)} parameters, so it has no effect. It is called "
                f"with paths such as '{leaves.paths[0]}'; describe(tx, params) lists "
                "them all."
            )
    used = {row.group for row in plan.rows}
    for number, group in enumerate(composition.groups[:-1]):
        if number not in used and not isinstance(group.where, Predicate | OfTree):
            yield (
                f"`{shortened(group.name)}` chooses none of the "
                f"{len(leaves.paths)} parameters, so its options have no effect. "
                "Leave the group out."
            )


def _on_decay(composition: Composition) -> Iterator[str]:
    decays = [
        rule
        for rules in composition.variants
        for rule in rules
        if isinstance(rule, Decay)
    ]
    is_cautious = any(rule.cautious for rule in decays)
    if is_cautious and all(rule.weight_decay == Constant(0.0) for rule in decays):
        yield (
            "`cautious_weight_decay` has no effect, because `weight_decay` is 0. Give "
            "a weight decay, or leave it out."
        )


def _on_paths(leaves: Leaves) -> Iterator[str]:
    counts = Counter(leaves.paths)
    twice = [path for path, count in counts.items() if count > 1]
    if twice:
        yield (
            f"{counts[twice[0]]} parameters are called '{twice[0]}': a key with a '/' "
            "in it looks like a subtree. They train, but a pattern chooses all of "
            "them, and checkpoint.save and the saved states of other libraries refuse "
            "them. Rename one of them."
        )


def _choices(composition: Composition) -> Iterator[tuple[str, Selector]]:
    """All choices of parameters, with the names of their arguments."""
    for rules in composition.variants:
        for rule in rules:
            if rule is not None and rule.selector is not None:
                yield "mask", rule.selector
    for group in composition.groups[:-1]:
        yield "groups", group.where
    statistics = composition.control.statistics
    for name, where in () if statistics is None else statistics.groups:
        yield f"groups[{name!r}]", where
    for slot in composition.slots:
        if isinstance(slot.store, BlockStorage) and slot.store.how.keep is not None:
            yield "keep", slot.store.how.keep
