"""Transformations: rules behind Optax's interface, and their composition.

A `Transformation` is an `optax.GradientTransformationExtraArgs`, a pair of `init` and
`update`, whose members are records and not closures. It therefore prints as the call
that makes it, compares and hashes by value, pickles, and shares the compilation of
every equal one: `jax.jit(tx.step)` of two equal transformations is one program.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.types import DTypeLike, PyTree
from optadamw.rules.order import check_order, composed
from optadamw.rules.rule import Rule
from optadamw.store.state import State
from optadamw.store.store import check_enabled
from optadamw.walk.composition import Composition

_P = ParamSpec("_P")
_T = TypeVar("_T", bound=optax.GradientTransformationExtraArgs)


@dataclass(frozen=True, eq=False)
class Call:
    """The call that made a transformation, for its repr; it has no part in equality."""

    name: str
    positional: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        arguments = [_shown(value) for value in self.positional]
        arguments += [f"{name}={_shown(value)}" for name, value in self.named]
        return f"{self.name}({', '.join(arguments)})"


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
        return self.recipe.composition.init(params)


@dataclass(frozen=True)
class Update:
    """`update(grads, state, params, **extra) -> (updates, state)`."""

    recipe: Recipe
    __name__: ClassVar[str] = "update"  # shown in traces and profiles

    def __call__(
        self, updates: PyTree, state: State, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, State]:
        composition = self.recipe.composition
        return composition.advance(updates, state, params, extra, "update")


@dataclass(frozen=True)
class Step:
    """`step(grads, state, params, **extra) -> (params, state)`."""

    composition: Composition
    __name__: ClassVar[str] = "step"  # shown in traces and profiles

    def __call__(
        self, grads: PyTree, state: State, params: PyTree, **extra: Any
    ) -> tuple[PyTree, State]:
        return self.composition.advance(grads, state, params, extra, "param")


@dataclass(frozen=True)
class Flush:
    """`flush(state, params, like=None) -> (params, state)`."""

    composition: Composition
    __name__: ClassVar[str] = "flush"  # shown in traces and profiles

    def __call__(
        self, state: State, params: PyTree, like: PyTree | None = None
    ) -> tuple[PyTree, State]:
        return self.composition.flush(state, params, like)


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
    return composition.advance(grads, state, params, extra, "param")


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
    """The transformation of one public rule, to be chained or used alone."""
    return transformation(Composition(rules))


def spelled(factory: Callable[_P, _T], prefix: str = "") -> Callable[_P, _T]:
    """Make what `factory` returns print as the call that made it."""
    signature = inspect.signature(factory)
    starred = [
        p.name
        for p in signature.parameters.values()
        if p.kind is inspect.Parameter.VAR_POSITIONAL
    ]

    @functools.wraps(factory)
    def build(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        made = factory(*args, **kwargs)
        bound = signature.bind(*args, **kwargs).arguments
        positional: tuple[Any, ...] = ()
        for name in starred:
            positional = bound.pop(name, ())
        named = tuple(
            (name, value)
            for name, value in bound.items()
            if not _is_default(value, signature.parameters[name].default)
        )
        if not starred and named and named[0][0] == next(iter(signature.parameters)):
            positional, named = (named[0][1],), named[1:]
        call = Call(prefix + factory.__name__, positional, named)
        return cast(_T, _called(made, call))

    return build


def _called(made: Any, call: Call) -> Any:
    """What was made, printing as `call`."""
    if isinstance(made, Transformation):
        return transformation(made.recipe.composition, call)
    return made.called(call)  # what a door makes of two of them


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


@spelled
def chain(
    *transformations: optax.GradientTransformation,
    update_dtype: DTypeLike | None = None,
) -> Transformation:
    """Compose transformations of this library into one that walks the tree once.

    The result computes what `optax.chain` of the same parts computes, in one pass per
    parameter instead of one per part, and holds one `State`. Chains nest.

    Args:
      *transformations: atoms and chains of this library, in the order of a step.
      update_dtype: dtype of the updates that `update` returns; None: the parameter's.
        With "float32", `optax.apply_updates` lands exactly on what `step` writes for
        parameters of every dtype.

    Returns:
      A transformation.

    Raises:
      TypeError: a part from elsewhere, which has no rule to compose.
      ValueError: an order in which a part would not mean what it says, two parts
        that keep the same buffer, or a wrapper such as `multi_steps` as one of several
        parts.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(
      ...     optadamw.clip_by_global_norm(1.0),
      ...     optadamw.scale_by_adam(),
      ...     optadamw.add_decoupled_weight_decay(0.01),
      ...     optadamw.scale_by_learning_rate(1e-3),
      ... )
      >>> tx
      chain(clip_by_global_norm(1.0), scale_by_adam(), \
add_decoupled_weight_decay(0.01), scale_by_learning_rate(0.001))
    """
    rules: list[Rule] = []
    dtypes = {_update_dtype(update_dtype)}
    only = Composition(())
    for part in transformations:
        if not isinstance(part, Transformation):
            raise mistyped(
                "transformations",
                "transformations of optadamw",
                part,
                "Use optax.chain to combine them with other ones.",
            )
        only = part.recipe.composition
        if len(transformations) > 1 and not only.is_bare:
            raise misplaced(
                f"{part!r} has groups, or decides when a step is taken or how it is "
                "written, and stands inside a chain, whose other parts would not "
                "follow it.",
                "Wrap the whole chain: multi_steps(chain(...), every); give groups to "
                "adamw, or param_groups whole chains.",
            )
        rules.extend(only.rules)
        dtypes.add(only.update_dtype)
    ordered = composed(rules)
    check_order(ordered)
    asked = sorted(dtypes - {None}, key=str)
    if len(asked) > 1:
        raise ValueError(
            f"`update_dtype` is {' here and '.join(map(str, asked))} there, and the "
            "updates of a chain have one dtype. Give it once, to the outer chain."
        )
    dtype = next(iter(asked), None)
    return transformation(replace(only, rules=ordered, update_dtype=dtype))


def step(
    tx: optax.GradientTransformation,
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    **extra: Any,
) -> tuple[PyTree, PyTree]:
    """Take one step with any Optax transformation: `(params, state)`.

    Transformations of this library take their own `step`; others go through `update`
    and `optax.apply_updates`.

    Args:
      tx: any gradient transformation.
      grads: gradients, a tree like `params`.
      state: what `tx.init(params)` or the step before returned.
      params: the parameters.
      **extra: passed to the transformation.

    Returns:
      The next parameters and state.

    Raises:
      TypeError: `tx` is no gradient transformation.

    Example:
      >>> import jax.numpy as jnp, optax, optadamw
      >>> params = {"w": jnp.ones(2)}
      >>> tx = optax.sgd(0.5)
      >>> params, _ = optadamw.step(tx, {"w": jnp.ones(2)}, tx.init(params), params)
      >>> params["w"].tolist()
      [0.5, 0.5]
    """
    if isinstance(tx, Transformation):
        return tx.step(grads, state, params, **extra)
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", 0))):
        raise mistyped("tx", "an Optax gradient transformation", tx)
    update = optax.with_extra_args_support(tx).update
    updates, state = update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state


def _update_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise mistyped("update_dtype", "a floating dtype, or None", dtype)
    check_enabled("update_dtype", found)
    return found


def _is_default(value: Any, default: Any) -> bool:
    if value is default:
        return True
    plain = (bool, int, float, str)
    same_type = type(value) is type(default)
    return same_type and isinstance(value, plain) and value == default


def _shown(value: Any) -> str:
    """A value as one would type it: dtypes by their names."""
    if isinstance(value, np.dtype):
        return repr(value.name)
    is_scalar_type = isinstance(value, type) and issubclass(value, np.generic)
    if is_scalar_type or type(value).__name__ == "_ScalarMeta":
        return repr(jnp.dtype(value).name)
    return repr(value)
