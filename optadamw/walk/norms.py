"""Norms over the tree for rules, guard and statistics; each norm is measured once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import real_scalar
from optadamw.base.numerics import at_least_float32, compute_dtype, sqrt
from optadamw.base.reproducible import Squares, largest, root_of, squares_of
from optadamw.base.squares import (
    rescaled_squares,
    squares_in_one_pass,
    sum_of_squares,
    total_norm,
    widened,
)
from optadamw.base.types import Array
from optadamw.base.varying import made_varying
from optadamw.leaf.compute import measure_leaf
from optadamw.leaf.program import LeafInput, Program
from optadamw.native.kernel import usable_compiler
from optadamw.native.library import Target
from optadamw.native.norm import Measure, norm_target, norms_of
from optadamw.rules.rule import Rule, Stage
from optadamw.walk.axes import summed, varying_norms
from optadamw.walk.inputs import Inputs, Key
from optadamw.walk.offload import on_device
from optadamw.walk.plan import LeafPlan
from optadamw.walk.programs import Programs

Scalars = dict[Key, list[dict[str, Array]]]
"""The scalars of each rule, by dtype of computation and group."""


@dataclass
class Norms:
    """The norms of gradients and updates before each rule of one step.

    Attributes:
      rules: the rules of the chain.
      inputs: the leaves.
      scale: the factor of the gradients before the first rule; None (default): 1.
      is_due: whether the norms are needed in this call; None (default): always.
      given: the norm of the gradients as the caller passed it; None (default): it is
        measured.
      rescued: whether a sum of squares that overflows is computed again with rescaled
        numbers. A guard refuses such gradients instead, which saves a second reduction
        of every leaf; under a loss scale it must know the norm. Default: True.
      groups: positions of the leaves of each group of the statistics; default: none.
    """

    rules: tuple[Rule, ...]
    inputs: Inputs
    scale: Array | None = None
    is_due: Array | None = None
    given: Array | None = None
    rescued: bool = True
    groups: tuple[tuple[int, ...], ...] = ()
    _known: dict[int, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._programs = Programs(self.inputs.plan.composition, "update")

    def of_gradients(self) -> Array:
        """Return the norm of all gradients, followed by the norms of the groups."""
        if 0 not in self._known:
            self._known[0] = self._of_gradients()
        return self._known[0]

    def before(self, index: int, scalars: Scalars) -> Array:
        """Return the norm of the updates before the rule at `index`."""
        if all(rule.keeps_norm for rule in self.rules[:index]):
            return self.of_gradients()[0]
        if index not in self._known:
            self._known[index] = self._measured(index, scalars, self.scale, ())[0]
        return self._known[index]

    def _of_gradients(self) -> Array:
        if self.given is None:
            norms = self._measured(0, {}, None, self.groups)
        else:
            norms = jnp.reshape(self.given, (1,))
            if self.groups:  # which the caller cannot give
                groups = self._measured(0, {}, None, self.groups)[1:]
                dtype = jnp.promote_types(norms.dtype, groups.dtype)
                norms = jnp.concatenate([norms.astype(dtype), groups.astype(dtype)])
        if self.scale is None:
            return norms
        # The norm is scaled and not the gradients: XLA's CPU backend would materialize
        # a product inside the reduction.
        return norms * self.scale.astype(norms.dtype)

    def _measured(
        self,
        index: int,
        scalars: Scalars,
        scale: Array | None,
        groups: tuple[tuple[int, ...], ...],
    ) -> Array:
        """Measure the norm of the updates before the rule at `index`, and of groups."""
        inputs = self.inputs
        only_gradients = all(
            rule.stage == Stage.GRADIENT and not rule.slots and not rule.needs_params
            for rule in self.rules[:index]
        )
        programs, leaves = [], []
        for i in inputs.moving:
            given, dtype, row = inputs.leaves[i], inputs.dtypes[i], inputs.row(i)
            program = self._programs.of(row, index)
            if only_gradients:
                given = _gradient_only(given, dtype)
            if inputs.layouts is not None:
                given = inputs.layouts[i].entered(given)
            offloaded = inputs.plan.composition.offload
            given = given._replace(buffers=on_device(given.buffers, offloaded))
            if not given.buffers:
                program = replace(program, slots=())
            rows = scalars[inputs.key(i)][:index] if index else []
            programs.append(program)
            leaves.append(
                given._replace(
                    scalars=chosen_rows(rows, row),
                    scale=None if scale is None else scale.astype(dtype),
                )
            )
        widest = np.result_type(*(inputs.dtypes[i] for i in inputs.moving))
        members = inputs.places_of(groups)
        axes = inputs.summed_axes("a norm of all gradients or updates")
        how = _Way(tuple(programs), widest, members, self.rescued, axes)
        if index == 0 and scale is None and widest == np.float32 and not axes:
            how = replace(how, target=self._target([leaf.grad for leaf in leaves]))
        return _tree_norms(how, self.is_due, leaves)

    def _target(self, grads: Sequence[Array]) -> str | None:
        """Return the function in C that measures gradients; None: XLA does."""
        composition = self.inputs.plan.composition
        if (
            composition.kernel_choice == "xla"
            or composition.has_reproducible_norms
            or self.inputs.layouts is not None
            or any(
                AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
                for x in grads
            )
        ):
            return None
        found = norm_target([np.dtype(x.dtype) for x in grads], usable_compiler())
        return found.name if isinstance(found, Target) else None


@dataclass(frozen=True)
class _Way:
    """The static part of a measurement of norms."""

    programs: tuple[Program, ...]
    widest: np.dtype
    groups: tuple[tuple[int, ...], ...]
    rescued: bool
    axes: tuple[tuple[str, ...], ...]
    target: str | None = None
    """The function in C that measures gradients; None (default): XLA's code."""

    def __call__(self, *grads: Array) -> Array:
        """Measure gradients by XLA's code, as the `plain` of a `Measure`."""
        leaves = [LeafInput(grad=x, param=None, buffers={}) for x in grads]
        return _by_xla(self, leaves)


@partial(jax.jit, static_argnums=0)
def _tree_norms(how: _Way, is_due: Array | None, leaves: list[LeafInput]) -> Array:
    """Measure the norm of all leaves, and of groups, in one compiled function."""

    def measured() -> Array:
        if how.target is None:
            return _by_xla(how, leaves)
        found = Measure(how.target, how.groups, not how.rescued, plain=how)
        return norms_of(found, [leaf.grad for leaf in leaves])

    if is_due is None:
        return measured()

    def none() -> Array:
        zeros = jnp.zeros(1 + len(how.groups), how.widest)
        return made_varying(zeros, varying_norms(leaves, how.axes))

    return lax.cond(is_due, measured, none)


def _by_xla(how: _Way, leaves: Sequence[LeafInput]) -> Array:
    """Measure the norm of all leaves, and of groups, by XLA's code."""
    programs, widest, groups, axes = how.programs, how.widest, how.groups, how.axes

    def of_leaves(measure: Callable[..., Any], *columns: Sequence[Array]) -> list[Any]:
        """Measure each leaf, with its entry of each column, over all devices."""
        found = [
            measure_leaf(program, measure, x, *others)
            for program, x, *others in zip(programs, leaves, *columns, strict=True)
        ]
        if not axes:
            return found
        pairs = zip(found, axes, strict=True)
        return [jax.tree.map(partial(summed, axes=over), x) for x, over in pairs]

    def reproducible() -> Array:
        reach = axes or ((),) * len(leaves)
        squares = [
            _widened(_squares(program, x, over), widest)
            for program, x, over in zip(programs, leaves, reach, strict=True)
        ]
        parts = [[squares[i] for i in group] for group in groups]
        none = jnp.zeros((), widest)
        return jnp.stack([root_of(p) if p else none for p in (squares, *parts)])

    def again(sums: Sequence[Array]) -> list[Array]:
        return [widened(x, widest) for x in of_leaves(rescaled_squares, sums)]

    if programs[0].is_reproducible:
        return reproducible()
    if how.rescued:
        pairs = [
            (plain.astype(widest), widened(scaled, widest))
            for plain, scaled in of_leaves(squares_in_one_pass)
        ]
        whole = total_norm(pairs, again)
        squares = [plain for plain, _ in pairs]
    else:
        squares = [x.astype(widest) for x in of_leaves(sum_of_squares)]
        whole = _root(squares)
    parts = [_root([squares[i] for i in group]) for group in groups]
    return jnp.stack([whole, *(part.astype(widest) for part in parts)])


def _squares(program: Program, given: LeafInput, axes: tuple[str, ...]) -> Squares:
    """Return the reproducible sum of squares of a leaf, in two passes over it."""
    of_largest, of_squares = _over(axes)
    most = measure_leaf(program, of_largest, given)
    return measure_leaf(program, of_squares, given, most)


@cache
def _over(axes: tuple[str, ...]) -> tuple[Callable[..., Array], Callable[..., Squares]]:
    """Return the two measures over the devices of `axes`, the same for equal axes."""
    return (lambda x: largest(x, axes)), (lambda x, most: squares_of(x, most, axes))


def _widened(squares: Squares, dtype: np.dtype) -> Squares:
    return Squares(*(x.astype(dtype) for x in squares))


def _root(squares: Sequence[Array]) -> Array:
    return sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.zeros(())


def chosen_rows(
    rows: Sequence[Mapping[str, Array]], row: LeafPlan
) -> tuple[Mapping[str, Array], ...]:
    """Return the scalars of the rules that apply to a leaf."""
    return tuple(r for r, yes in zip(rows, row.applies, strict=False) if yes)


def _gradient_only(given: LeafInput, dtype: np.dtype) -> LeafInput:
    """Remove parameter and buffers, for rules that read only the gradient.

    The compiled norm then has fewer operands to trace and to keep alive.
    """
    assert given.grad is not None
    if compute_dtype(given.grad.dtype) != dtype:
        return given
    return given._replace(param=None, buffers={})


def given_norm(given: Any) -> Array | None:
    """Check the argument `grad_norm` of a call: a real scalar >= 0, or None.

    An array that is negative, which is known only when the step runs, counts as NaN: a
    guard skips the step, and a clip leaves the gradients as they are.
    """
    if given is None:
        return None
    norm = at_least_float32(real_scalar("grad_norm", given))
    if not isinstance(given, jax.Array) and float(given) < 0:
        raise invalid("grad_norm", ">= 0", given)
    return jnp.where(norm < 0, jnp.nan, norm)
