"""The order of the rules in a chain, and its check."""

from collections.abc import Sequence

from optadamw.base.errors import misplaced
from optadamw.rules.rule import Rule, Stage

_ORDER = (
    "The order is: maximize, clips, scale_by_adam, amsgrad_max, "
    "add_slow_moment, cautious, add_decoupled_weight_decay, clip_update_by_rms, "
    "scale_by_learning_rate, schedule_free or ema_params."
)


def composed(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the rules of a chain; each maximum is moved before its direction."""
    ordered: list[Rule] = []
    for rule in rules:
        follows = ordered and ordered[-1].stage == Stage.DIRECTION
        if rule.stage == Stage.MAXIMUM and follows:
            ordered.insert(len(ordered) - 1, rule)
        else:
            ordered.append(rule)
    return tuple(ordered)


def check_order(rules: Sequence[Rule]) -> None:
    """Refuse a chain in which a rule would not do what its name says.

    Raises:
      ValueError: a rule stands too late, stands twice, or lacks a rule that it needs.
    """
    _check_once(rules)
    for index, rule in enumerate(rules):
        before, after = tuple(rules[:index]), tuple(rules[index + 1 :])
        rule.placed(before, after)
        for earlier in before:
            if earlier.stage > rule.latest:
                raise misplaced(
                    f"{rule.verb} stands after {earlier.verb} in this chain, which "
                    "would change its meaning.",
                    _ORDER,
                )


def check_variants(variants: Sequence[Sequence[Rule | None]]) -> None:
    """Refuse what `check_order` refuses in the rules of any group.

    Raises:
      ValueError: as `check_order`.
    """
    for rules in variants:
        check_order([rule for rule in rules if rule is not None])


def _check_once(rules: Sequence[Rule]) -> None:
    owners: dict[str, str] = {}
    for rule in rules:
        claims = [f"the buffer `{slot.name}`" for slot in rule.slots]
        claims += [f"the place of {rule.verb}"] if rule.once else []
        for claim in claims:
            if claim in owners:
                raise misplaced(
                    f"{rule.verb} and {owners[claim]} both claim {claim}, and a chain "
                    "has room for one.",
                    "Use it once, or combine two chains with optax.chain.",
                )
            owners[claim] = rule.verb
