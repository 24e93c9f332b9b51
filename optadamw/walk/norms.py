"""Norms over the tree: what rules, guard and statistics ask for, each measured once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.numerics import compute_dtype, sqrt, total_norm
from optadamw.base.types import Array
from optadamw.leaf.leaf import Program, measure_leaf
from optadamw.rules.rule import Rule, Stage
from optadamw.walk.inputs import Choice, Item, Key, Work

Scalars = dict[Key, list[dict[str, Array]]]
"""The scalars of each rule, for each dtype of computation and group in the tree."""

ProgramOf = Callable[[Choice, int], Program]
"""The leaf function of the first rules, as far as they apply to a leaf."""


@dataclass
class Norms:
    """The norms of the updates on their way through the rules of one step.

    Attributes:
      rules: the rules of the chain.
      work: the leaves.
      program: makes the leaf functions.
      scale: what the gradients are multiplied by before the first rule, or None.
      ready: whether the norms are needed at all in this call, or None for always.
      given: the norm of the gradients as they were passed, if the caller knows it.
      rescued: whether a sum that overflows is formed again. A guard refuses such
        gradients instead, which saves a second reduction of every leaf; but not
        because they are still multiplied by a loss scale.
      groups: positions of the leaves of each group of the statistics.
    """

    rules: tuple[Rule, ...]
    work: Work
    program: ProgramOf
    scale: Array | None = None
    ready: Array | None = None
    given: Array | None = None
    rescued: bool = True
    groups: tuple[tuple[int, ...], ...] = ()
    _known: dict[int, Array] = field(default_factory=dict)

    def of_gradients(self) -> Array:
        """The norm that reaches the first rule; then those of the groups."""
        if 0 not in self._known:
            self._known[0] = self._of_gradients()
        return self._known[0]

    def before(self, index: int, scalars: Scalars) -> Array:
        """The norm of the updates that reach rule `index`."""
        if all(rule.keeps_norm for rule in self.rules[:index]):
            return self.of_gradients()[0]
        if index not in self._known:
            self._known[index] = self._measured(index, scalars, self.scale, ())[0]
        return self._known[index]

    def _of_gradients(self) -> Array:
        if self.given is not None and not self.groups:
            norms = jnp.reshape(self.given, (1,))
        else:
            norms = self._measured(0, {}, None, self.groups)
        if self.scale is None:
            return norms
        # The sum is that of the gradients as they are: XLA's CPU backend would
        # materialize a product inside the reduction.
        return norms * self.scale.astype(norms.dtype)

    def _measured(
        self,
        index: int,
        scalars: Scalars,
        scale: Array | None,
        groups: tuple[tuple[int, ...], ...],
    ) -> Array:
        items = [self.work.items[i] for i in self.work.moving]
        if all(rule.stage == Stage.GRADIENT for rule in self.rules[:index]):
            # Only the gradients matter: fewer operands to trace and to keep alive.
            items = [_gradient_only(item) for item in items]
        programs, operands = [], []
        for item in items:
            program = self.program(item.choice, index)
            if not item.buffers:
                program = replace(program, slots=())
            rows = scalars[item.key][:index] if index else []
            values = chosen_rows(rows, item)
            scaled = None if scale is None else scale.astype(item.dtype)
            programs.append(program)
            operands.append((item.grad, item.param, item.buffers, values, scaled))
        widest = np.result_type(*(item.dtype for item in items))
        members = self.work.rows_of(groups)
        return _tree_norms(
            tuple(programs), widest, members, self.rescued, self.ready, operands
        )


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _tree_norms(
    programs: tuple[Program, ...],
    widest: np.dtype,
    groups: tuple[tuple[int, ...], ...],
    rescued: bool,
    ready: Array | None,
    operands: list[tuple[Any, ...]],
) -> Array:
    """The norms of all updates and of groups of them, as one compiled function."""

    def measured() -> Array:
        squares = [
            measure_leaf(program, *leaf, None).astype(widest)
            for program, leaf in zip(programs, operands, strict=True)
        ]

        def again(i: int) -> Array:
            return measure_leaf(programs[i], *operands[i], squares[i]).astype(widest)

        whole = total_norm(squares, again) if rescued else _root(squares)
        parts = [_root([squares[i] for i in group]) for group in groups]
        return jnp.stack([whole, *(part.astype(widest) for part in parts)])

    if ready is None:
        return measured()
    return lax.cond(ready, measured, lambda: jnp.zeros(1 + len(groups), widest))


def _root(squares: Sequence[Array]) -> Array:
    return sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.zeros(())


def chosen_rows(rows: Sequence[Mapping[str, Array]], item: Item) -> tuple[Any, ...]:
    """The scalars of those rules that apply to a leaf."""
    return tuple(r for r, c in zip(rows, item.choice.applies, strict=False) if c)


def _gradient_only(item: Item) -> Item:
    assert item.grad is not None
    if compute_dtype(item.grad.dtype) != item.dtype:
        return item
    return item._replace(param=None, buffers={})
