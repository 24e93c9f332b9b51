"""The arguments of a leaf function: its program, and the input of one leaf.

A program holds no numbers and is the key of a compilation: all leaves of one shape and
dtype with the same rules share one compiled function, for all hyperparameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from jax.sharding import NamedSharding

from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.commit.commit import Commit
from optadamw.rules.rule import Rule, Stage
from optadamw.store.slot import Slot

Emit = Literal["param", "update"]
"""The output of a leaf function: the new parameter, or its update."""

Kernel = Literal["compiled", "interpreted", "never"]
"""Kernels for all leaves that fit: compiled for a TPU or GPU, interpreted, or none."""


@dataclass(frozen=True)
class Program:
    """The compilation key of a leaf function: everything that it does, no numbers."""

    rules: tuple[Rule, ...]
    slots: tuple[Slot, ...]
    commit: Commit
    is_whole: bool
    update_dtype: np.dtype | None
    emit: Emit
    measures: bool = False
    is_bounded: bool = False
    is_reproducible: bool = False
    """Whether sums over a leaf have the same bits on every mesh; default: False."""
    kernel: Kernel | None = None
    """How leaves that can be cut into tiles are run; None (default): in compiled
    kernels if they move fewer bytes than XLA's own fusions do."""
    sharding: NamedSharding | None = None
    """The sharding of the leaf over Auto axes, if the user stated it."""
    is_tiled: bool = False
    """Whether the function runs inside such a kernel, on one tile of a leaf."""
    has_rate_behind: bool = False
    """Whether a rule of the chain behind `rules`, which the function leaves out,
    publishes the learning rate."""

    def upto(self, count: int) -> Self:
        """Return the function of the first `count` rules."""
        rate = self.awaits_rate(count)
        return replace(self, rules=self.rules[:count], has_rate_behind=rate)

    def awaits_rate(self, index: int) -> bool:
        """Return whether a rule at or behind `index` publishes the learning rate."""
        behind = self.rules[index:]
        return self.has_rate_behind or any(
            "learning_rate" in rule.publishes for rule in behind
        )

    @property
    def rounded(self) -> tuple[str, ...]:
        """The buffers that are rounded when kept, after the parameter used them."""
        # Buffers of rules that follow the commit are not known before it.
        before = Stage.COMMITTED
        rules = [r for r in self.rules if r.stage < before and not r.follows_commit]
        moved = [slot.name for rule in rules for slot in rule.slots]
        lossy = [slot.name for slot in self.slots if slot.store.is_lossy]
        return tuple(name for name in lossy if name in moved)

    @property
    def foreign(self) -> tuple[Rule, ...]:
        """The rules that are not from this library, whose kernels are not tested."""
        return tuple(
            rule
            for rule in self.rules
            if str(type(rule).__module__).partition(".")[0] != "optadamw"
        )

    @property
    def draws(self) -> bool:
        """Whether the function draws random bits and needs a `Site`."""
        return self.commit.draws or any(slot.store.draws for slot in self.slots)


class LeafInput(NamedTuple):
    """The input of the leaf function for one parameter."""

    grad: Any
    """The gradient; None for a leaf that has no gradient and is not changed."""
    param: Any | None
    """The parameter; None if `update` was called without parameters."""
    buffers: Mapping[str, Any]
    """The encoded buffers by the names of their slots."""
    scalars: tuple[Mapping[str, Array], ...] = ()
    """The scalars of each rule of the program."""
    scale: Array | None = None
    """The factor of the gradient before the first rule; None (default): 1."""
    site: Site | None = None
    """The site of the leaf's random bits; None (default): no random rounding."""

    @property
    def like(self) -> Any:
        """The array whose shape and dtype are the parameter's."""
        return self.grad if self.param is None else self.param


class LeafOutput(NamedTuple):
    """The results of the leaf function of one parameter."""

    output: Any
    """The new parameter, or the update that leads to it."""
    buffers: Mapping[str, Any]
    squares: Array | None = None
    """Sums of squares of update and new parameter, if the program measures them."""
