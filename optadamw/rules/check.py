"""Check a rule when its transformation is built: unfinished rules are refused."""

import dataclasses
import keyword
from typing import Any

from optadamw.base.errors import invalid, mistyped
from optadamw.rules.rule import Rule, Stage
from optadamw.store.dequantize import UNSIGNED
from optadamw.store.slot import STARTS, Slot
from optadamw.store.state import SCALARS, is_scales

_TAKEN = (*SCALARS, "custom", "accumulator", "residual", "around", "states", "params")
"""Names that already mean something else in a state or in a checkpoint."""

_SLOTS = 'return (Slot("slow", store, start="param"),)'


def check_rule(rule: Any) -> None:
    """Refuse a rule that could not run, or would not do what it promises.

    Raises:
      TypeError: an attribute is missing, or its type is not allowed.
      ValueError: a state cannot hold one of the slots.
    """
    if not isinstance(rule, Rule):
        is_class = isinstance(rule, type) and issubclass(rule, Rule)
        remedy = f"Call it: {rule.__name__}()." if is_class else ""
        raise mistyped("rules", "rules, instances of a subclass of Rule", rule, remedy)
    _check_attributes(rule)
    _check_hash(rule)
    _check_methods(rule)
    if type(rule.slots) is not tuple:
        raise mistyped(
            f"{_name(rule)}.slots",
            "a tuple of Slot",
            rule.slots,
            f"Make it a property that does `{_SLOTS}`.",
        )
    for slot in rule.slots:
        _check_slot(f"{_name(rule)}.slots", slot)


def _name(rule: Rule) -> str:
    return type(rule).__name__


def _check_attributes(rule: Rule) -> None:
    stage = getattr(rule, "stage", None)
    if not isinstance(stage, Stage):
        raise mistyped(
            f"{_name(rule)}.stage",
            "a member of Stage, which says where in a chain the rule may stand",
            stage,
            "Write, for example, `stage: ClassVar[Stage] = Stage.CAUTION` in the "
            "class.",
        )
    if not isinstance(rule.verb, str) or not rule.verb:
        raise mistyped(
            f"{_name(rule)}.verb",
            "the name of the function that users call",
            rule.verb,
            'Write, for example, `verb: ClassVar[str] = "lookahead"`, or leave it out '
            "for the name of the class.",
        )
    if not isinstance(rule.publishes, tuple):
        raise mistyped(
            f"{_name(rule)}.publishes",
            "a tuple of names of scalars",
            rule.publishes,
            'Mind the comma: ("rate",).',
        )


def _check_hash(rule: Rule) -> None:
    """Refuse fields without a hash: a rule is the key of a compilation."""
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        try:
            hash(value)
        except TypeError as error:
            raise mistyped(
                f"{_name(rule)}.{field.name}",
                "hashable, as equal rules share one compiled step",
                value,
                "Wrap numbers, arrays and schedules with hyperparameter(...); use "
                "tuples for lists.",
            ) from error


def _check_methods(rule: Rule) -> None:
    has_apply = type(rule).apply is not Rule.apply
    if not (has_apply or rule.follows_commit or rule.publishes):
        raise TypeError(
            f"{_name(rule)} overrides neither `apply` nor `after_commit`, so it does "
            "nothing. Define one of them."
        )
    if rule.has_leaf_scalars and not rule.sums:
        raise TypeError(
            f"{_name(rule)} overrides `leaf_scalars`, which reads a whole parameter, "
            "and its `sums` is False. Write `sums: ClassVar[bool] = True` in the class."
        )
    if rule.follows_commit and not rule.needs_params:
        raise TypeError(
            f"{_name(rule)} overrides `after_commit`, which `update` without "
            "parameters never calls, and its `needs_params` is False. Write "
            "`needs_params: ClassVar[bool] = True` in the class."
        )


def _check_slot(owner: str, slot: Any) -> None:
    if not isinstance(slot, Slot):
        raise mistyped(owner, "a tuple of Slot", slot, f"Mind the comma: {_SLOTS}.")
    name = slot.name
    rule = "the name of a buffer, a Python identifier"
    if not isinstance(name, str):
        raise mistyped(f"{owner}: name", rule, name)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise invalid(f"{owner}: name", rule, name)
    if is_scales(name):
        raise invalid(
            f"{owner}: name",
            "a name that does not end in '_scales'",
            name,
            "The scales of a buffer in 8 bits are kept under such names. Choose "
            "another.",
        )
    if name in _TAKEN:
        raise invalid(
            f"{owner}: name",
            f"none of {', '.join(map(repr, _TAKEN))}",
            name,
            "These mean something else in a State or a checkpoint. Choose another.",
        )
    if slot.start not in STARTS:
        raise invalid(f"{owner}: start", "'zeros' or 'param'", slot.start)
    if not hasattr(slot.store, "resolved"):
        raise mistyped(
            f"{owner}: store",
            "a Storage",
            slot.store,
            "Make one with storage(name, form), which takes a dtype, stochastic(...), "
            "blockwise(...) or None.",
        )
    if name not in UNSIGNED and not getattr(slot.store, "signed", True):
        raise invalid(
            f"{owner}: store",
            f"signed, unless the buffer is {' or '.join(UNSIGNED)}",
            slot.store,
            "A State does not say whether 8-bit codes have a sign. Use "
            "storage(name, form, signed=True).",
        )
