"""Groups: parameters whose rules have hyperparameters of their own.

Unlike the parts of `optax.multi_transform`, groups have no states of their own: all
groups share one `State`, one count of steps and one global norm. Only the rules differ
from leaf to leaf.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from optadamw.base.errors import misplaced
from optadamw.base.masks import Selector
from optadamw.rules.rule import Rule, Stage

Variant = tuple[Rule | None, ...]
"""The rules of one group, one for each of the chain; None: the group leaves it out."""


@dataclass(frozen=True)
class Group:
    """A choice of parameters, and their rules."""

    name: str
    """The name of the group in messages: the choice as the user wrote it."""
    where: Selector
    """The choice; a parameter belongs to the first group that chooses it."""
    rules: Variant
    is_frozen: bool = False
    """Whether these parameters never change and have no buffers; default: False."""


def aligned(
    chains: Sequence[tuple[str, Sequence[Rule]]],
) -> tuple[tuple[Rule, ...], list[Variant]]:
    """Merge several chains into one, and align each of them with the merged chain.

    Returns:
      The merged chain, which has the rules of all chains, and each chain as a `Variant`
      of the merged one.

    Raises:
      ValueError: the chains have different buffers, differ in a rule that concerns all
        parameters together, or have the same rules in another order.
    """
    merged: list[tuple[tuple[type[Rule], int], Rule]] = []
    keyed = [(name, _keyed(rules)) for name, rules in chains]
    for name, rules in keyed:
        place = 0
        for key, rule in rules.items():
            known = [k for k, _ in merged]
            if key not in known:
                merged.insert(place, (key, rule))
            elif known.index(key) < place:
                raise misplaced(
                    f"{rule.verb} stands elsewhere in {name} than in the other groups.",
                    "Give all groups the same order.",
                )
            place = [k for k, _ in merged].index(key) + 1
    for key, rule in merged:
        _check_common(rule, [(name, rules.get(key)) for name, rules in keyed])
    variants = [tuple(rules.get(key) for key, _ in merged) for _, rules in keyed]
    return tuple(rule for _, rule in merged), variants


def _keyed(rules: Sequence[Rule]) -> dict[tuple[type[Rule], int], Rule]:
    """Return the rules by their class and their number within the class."""
    keyed: dict[tuple[type[Rule], int], Rule] = {}
    for rule in rules:
        number = sum(type(rule) is kind for kind, _ in keyed)
        keyed[type(rule), number] = rule
    return keyed


def _check_common(rule: Rule, own: Sequence[tuple[str, Rule | None]]) -> None:
    """Refuse groups that differ in a rule that concerns all parameters together."""
    stages = (Stage.MOMENTS, Stage.DIRECTION, Stage.RATE, Stage.COMMITTED)
    given = [(name, other) for name, other in own if other is not None]
    lacking = [name for name, other in own if other is None]
    if lacking and (rule.reads_norm or rule.stage in stages):
        raise misplaced(
            f"{rule.verb} is a part of {given[0][0]} and not of {lacking[0]}.",
            "It concerns all parameters: give it to every group, or to none.",
        )
    (first_name, first), *others = given
    for name, other in others:
        if rule.reads_norm and other != first:
            raise misplaced(
                f"{rule.verb} differs between {first_name} and {name}, and the norm "
                "over all parameters has one limit.",
                "Give all groups the same, or clip each parameter by itself.",
            )
        if other.slots != first.slots:
            raise misplaced(
                f"{rule.verb} stores its buffers in another format in {first_name} "
                f"than in {name}.",
                "All groups share one state: give them the same dtypes.",
            )
