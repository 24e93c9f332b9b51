"""Accumulation of gradients over several micro-batches."""

from typing import Any

import jax.numpy as jnp

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import Constant, Dynamic, every_so_many, switch
from optadamw.base.types import DTypeLike
from optadamw.control.accumulation import Accumulation
from optadamw.store.dense import Dense, dense
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
    """Accumulate `every` gradients, and take one step with their weighted mean.

    With g_i the gradient of micro-batch i and w_i its weight:

        G = sum_i w_i g_i / sum_i w_i        in float32, applied when i = every

    A call that only accumulates computes `acc + w g` in place and nothing else: no rule
    runs, no norm is computed (except for a guard that drops micro-batches), and
    `update` returns negative zeros, which change no parameter. Schedules, bias
    corrections, decay and averages see optimizer steps, which `state.step` counts.

    Pass the weight of a micro-batch, such as its number of tokens, as
    `step(..., weight=w)`, in all calls of a window or in none. A micro-batch whose
    weight is 0, negative or not finite is left out and counted as dropped. After the
    last micro-batch call `tx.flush(state, params)`, which takes the step of a window
    that is not full.

    With a guard (`skip_nonfinite`, inside or outside) a bad micro-batch is left out of
    the mean, or its whole window is discarded. A window that lost all its micro-batches
    is skipped.

    Source: `optax.MultiSteps`; `every` is its `every_k_schedule`.
    Differs: the inner transformation runs only when a step is due; micro-batches have
    weights; windows can be flushed; the rules get the accumulator in float32; a NaN
    cannot outlive its window (`optax.MultiSteps` multiplies a gradient that it drops by
    0, and 0 times NaN is NaN).

    Args:
      inner: a transformation of this library.
      every: micro-batches in a step: a whole number >= 1, an array, or a schedule of
        the finished optimizer steps, whose values are rounded and clipped to
        [1, 2**30]. With 1 and `use_grad_mean=True` nothing is accumulated, weights have
        no effect, and the result is `inner`.
      use_grad_mean: True (default) averages; False sums, `G = sum_i w_i g_i`.
      dtype: dtype of the accumulator. None (default): float32 (float64 for float64
        parameters). A sum in 16 bits is rounded to nearest and stands still if it is
        much larger than a gradient, so `every` may be at most 256 with "bfloat16" and
        2048 with "float16"; a schedule or a traced array is not checked.

    Returns:
      A transformation whose state has `accumulator`, `micro_step`, `weight` and
      counters in addition to the buffers of `inner`. A gradient that is None must be
      None in all calls of a window.

    Raises:
      TypeError, ValueError: at construction, `inner` is not from this library or
        accumulates already, or `every` is not legal (with this `dtype`); when traced, a
        weight is no real scalar, or is known and negative or not finite.

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
    _check_length(count, store)
    accumulation = Accumulation(count, use_grad_mean, store)
    made = controlled("multi_steps", inner, accumulation=accumulation)
    return inner if count == Constant(1.0) and use_grad_mean else made


def _check_length(count: Any, store: Dense) -> None:
    """Refuse a window in which a sum in 16 bits would stand still.

    Of 256 equal gradients a mean in bfloat16 is off by up to 0.22 of itself; of 512 by
    0.5, because 256 + 1 is 256 there.
    """
    if store.dtype is None or not store.is_lossy:
        return
    if not isinstance(count, Constant | Dynamic):
        return
    if isinstance(count, Dynamic) and count.is_traced:
        return
    most = 2 * 2 ** jnp.finfo(store.dtype).nmant
    if count.value > most:
        raise invalid(
            "every",
            f"at most {most} with an accumulator in {store.dtype.name}, in which a "
            "longer sum stands still",
            int(count.value),
            "Leave `dtype` out, so that it is float32.",
        )
