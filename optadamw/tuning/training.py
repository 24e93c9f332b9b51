"""A training step that a caller hands over: checked, and called with traced numbers."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from optadamw.base.errors import kind_at_leaf, mistyped
from optadamw.base.traced import NEEDS_VALUE
from optadamw.base.tree import flatten
from optadamw.base.types import Array, PyTree
from optadamw.tuning.points import STRUCTURE

TrainStep: TypeAlias = Callable[..., tuple[PyTree, PyTree, Any]]
"""`train_step(tx, params, state, *batch) -> (params, state, loss)`."""


def built(tx_of: Callable[..., Any], *args: Any, **point: Any) -> Any:
    """Return the transformation that `tx_of` makes; raise if it makes none."""
    tx = tx_of(*args, **point)
    if not isinstance(tx, optax.GradientTransformation):
        raise mistyped("tx_of", "a function that returns a transformation", tx)
    return tx


def check_traceable(
    tx_of: Callable[..., Any], *args: float, **point: float | int
) -> None:
    """Raise in words if `tx_of` needs the value of a number and not only the number."""

    def trace(args: Any, point: Any) -> int:
        built(tx_of, *args, **point)
        return 0

    try:
        jax.eval_shape(trace, args, point)
    except NEEDS_VALUE as error:
        raise TypeError(
            "`tx_of` needs the value of a hyperparameter while the program is traced, "
            f"as Python's `if`, `int` and `bool` do. {STRUCTURE}"
        ) from error
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`tx_of` refuses an array, although it takes the number: {error} "
            f"{STRUCTURE}"
        ) from error


def stepped(
    train_step: TrainStep, tx: Any, params: PyTree, state: PyTree, batch: Any
) -> tuple[PyTree, PyTree, Array]:
    """Call a training step, and check what it returns."""
    result: Any = train_step(tx, params, state, *batch)
    if not isinstance(result, tuple) or len(result) != 3:
        rule = "a function that returns (params, state, loss)"
        raise mistyped("train_step", rule, result)
    new_params, new_state, loss = result
    _refuse_another_form("params", params, new_params)
    _refuse_another_form("state", state, new_state)
    loss = jnp.asarray(loss)
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        shown = f"{loss.dtype}{list(loss.shape)}"
        raise TypeError(f"`train_step` must return the loss as a scalar; got {shown}.")
    return new_params, new_state, loss.astype(jnp.float32)


def _refuse_another_form(name: str, old: PyTree, new: PyTree) -> None:
    """Raise unless `new` has the structure, and the shapes and dtypes, of `old`."""
    before, after = flatten(old), flatten(new)
    if before.treedef != after.treedef:
        raise TypeError(
            f"`train_step` must return `{name}` with the structure that it got; got "
            f"{before.treedef}, returned {after.treedef}. It returns (params, state, "
            "loss), in this order."
        )
    for path, x, y in zip(before.paths, before.arrays, after.arrays, strict=True):
        if _form(x) != _form(y):
            raise kind_at_leaf(
                path,
                f"`train_step` must return `{name}` with the shapes and dtypes that it "
                f"got; got {_form(x)}, returned {_form(y)}.",
            )


def _form(x: Any) -> str:
    return f"{jnp.result_type(x)}{list(jnp.shape(x))}"
