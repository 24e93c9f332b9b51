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
    """Skip a step whose gradient is not finite: no parameter and no buffer changes.

    A gradient is finite if its global norm is: no NaN, no infinity, and a norm of at
    most 1.8e19 (float32), beyond which the second moment would overflow. A global clip
    computes this norm anyway. The norm is that of the gradients after a loss scale is
    undone; with "abort" below, that of the accumulated gradients. Under `multi_steps` a
    step is also skipped if the norm of the sum of weights times gradients is above
    1.8e19. A `loss` that is passed to `step` must be finite too. A step is also skipped
    if a schedule or an array gives a hyperparameter of the rules a value outside its
    interval, such as a `b2` of 1; `stats_of(state).illegal` counts these steps.

    A skipped step leaves every bit of parameters, moments, average and `state.step`
    unchanged. `stats_of(state)` counts the gradients that were not finite, the skipped
    steps, and the bad gradients in a row. A `grad_norm` that is passed to `step` is not
    checked against the gradients: it must be their norm as they are passed, still
    multiplied by a loss scale.

    Under `vmap` each member is guarded by itself; XLA then selects between the old and
    the new arrays, and needs the memory for both.

    Differs from `optax.apply_if_finite`: the check reuses the clip's norm, skipping
    costs no time and no memory, and a bad gradient is never applied
    (`apply_if_finite` applies it after `max_consecutive_errors`).

    Args:
      inner: a transformation of this library.
      on_bad_micro_step: what a bad micro-batch does under `multi_steps`. "drop" (None,
        the default) leaves it out of the mean; this reads the gradient of every
        micro-batch once more. "wait" also waits for a replacement. "abort" discards the
        whole window, without an extra pass over the gradients.
      max_consecutive: set `stats_of(state).stalled` after this many bad gradients in a
        row, so that the program can act; a whole number >= 1. None (default): never.

    Returns:
      A transformation whose state has counters, `events`, in addition to the buffers of
      `inner`.

    Raises:
      TypeError, ValueError: at construction, `inner` is not from this library or has a
        guard already, or an argument is not legal.

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
