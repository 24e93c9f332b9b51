"""The guard against gradients that are not finite."""

from optadamw.control.guard import OnBad, guard
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, controlled


@prints_as_call
def skip_nonfinite(
    inner: Transformation,
    *,
    on_bad_micro_step: OnBad | None = None,
    max_consecutive: int | None = None,
) -> Transformation:
    """Leave everything as it is, bit for bit, where a gradient is not finite.

    A gradient is finite if the float32 sum of its squares is (float64 with float64
    parameters): no NaN, no infinity, and a norm of at most 1.8e19, beyond which the
    second moment would overflow. This is the norm that a global clip computes anyway,
    of the gradients as they come (before a loss scale is divided out, after they are
    accumulated where a window is judged as a whole). A `loss` that is passed to
    `step` must be finite too. A step whose learning rate or weight decay, as a schedule
    or array gives it, is negative or not finite is skipped as well.

    Parameters, moments, average and `state.step` keep their bits; `stats_of(state)`
    tells how many gradients were not finite, how many steps were skipped, and how
    many bad gradients came in a row. NaN is never let through, unless the caller says
    that there is none: a `grad_norm` that is passed to `step` is believed. (It is that
    of the gradients as they are passed, still multiplied by a loss scale.)

    Under `vmap` each member is guarded by itself; XLA then selects between the old and
    the new arrays, and needs the memory for both.

    Differs from `optax.apply_if_finite`: the check reuses the clip's norm, the
    refusal costs nothing, and the bad gradient is not applied after all when
    `max_consecutive_errors` is reached.

    Args:
      inner: a transformation of this library.
      on_bad_micro_step: what a bad micro-batch costs under `multi_steps`. "drop" (also
        None) leaves it out of the mean, at the price of reading every micro-batch's
        gradient once more; "wait" does the same and waits for another one in its place;
        "abort" gives up its window, at no price.
      max_consecutive: so many bad gradients in a row set `stats_of(state).stalled`,
        for the program to act on. None: never.

    Returns:
      A transformation whose state has counters (`events`) besides what `inner` keeps.

    Raises:
      TypeError, ValueError: at construction, for an `inner` from elsewhere or one that
        is guarded already, or a bad argument.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.skip_nonfinite(optadamw.adamw(0.1))
      >>> params = jnp.ones(2)
      >>> grads = jnp.array([1.0, jnp.nan])
      >>> params, state = tx.step(grads, tx.init(params), params)
      >>> params.tolist(), int(state.step), int(optadamw.stats_of(state).skipped)
      ([1.0, 1.0], 0, 1)
    """
    checked = guard(on_bad_micro_step, max_consecutive)
    return controlled("skip_nonfinite", inner, guard=checked)
