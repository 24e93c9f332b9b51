"""The plan: the group, rules and buffers of each leaf, resolved once per trace.

A plan depends on paths, shapes and dtypes only, not on numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jax.sharding import NamedSharding

from optadamw.base.masks import Selector
from optadamw.base.tree import Leaves
from optadamw.base.types import PyTree
from optadamw.rules.groups import Group
from optadamw.rules.rule import Rule
from optadamw.store.absent import Absent
from optadamw.store.slot import Slot
from optadamw.walk.composition import Composition


class LeafPlan(NamedTuple):
    """The group of one leaf, its rules, and its buffers."""

    group: int
    applies: tuple[bool, ...]
    """Whether each rule of the group applies to the leaf."""
    slots: tuple[Slot, ...]
    """The buffers of rules and commit, each with the store of this leaf."""
    accumulator: Slot | None = None
    """The accumulator with the store of this leaf; None without accumulation."""
    sharding: NamedSharding | None = None
    """The sharding of the leaf over Auto axes, if the user stated it."""

    @property
    def buffers(self) -> tuple[Slot, ...]:
        """All buffers of the leaf, including the accumulator."""
        own = self.slots
        return own if self.accumulator is None else (*own, self.accumulator)

    def chosen(self, rules: Sequence[Rule | None]) -> list[Rule]:
        """Return those of the group's rules, or of its first ones, that apply."""
        pairs = zip(rules, self.applies, strict=False)
        return [rule for rule, applies in pairs if rule is not None and applies]


@dataclass(frozen=True)
class Plan:
    """A composition and the leaves of a tree, with a `LeafPlan` for each leaf."""

    composition: Composition
    leaves: Leaves
    rows: tuple[LeafPlan, ...]
    """A row for each leaf, in the order of the tree."""
    measured: tuple[tuple[int, ...], ...]
    """The positions of the leaves of each group of the statistics."""
    axes: tuple[tuple[str, ...] | None, ...] = ()
    """The axes that `with_axes` names for each leaf; None: it names none."""

    def fitted(self, columns: Mapping[str, Sequence[Any]]) -> "Plan":
        """Return the plan with the stores of the buffers that a state holds."""
        rows = []
        for i, row in enumerate(self.rows):
            array, slots = self.leaves.arrays[i], []
            for slot in row.slots:
                store = slot.store.fitted(columns[slot.name][i], array)
                same = store is slot.store
                slots.append(slot if same else slot._replace(store=store))
            rows.append(row._replace(slots=tuple(slots)))
        return replace(self, rows=tuple(rows))

    def is_frozen(self, position: int) -> bool:
        """Return whether the leaf at this position never changes."""
        return self.composition.is_frozen(self.rows[position].group)


def plan_of(composition: Composition, leaves: Leaves, tree: PyTree) -> Plan:
    """Make the plan of a tree of parameters, or of gradients if no parameters exist.

    Args:
      composition: the rules, and the parts around them.
      leaves: the flattened tree.
      tree: the tree itself, for masks that are functions of it.

    Raises:
      ValueError: a pattern matches no parameter, all parameters of a group are in an
        earlier one, or a leaf cannot have the store that is chosen for it.
    """
    count = len(leaves.paths)
    tables = []
    # Groups mostly share their masks: 40 groups of 3,000 leaves take 1.2 s at `init`,
    # and took 4.9.
    masks: dict[Selector, tuple[bool, ...]] = {}
    for rules in composition.variants:
        columns = [_applies(rule, leaves, tree, masks) for rule in rules]
        tables.append(list(zip(*columns, strict=True)) or [()] * count)
    groups = _members(composition.groups, leaves, tree)
    slots = _slots_by_leaf(composition, groups, leaves, tree)
    width = len(composition.slots)
    rows = tuple(
        LeafPlan(
            group,
            tables[group][i],
            slots[i][:width],
            next(iter(slots[i][width:]), None),
        )
        for i, group in enumerate(groups)
    )
    if composition.shardings is not None:
        stated = composition.shardings.resolved(leaves)
        pairs = zip(rows, stated, strict=True)
        rows = tuple(row._replace(sharding=sharding) for row, sharding in pairs)
    measured = _measured(composition, leaves, tree)
    return Plan(composition, leaves, rows, measured, _axes(composition, leaves, tree))


def _applies(
    rule: Rule | None,
    leaves: Leaves,
    tree: PyTree,
    masks: dict[Selector, tuple[bool, ...]],
) -> tuple[bool, ...]:
    """Return for each leaf whether a rule applies to it; `masks` are those known."""
    if rule is None or rule.selector is None:
        return (rule is not None,) * len(leaves.paths)
    choice: Any = rule.selector
    try:
        found = masks.get(choice)
    except TypeError:  # of a class that a user wrote, without a hash
        return tuple(choice.resolve("mask", leaves, tree))
    if found is None:
        found = masks[choice] = choice.resolve("mask", leaves, tree)
    return found


def _slots_by_leaf(
    composition: Composition, members: Sequence[int], leaves: Leaves, tree: PyTree
) -> list[tuple[Slot, ...]]:
    """Return the slots of each leaf, with the stores of this leaf."""
    columns = [
        [
            slot._replace(store=Absent() if composition.is_frozen(group) else store)
            for group, store in zip(
                members, slot.store.resolved(slot.name, leaves, tree), strict=True
            )
        ]
        for slot in composition.buffers
    ]
    return list(zip(*columns, strict=True)) or [()] * len(leaves.paths)


def _axes(
    composition: Composition, leaves: Leaves, tree: PyTree
) -> tuple[tuple[str, ...] | None, ...]:
    """Return for each leaf the axes of the first choice of `with_axes` that has it."""
    found: list[tuple[str, ...] | None] = [None] * len(leaves.paths)
    for where, axes in composition.axes:
        for i, is_in in enumerate(where.resolve("sharded", leaves, tree)):
            if is_in and found[i] is None:
                found[i] = axes
    return tuple(found)


def _measured(
    composition: Composition, leaves: Leaves, tree: PyTree
) -> tuple[tuple[int, ...], ...]:
    statistics = composition.control.statistics
    if statistics is None:
        return ()
    chosen = [
        where.resolve(f"groups[{name!r}]", leaves, tree)
        for name, where in statistics.groups
    ]
    return tuple(tuple(i for i, is_in in enumerate(row) if is_in) for row in chosen)


def _members(groups: Sequence[Group], leaves: Leaves, tree: PyTree) -> list[int]:
    """Return for each leaf the number of the first group that chooses it.

    Raises:
      ValueError: all parameters of a group are in an earlier one.
    """
    count = len(leaves.paths)
    if not groups:
        return [0] * count
    members: list[int | None] = [None] * count
    for number, group in enumerate(groups):
        chosen = group.where.resolve("groups", leaves, tree)
        free = [i for i, is_in in enumerate(chosen) if is_in and members[i] is None]
        is_rest = number == len(groups) - 1
        if any(chosen) and not free and not is_rest:
            taken = next(i for i, is_in in enumerate(chosen) if is_in)
            earlier = groups[members[taken] or 0].name
            raise ValueError(
                f"`groups`: every parameter of {group.name} is in an earlier group; "
                f"'{leaves.paths[taken]}' is in {earlier}. The first group that "
                "matches counts: put the narrower groups first."
            )
        for i in free:
            members[i] = number
    return [0 if number is None else number for number in members]
