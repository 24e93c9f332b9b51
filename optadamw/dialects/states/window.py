"""The open window of a State that accumulates, for the peers that have one."""

import jax.numpy as jnp
import numpy as np

from optadamw.base.hyperparameters import Clock
from optadamw.checkpoint.arrays import on_host
from optadamw.dialects.states.leaving import Departure


def window_length(leaving: Departure) -> int:
    """Return the number of gradients in a window of `tx`.

    Raises:
      ValueError: `tx` does not accumulate, or not with one number for the run, or its
        windows are shorter than the open one.
    """
    accumulation = leaving.accumulation
    if accumulation is None:
        raise ValueError(
            "`state` accumulates, and of how many gradients a window is made is "
            "not known. Pass tx=<the transformation that made it>."
        )
    clocks = [Clock.at(jnp.int32(step)) for step in {0, leaving.step}]
    due = {int(accumulation.due(clock)) for clock in clocks}
    if len(due) > 1:
        raise ValueError(
            f"The windows of `tx` changed their length ({sorted(due)}), and "
            f"{leaving.peer.title} counts gradients of windows of one length."
        )
    every = due.pop()
    if leaving.filled >= every:
        raise ValueError(
            f"The open window of `state` has {leaving.filled} gradients, and one of "
            f"`tx` holds {every}: they differ in the option `accumulate_steps`. Pass "
            "the `tx` that made the state."
        )
    return every


def window_sums(leaving: Departure, use_grad_mean: bool = True) -> list[np.ndarray]:
    """Return the sums of an open window, or the zeros of an empty one.

    Args:
      leaving: the arguments of the `to_` function.
      use_grad_mean: whether the peer takes the mean of the gradients, or their sum.

    Raises:
      ValueError: an open window of weighted gradients, or one whose step takes the sum
        where the peer takes the mean, or the reverse.
    """
    if leaving.filled:
        _check_weights(leaving)
        _check_mean(leaving, use_grad_mean)
    found = [array for array in leaving.column("accumulator") if array is not None]
    return found if leaving.filled else [np.zeros_like(array) for array in found]


REMEDY = "Take its step first with tx.flush, or lose it with drop=('accumulator',)."


def _check_weights(leaving: Departure) -> None:
    if leaving.state.weight is None:
        return
    weight = float(on_host("weight", leaving.state.weight))
    if weight != leaving.filled:
        raise ValueError(
            f"The open window of `state` has {leaving.filled} gradients that weigh "
            f"{weight!r}; {leaving.peer.title} knows no weights. {REMEDY}"
        )


def _check_mean(leaving: Departure, use_grad_mean: bool) -> None:
    accumulation = leaving.accumulation
    if accumulation is None or accumulation.use_grad_mean == use_grad_mean:
        return
    ours, theirs = ("sum", "mean") if use_grad_mean else ("mean", "sum")
    raise ValueError(
        f"`tx` takes the {ours} of the {leaving.filled} gradients in the open window "
        f"of `state`, and {leaving.peer.title} their {theirs}. {REMEDY}"
    )
