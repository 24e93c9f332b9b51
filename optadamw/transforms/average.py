"""Read the averaged parameters, and put them in place of the trained ones."""

from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.errors import at_leaf, kind_at_leaf, shown
from optadamw.base.tree import dtype_of, flatten, match_leaves
from optadamw.base.types import PyTree
from optadamw.store.layout import in_memory_of, laid_out_as
from optadamw.store.state import State, Swapped, state_with


def averaging(state: PyTree) -> State:
    """Return the one `State` in `state` that has an average; raise without one."""
    remedy = "Ask for it with adamw(..., ema_decay=0.999) or ema_params(0.999)."
    return state_with(state, "ema", "average", " of the parameters", remedy)


def ema_of(state: PyTree, like: PyTree | None = None) -> PyTree:
    """Return the running average of the parameters that `ema_params` keeps.

    Args:
      state: the state of a transformation, of an `optax.chain` or of a wrapper.
      like: parameters whose dtypes the result gets, such as bfloat16, and whose layout:
        an average that `zero1` divides is gathered if `like` was put on its devices
        (under jit on explicit axes only), and one that `with_offload` keeps on the host
        is moved. The average of a frozen parameter is the parameter itself, and is
        taken from `like`. None (default): the average as it is in the state, float32
        unless another dtype was chosen, and None for frozen parameters.

    Returns:
      A tree with the structure of the parameters.

    Raises:
      ValueError: `state` has no average, or more than one; `like` has another
        structure.
      TypeError: a leaf of `like` is no array.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, ema_decay=0.99)
      >>> optadamw.ema_of(tx.init(jnp.ones(2))).tolist()
      [1.0, 1.0]
    """
    average = averaging(state).ema
    if like is None:
        return average
    leaves = flatten(average, keep_none=True)
    likes = match_leaves(like, leaves, "`like`")
    for path, p in zip(leaves.paths, likes, strict=True):
        if dtype_of(p) is None or isinstance(p, bool | int | float | complex):
            raise kind_at_leaf(
                path,
                f"`like` must have an array; got {shown(p)}.",
                "Pass the parameters, or jax.eval_shape of them.",
            )
    pairs = zip(leaves.arrays, likes, strict=True)
    made = [p if e is None else _placed_as(e, p).astype(p.dtype) for e, p in pairs]
    return leaves.treedef.unflatten(made)


def _placed_as(average: Any, like: Any) -> Any:
    """Return an average in the layout of a parameter, in its memory at least.

    An array that JAX may put on any device, as a new one, tells no layout, nor does one
    of another shape.
    """
    is_placed = isinstance(like, jax.core.Tracer) or getattr(like, "committed", False)
    is_alike = jnp.shape(like) == jnp.shape(average)
    placed = laid_out_as if is_placed and is_alike else in_memory_of
    return placed(average, like)


def swap_ema(state: State | Swapped, params: PyTree) -> tuple[PyTree, Any]:
    """Exchange the parameters and their average; a second call undoes the first.

    Nothing is rounded: the average is returned in its own dtype, and the state holds
    the parameters meanwhile. Nothing is copied, unless average and parameters lie
    otherwise on their devices: the average is then returned in the layout of the
    parameters, and the state holds the parameters in the layout of the average (under
    jit on explicit axes only; on others the layout is not known while tracing).

    The state with the parameters is a `Swapped`, which `step` refuses, so that training
    cannot continue with the wrong weights. To have the average beside the parameters,
    in their dtype, use `ema_of(state, like=params)`.
    A frozen parameter stays in its place.

    Args:
      state: the `State` of a transformation that averages, or a `Swapped`.
      params: the parameters, or the average that the first call returned.

    Returns:
      The average and a `Swapped`; from the second call the parameters and the `State`.

    Raises:
      ValueError: `state` has no average, or `params` has another structure.
      TypeError: `state` is neither a `State` nor a `Swapped`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, ema_decay=0.99)
      >>> params = {"w": jnp.ones(2)}
      >>> averaged, swapped = optadamw.swap_ema(tx.init(params), params)
      >>> params, state = optadamw.swap_ema(swapped, averaged)
    """
    if isinstance(state, Swapped):
        original = state.swapped
        held, kept = _exchanged(original.ema, params)
        return held, original._replace(ema=kept)
    if not isinstance(state, State):
        raise TypeError(
            f"`state` must be a State, or what swap_ema returned; got "
            f"{type(state).__name__}. From the state of a wrapper take the State in it."
        )
    held, kept = _exchanged(ema_of(state), params)
    return held, Swapped(state._replace(ema=kept))


def _exchanged(average: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
    """Return average and parameters, each in the layout of the other.

    A frozen parameter, which has None in the average, stays a parameter.

    Raises:
      ValueError: the structures or the shapes differ.
    """
    leaves = flatten(average, keep_none=True)
    given = match_leaves(params, leaves, "`params`")
    pairs = list(zip(given, leaves.arrays, strict=True))
    for path, (param, mean) in zip(leaves.paths, pairs, strict=True):
        if mean is not None and jnp.shape(param) != jnp.shape(mean):
            raise at_leaf(
                path,
                f"it has shape {jnp.shape(param)}, its average {jnp.shape(mean)}.",
            )
    held = [p if mean is None else laid_out_as(mean, p) for p, mean in pairs]
    kept = [None if mean is None else laid_out_as(p, mean) for p, mean in pairs]
    return leaves.treedef.unflatten(held), leaves.treedef.unflatten(kept)


def finalize(state: PyTree, params: PyTree) -> PyTree:
    """Return the average as the final parameters, at the end of training.

    It does what Keras's `finalize_variable_values` does.

    Args:
      state: the state of a transformation that averages, of an `optax.chain` or of a
        wrapper.
      params: the parameters; the result has their dtypes, rounded to nearest.

    Returns:
      A tree with the structure of `params`, which shares no memory with `state`.

    Raises:
      ValueError: no step was taken yet, so that the average is the initial parameters;
        `state` has no average; or `params` has another structure.
      TypeError: `finalize` was called under `jit`, where the number of steps is not
        known.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(0.5, ema_decay=0.0)
      >>> params = jnp.ones(2)
      >>> params, state = tx.step(jnp.ones(2), tx.init(params), params)
      >>> bool((optadamw.finalize(state, params) == params).all())
      True
    """
    average = ema_of(state, like=params)
    step = averaging(state).step
    if isinstance(step, jax.core.Tracer):
        raise TypeError(
            "`state.step` is traced, so it is not known whether a step was taken. "
            "Call finalize outside jit, after training."
        )
    if int(jax.device_get(step)) == 0:
        raise ValueError(
            "`state.step` is 0: no step was taken, and the average is the initial "
            "parameters. Train first; to read it all the same, use ema_of."
        )
    return jax.tree.map(lambda x: jnp.array(x, copy=True), average)
