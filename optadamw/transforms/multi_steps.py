"""Accumulation of gradients over several micro-batches."""

from typing import Any

from optadamw.base.hyperparameters import Constant, every_so_many, switch
from optadamw.base.types import DTypeLike
from optadamw.control.accumulation import Accumulation
from optadamw.store.dense import dense
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, controlled


@prints_as_call
def multi_steps(
    inner: Transformation,
    every: Any,
    *,
    use_grad_mean: bool = True,
    dtype: DTypeLike | None = None,
) -> Transformation:
    """Take one step for every so many gradients, with their weighted mean.

    With g_i the gradient of micro-batch i and w_i its weight:

        G = sum_i w_i g_i / sum_i w_i        in float32, applied when i = every

    A call that only accumulates does `acc + w g` in place and nothing else: no rule
    runs, no norm is taken (but by a guard that drops), and `update` returns negative
    zeros, which leave every parameter as it is. Schedules, bias corrections, decay
    and averages see optimizer steps, which `state.step` counts. Pass the weight of a
    micro-batch, such as its number of tokens, as `step(..., weight=w)`, in all calls
    of a window or in none; a weight of 0 leaves the micro-batch out, and one that is
    negative or not finite too (both are counted as dropped). At the end of the data
    call `tx.flush(state, params)`, so that a window that is not full is not lost.

    With a guard (`skip_nonfinite`, in any order of nesting) a bad micro-batch is left
    out of the mean, or costs its window. A window of which nothing was kept is skipped.

    Source: `optax.MultiSteps`, `every` being its `every_k_schedule`. Differs: the
    inner transformation runs only when a step is due; weights; windows can be
    flushed; the accumulator stays float32 until the rules have it; a NaN cannot
    outlive its window (`optax.MultiSteps` multiplies by 0 what it means to drop).

    Args:
      inner: a transformation of this library.
      every: micro-batches in a step: a whole number >= 1, an array, or a schedule of
        the finished optimizer steps (rounded, and held in [1, 2**30]). With 1 and the
        mean nothing is accumulated, weights make no difference, and the result is
        `inner`.
      use_grad_mean: False sums, `G = sum_i w_i g_i`, and does not divide.
      dtype: of the accumulator; None: float32 (float64 for float64 parameters).

    Returns:
      A transformation whose state has `accumulator`, `micro_step`, `weight` and
      counters besides what `inner` keeps. A gradient that is None must be None in the
      whole window.

    Raises:
      TypeError, ValueError: at construction, for an `inner` from elsewhere or one
        that accumulates already, or a bad `every`; when traced, for a weight that is no
        real scalar, or a known one that is negative or not finite.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.multi_steps(optadamw.scale_by_learning_rate(1.0), 2)
      >>> params = {"w": jnp.zeros(2)}
      >>> state = tx.init(params)
      >>> g = {"w": jnp.array([1.0, 2.0])}
      >>> params, state = tx.step(g, state, params, weight=1.0)
      >>> params["w"].tolist(), int(state.micro_step)
      ([0.0, 0.0], 1)
      >>> params, state = tx.step({"w": jnp.zeros(2)}, state, params, weight=3.0)
      >>> params["w"].tolist(), int(state.step)
      ([-0.25, -0.5], 1)
    """
    use_grad_mean = switch("use_grad_mean", use_grad_mean)
    count = every_so_many("every", every)
    store = dense("dtype", dtype)
    accumulation = Accumulation(count, use_grad_mean, store)
    made = controlled("multi_steps", inner, accumulation=accumulation)
    return inner if count == Constant(1.0) and use_grad_mean else made
