"""The State of a transformation as variables of Keras, and back."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.clock import Clock
from optadamw.base.errors import invalid
from optadamw.base.held import Held
from optadamw.base.types import Array
from optadamw.integrations.keras_paths import paths_of
from optadamw.rules.schedule_free import ScheduleFree
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

AddVariable = Callable[..., Any]
"""`add_variable` of a Keras optimizer, which makes a variable and tracks it."""


@dataclass
class Kept:
    """A transformation and the variables that hold its parameters and its State.

    A record of its own, and no attributes of the optimizer: Keras tracks those, and
    would take a transformation, which is a tuple, apart.
    """

    tx: Transformation
    rate: float | None
    """The learning rate of `tx` if it is a plain number."""
    structure: Any = None
    """The structure of the State, without its arrays."""
    buffers: list[Any] = field(default_factory=list)
    """The variables of the State's arrays, in the order of `jax.tree.leaves`."""
    trained: "OrderedDict[str, Any]" = field(default_factory=OrderedDict)
    """The variables of the model, by their paths."""
    paths: tuple[str, ...] = ()
    """The paths in the config from which the optimizer was made; () without one."""
    loads: bool = False
    """Whether Keras loaded this config, with the model."""
    waiting: dict[int, Any] = field(default_factory=dict)
    """The parameters while the model holds their averages, by the ids of variables."""

    def build(self, trained: Iterable[Any], add_variable: AddVariable) -> None:
        """Make a variable for each array of the State of the variables in `trained`.

        An array of the shape of its parameter is laid out over devices as the parameter
        is. The order of the variables is that of `trained` within each buffer, and does
        not depend on names: Keras saves variables by their numbers.
        """
        variables = list(trained)
        named = zip(paths_of(variables, self.paths, self.loads), variables, strict=True)
        self.trained.update(named)
        state = self.tx.init(self.values())
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(state)
        for keys, array in leaves:
            names = [_name(key) for key in keys]
            owner = next((self.trained[n] for n in names if n in self.trained), None)
            has_shape = owner is not None and tuple(owner.shape) == array.shape
            self.buffers.append(
                add_variable(
                    shape=array.shape,
                    initializer=_given(array),
                    dtype=str(array.dtype),
                    layout=getattr(owner, "_layout", None) if has_shape else None,
                    name="_".join(reversed(names)).replace("/", "_"),
                )
            )

    @property
    def is_freed(self) -> bool:
        """Whether Keras has freed the values, as it does while `fit` runs an epoch."""
        return any(getattr(v, "_value", v) is None for v in self.buffers)

    @property
    def state(self) -> State:
        """The State that the variables hold."""
        arrays = [variable.value for variable in self.buffers]
        state: State = jax.tree.unflatten(self.structure, arrays)
        return state

    @property
    def clock(self) -> Clock:
        """The clock of the coming step."""
        if self.structure is None:
            return Clock.at(jnp.zeros((), jnp.int32))
        return Clock.at(self.state.step, self.state.hyperparameters)

    def adjust(self, rate: Held, value: float) -> None:
        """Set the adjustable learning rate in the variable of the State that holds it.

        Raises:
          ValueError: there is no State yet.
        """
        if self.structure is None:
            raise ValueError(
                "An adjustable `learning_rate` is a part of the state, and the "
                "optimizer has none yet. Call model.fit, or optimizer.build(model."
                "trainable_variables)."
            )
        numbers = {rate.name: value / rate.factor}
        state = self.tx.with_hyperparameters(self.state, **numbers)
        old = jax.tree.leaves(self.state)
        changed = zip(self.buffers, old, jax.tree.leaves(state), strict=True)
        for variable, before, after in changed:
            if after is not before:
                variable.assign(after)

    def values(self) -> "OrderedDict[str, Array]":
        """The parameters by their paths; an OrderedDict keeps the order of Keras."""
        return OrderedDict((k, v.value) for k, v in self.trained.items())

    def replace(self, state: State) -> None:
        """Assign another State, whose trees are dicts by the paths of the variables.

        Raises:
          ValueError: it has other buffers, paths, shapes or dtypes than that of `tx`.
        """
        # Those of a loaded model, which may be shorter than in the file.
        present = {v.path: path for path, v in self.trained.items()}

        def is_by_path(node: Any) -> bool:
            legal = (self.trained.keys(), present.keys())
            return isinstance(node, Mapping) and node.keys() in legal

        def ordered(node: Any) -> Any:
            if not is_by_path(node):
                return node
            if node.keys() != self.trained.keys():
                node = {present[path]: value for path, value in node.items()}
            return OrderedDict((path, node[path]) for path in self.trained)

        state = jax.tree.map(ordered, state, is_leaf=is_by_path)
        new, old = _forms(state), _forms(self.state)
        for name in {**old, **new}:
            if new.get(name) != old.get(name):
                raise invalid(
                    "state",
                    f"a State of `tx` with {old.get(name, 'nothing')} at '{name}'",
                    new.get(name, "nothing"),
                    "Make it with `tx` and {v.path: v.value for v in model."
                    "trainable_variables}.",
                )
        self.write(self.values(), state)

    def write(self, params: Any, state: State) -> None:
        """Assign parameters and State to the variables."""
        for path, variable in self.trained.items():
            variable.assign(params[path])
        for variable, array in zip(self.buffers, jax.tree.leaves(state), strict=True):
            variable.assign(array)


def check_constraints(tx: Transformation, variables: Iterable[Any]) -> None:
    """Refuse constraints of variables that would have no effect.

    Raises:
      ValueError: `tx` is schedule-free, and a variable has a constraint.
    """
    rules = tx.recipe.composition.rules
    constrained = [v.path for v in variables if v.constraint is not None]
    if constrained and any(isinstance(rule, ScheduleFree) for rule in rules):
        raise ValueError(
            f"The constraint of '{constrained[0]}' would have no effect: `tx` is "
            "schedule-free, and computes each parameter from two buffers of the state "
            "that no constraint changes. Leave the constraint out, or make `tx` with "
            "optadamw.adamw."
        )


def _forms(state: State) -> dict[str, str]:
    """Return dtype and shape of each array of a State, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        "/".join(_name(key) for key in keys): f"{array.dtype}{list(array.shape)}"
        for keys, array in leaves
    }


def _given(array: Any) -> Callable[..., Any]:
    """Return an initializer of Keras that gives an array that is already made."""

    def initializer(shape: Any, dtype: Any = None) -> Any:
        del shape, dtype
        return array

    return initializer


def _name(key: Any) -> str:
    """Return one entry of a JAX key path as text."""
    return jax.tree_util.keystr((key,), simple=True)
