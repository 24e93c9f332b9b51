"""Groups: parameters that go through the chain with numbers of their own.

A group is not another transformation beside the first, with a state of its own (as
`optax.multi_transform` has it): all groups share one `State`, one count of steps and
one global norm. Only the rules differ from leaf to leaf.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from optadamw.base.errors import misplaced
from optadamw.base.masks import Selector
from optadamw.rules.rule import Rule, Stage

Variant = tuple[Rule | None, ...]
"""The rules of one group, in step with those of the chain; None: left out there."""


@dataclass(frozen=True)
class Group:
    """Some parameters and their rules."""

    name: str
    """As the user wrote the choice: what messages call the group."""
    where: Selector
    rules: Variant


def aligned(
    chains: Sequence[tuple[str, Sequence[Rule]]],
) -> tuple[tuple[Rule, ...], list[Variant]]:
    """One chain with room for all rules of several, and each of them in its places.

    Raises:
      ValueError: chains that do not keep the same buffers, do not agree on what is
        common to all parameters, or have the same parts in another order.
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
    """Each rule by its kind, and by its number among those of its kind."""
    keyed: dict[tuple[type[Rule], int], Rule] = {}
    for rule in rules:
        number = sum(type(rule) is kind for kind, _ in keyed)
        keyed[type(rule), number] = rule
    return keyed


def _check_common(rule: Rule, own: Sequence[tuple[str, Rule | None]]) -> None:
    """Refuse a part in which the groups differ and which concerns them all."""
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
                f"{rule.verb} keeps its buffers otherwise in {first_name} than in "
                f"{name}.",
                "The state has one form: give all groups the same dtypes.",
            )
