"""Transformations: composed rules with Optax's interface.

A `Transformation` is an `optax.GradientTransformationExtraArgs`, a pair of `init` and
`update`, whose members are records and not closures. A transformation therefore prints
as the call that makes it, compares and hashes by value, and pickles. Equal
transformations share their compiled programs: `jax.jit(tx.step)` compiles once.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import optax

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.types import PyTree
from optadamw.rules.check import check_rule
from optadamw.rules.rule import Rule
from optadamw.store.state import State
from optadamw.transforms.adjusting import Adjusting
from optadamw.transforms.call import Call
from optadamw.transforms.programs import JitStep, Programs, Step, programs_of
from optadamw.walk.composition import Composition
from optadamw.walk.init import init
from optadamw.walk.step import advance, flush


@dataclass(frozen=True)
class Recipe:
    """The composition of a transformation, and the call as which it prints."""

    composition: Composition
    call: Call | None = field(default=None, compare=False)

    @functools.cached_property
    def programs(self) -> Programs:
        """The compiled programs, held while a transformation with them is in use."""
        return programs_of(self.composition)


@dataclass(frozen=True)
class Init:
    """The function `init(params) -> state`."""

    recipe: Recipe
    __name__: ClassVar[str] = "init"  # shown in traces and profiles

    def __call__(self, params: PyTree) -> State:
        return init(self.recipe.composition, params)


@dataclass(frozen=True)
class Update:
    """The function `update(grads, state, params, **extra) -> (updates, state)`."""

    recipe: Recipe
    __name__: ClassVar[str] = "update"  # shown in traces and profiles

    def __call__(
        self, updates: PyTree, state: State, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, State]:
        composition = self.recipe.composition
        return advance(composition, updates, state, params, extra, "update")


@dataclass(frozen=True)
class Flush:
    """The function `flush(state, params, like=None) -> (params, state)`."""

    composition: Composition
    __name__: ClassVar[str] = "flush"  # shown in traces and profiles

    def __call__(
        self, state: State, params: PyTree, like: PyTree | None = None
    ) -> tuple[PyTree, State]:
        return flush(self.composition, state, params, like)


class Transformation(optax.GradientTransformationExtraArgs, Adjusting):
    """An Optax transformation that holds its rules and can step in place.

    The functions of this library, such as `adamw` and `chain`, return one. It works in
    every place that takes an Optax transformation, compares equal to a transformation
    of the same rules and hyperparameters, and prints as the call that made it.

    Attributes:
      init: `init(params)` returns the first state.
      update: `update(grads, state, params)` returns `(updates, state)`;
        `optax.apply_updates(params, updates)` then gives the new parameters.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse: a transformation never changes, and equal ones are one object.

        Raises:
          AttributeError: always.
        """
        raise AttributeError(
            f"`{name}` of a transformation cannot be set, and would have no effect. "
            "Make another transformation; or make this one with an adjustable number, "
            "optadamw.adamw(optadamw.adjustable(1e-3)), and set it in the state by "
            "tx.with_hyperparameters(state, learning_rate=...)."
        )

    @property
    def recipe(self) -> Recipe:
        """The rules and wrappers of this transformation, and the call it prints as."""
        return self.init.recipe

    @property
    def step(self) -> Step:
        """Update and apply in one call: `step(grads, state, params, **extra)`.

        The result is `(params, state)`. Inside a jitted function that donates
        parameters and state and returns both, they are overwritten in place, without a
        temporary. Parameters come first in its arguments too: JAX pairs donated arrays
        with results of their shape in order, and XLA copies what is crossed.

        The keywords are `loss`, `weight` of a micro-batch, and `grad_norm`. Others are
        ignored, as in Optax; a misspelt one, such as `weights`, is an error.
        """
        return self.recipe.programs.step

    @property
    def jit_step(self) -> JitStep:
        """The compiled `step`: `jit_step(grads, state, params) -> (params, state)`.

        Equal transformations share one compiled program. State and parameters are
        donated: the arrays that are passed are overwritten and cannot be used again.
        """
        return JitStep(self.recipe.composition, self.recipe.programs)

    @property
    def flush(self) -> Flush:
        """Take the step of a partial window: `flush(state, params, like=None)`.

        The result is `(params, state)`. Call it after the last micro-batch, so that the
        gradients of a partial window are not lost. Their weighted mean (or sum) is
        applied as that of a full window. A window that lost all its
        micro-batches ends too, and is counted as skipped. Before the first gradient of
        a window, or without `multi_steps`, parameters and state are returned unchanged.

        A parameter whose gradient was None in the window does not change. Pass the
        last gradients as `like`, a tree with None at these parameters, to name them.
        With None (default) they are found in the accumulators, and the step needs
        memory for the old and the new arrays.
        """
        return Flush(self.recipe.composition)

    def _replace(self, **members: Any) -> optax.GradientTransformationExtraArgs:
        """Return an Optax transformation with other members, which has no `step`.

        `step` runs the rules of this transformation: it would not call another
        `update`. `optadamw.step` calls `update` of the result.
        """
        plain = optax.GradientTransformationExtraArgs(self.init, self.update)
        return plain._replace(**members)

    __replace__ = _replace  # copy.replace, from Python 3.13

    def called(self, call: Call) -> "Transformation":
        """Return an equal transformation that prints as `call`."""
        return transformation(self.recipe.composition, call)

    def __repr__(self) -> str:
        recipe = self.recipe
        return repr(recipe.call or f"Transformation of {recipe.composition.rules!r}")


def transformation(
    composition: Composition, call: Call | None = None
) -> Transformation:
    """Make the transformation of a composition, which prints as `call`."""
    if composition.is_traced:
        recipe = Recipe(composition, call)
        return Transformation(Init(recipe), Update(recipe))
    is_chosen = composition.has_chosen_commit
    return _transformation_of(composition, call, (repr(call), is_chosen))


# A script that rebuilds its transformation for every run, or a notebook cell that runs
# again, reuses the programs of the last ones. A program takes 2 to 3 MiB of memory, so
# the programs of a sweep over 1,000 learning rates are not all kept.
@functools.lru_cache(maxsize=16)
def _transformation_of(
    composition: Composition, call: Call | None, uncompared: tuple[str, bool]
) -> Transformation:
    del uncompared  # part of the key: equal transformations may differ in these
    recipe = Recipe(composition, call)
    return Transformation(Init(recipe), Update(recipe))


def atom(*rules: Rule) -> Transformation:
    """Make the transformation of one rule (Adam has two), to be chained or used alone.

    Raises:
      TypeError, ValueError: a rule has no stage, has a slot that a state cannot hold,
        or is otherwise unfinished; the message names the attribute.
    """
    for rule in rules:
        check_rule(rule)
    return transformation(Composition(rules))


def controlled(name: str, inner: Any, **parts: Any) -> Transformation:
    """Set parts of the control of `inner`, for a wrapper called `name`.

    Raises:
      TypeError: `inner` is not from this library.
      ValueError: `inner` has one of the parts already.
    """
    if not isinstance(inner, Transformation):
        raise mistyped(
            "inner",
            "a transformation of optadamw",
            inner,
            f"{name} changes its rules; for other transformations use the wrappers of "
            "Optax.",
        )
    composition = inner.recipe.composition
    for part in parts:
        if getattr(composition.control, part) is not None:
            raise misplaced(
                f"{name} stands around a transformation that has one already: "
                f"{inner!r}.",
                "Use it once.",
            )
    control = replace(composition.control, **parts)
    return transformation(replace(composition, control=control))
