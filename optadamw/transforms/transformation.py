"""Transformations: rules behind Optax's interface, and their composition.

A `Transformation` is an `optax.GradientTransformationExtraArgs`, a pair of `init` and
`update`, whose members are records and not closures. It therefore prints as the call
that makes it, compares and hashes by value, pickles, and shares the compilation of
every equal one: `jax.jit(tx.step)` of two equal transformations is one program.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import optax

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.types import PyTree
from optadamw.rules.check import check_rule
from optadamw.rules.rule import Rule
from optadamw.store.state import State
from optadamw.transforms.call import Call
from optadamw.walk.composition import Composition
from optadamw.walk.init import init
from optadamw.walk.step import advance, flush


@dataclass(frozen=True)
class Recipe:
    """Everything that a transformation is."""

    composition: Composition
    call: Call | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Init:
    """`init(params) -> state`."""

    recipe: Recipe
    __name__: ClassVar[str] = "init"  # shown in traces and profiles

    def __call__(self, params: PyTree) -> State:
        return init(self.recipe.composition, params)


@dataclass(frozen=True)
class Update:
    """`update(grads, state, params, **extra) -> (updates, state)`."""

    recipe: Recipe
    __name__: ClassVar[str] = "update"  # shown in traces and profiles

    def __call__(
        self, updates: PyTree, state: State, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, State]:
        composition = self.recipe.composition
        return advance(composition, updates, state, params, extra, "update")


@dataclass(frozen=True)
class Step:
    """`step(grads, state, params, **extra) -> (params, state)`."""

    composition: Composition
    __name__: ClassVar[str] = "step"  # shown in traces and profiles

    def __call__(
        self, grads: PyTree, state: State, params: PyTree, **extra: Any
    ) -> tuple[PyTree, State]:
        return advance(self.composition, grads, state, params, extra, "param")


@dataclass(frozen=True)
class Flush:
    """`flush(state, params, like=None) -> (params, state)`."""

    composition: Composition
    __name__: ClassVar[str] = "flush"  # shown in traces and profiles

    def __call__(
        self, state: State, params: PyTree, like: PyTree | None = None
    ) -> tuple[PyTree, State]:
        return flush(self.composition, state, params, like)


@dataclass(frozen=True)
class JitStep:
    """`step`, compiled, in the memory of the state and parameters it is given."""

    composition: Composition

    def __call__(
        self, grads: PyTree, state: State, params: PyTree, **extra: Any
    ) -> tuple[PyTree, State]:
        return _in_place(self.composition, params, state, grads, extra)

    def lower(
        self, grads: PyTree, state: State, params: PyTree, **extra: Any
    ) -> jax.stages.Lowered:
        """What `jax.jit(...).lower` gives, to look at the compiled program."""
        return _in_place.lower(self.composition, params, state, grads, extra)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _in_place(
    composition: Composition,
    params: PyTree,
    state: State,
    grads: PyTree,
    extra: dict[str, Any],
) -> tuple[PyTree, State]:
    # The arguments stand in the order of the results: jit pairs donated buffers with
    # results of the same shape and dtype in order of position. In the order of `step`
    # the parameters would be written over the first moment, that over the second, and
    # XLA would copy them all first: temporaries of twice the parameters' size.
    return advance(composition, grads, state, params, extra, "param")


class Transformation(optax.GradientTransformationExtraArgs):
    """An Optax transformation that carries its rules and can step in place."""

    __slots__ = ()

    @property
    def recipe(self) -> Recipe:
        return self.init.recipe

    @property
    def step(self) -> Step:
        """Update and apply in one: `step(grads, state, params) -> (params, state)`.

        Inside a jitted function that takes and returns `(params, state)` and donates
        them, both are replaced in place, without a temporary.
        """
        composition = self.recipe.composition
        return Step(composition) if composition.is_traced else _step_of(composition)

    @property
    def jit_step(self) -> JitStep:
        """`step`, compiled once for all equal transformations, in place.

        `jit_step(grads, state, params) -> (params, state)`. The state and the
        parameters that are passed are donated: they cannot be used again.
        """
        return JitStep(self.recipe.composition)

    @property
    def flush(self) -> Flush:
        """Take the step of a window that is not full: `flush(state, params)`.

        It returns `(params, state)`. The gradients accumulated so far are averaged
        over their own weight and applied as a full window is. A window of which
        nothing was kept ends too, and is counted as skipped; before the first gradient
        of a window, or where nothing accumulates, parameters and state return as they
        are. A parameter without gradients in the window keeps its bits: `like`, a tree
        of gradients (or of parameters) with None in their places, says which those are;
        without it the accumulators tell, and selecting takes memory for the old and the
        new arrays. Call it after the last micro-batch, so that a partial window is not
        lost.
        """
        return Flush(self.recipe.composition)

    def called(self, call: Call) -> "Transformation":
        """The same transformation, printing as `call`."""
        return transformation(self.recipe.composition, call)

    def __repr__(self) -> str:
        recipe = self.recipe
        return repr(recipe.call or f"Transformation of {recipe.composition.rules!r}")


def transformation(
    composition: Composition, call: Call | None = None
) -> Transformation:
    """The transformation of composed rules; `call` is what it prints as."""
    if composition.is_traced:
        recipe = Recipe(composition, call)
        return Transformation(Init(recipe), Update(recipe))
    return _transformation_of(composition, call, repr(call))


# jit forgets what it compiled for a function when the function dies. Equal ones are
# therefore one object, kept here: a script that makes its transformation anew for
# every run, or a cell that is executed again, finds the compiled step.
@functools.lru_cache(maxsize=256)
def _step_of(composition: Composition) -> Step:
    return Step(composition)


@functools.lru_cache(maxsize=256)
def _transformation_of(
    composition: Composition, call: Call | None, spelling: str
) -> Transformation:
    del spelling  # part of the key: equal transformations may print differently
    recipe = Recipe(composition, call)
    return Transformation(Init(recipe), Update(recipe))


def atom(*rules: Rule) -> Transformation:
    """The transformation of one rule (Adam's has two), to be chained or used alone.

    Raises:
      TypeError, ValueError: a rule without a stage, with a slot that a state cannot
        hold, or otherwise unfinished; the message names the attribute.
    """
    for rule in rules:
        check_rule(rule)
    return transformation(Composition(rules))


def controlled(name: str, inner: Any, **parts: Any) -> Transformation:
    """`inner` with parts of its control set, which a wrapper called `name` asks for.

    Raises:
      TypeError: `inner` is from elsewhere.
      ValueError: it has one of the parts already.
    """
    if not isinstance(inner, Transformation):
        raise mistyped(
            "inner",
            "a transformation of optadamw",
            inner,
            f"{name} works on its rules; for others Optax has wrappers of its own.",
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
