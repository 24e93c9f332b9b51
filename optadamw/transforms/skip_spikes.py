"""The guard against gradients and losses far above their recent mean."""

from collections.abc import Sequence

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Constant, Dynamic, hyperparameter, whole_steps
from optadamw.base.interval import POSITIVE
from optadamw.base.plain import whole_number
from optadamw.base.types import Number
from optadamw.control.guard import OnBad, guard
from optadamw.control.spikes import SIGNALS, Spikes
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, controlled


@prints_as_call
def skip_spikes(
    inner: Transformation,
    *,
    sigmas: Number = 6.0,
    window: int = 128,
    min_history: int | None = None,
    of: str | Sequence[str] = "grad_norm",
    on_bad_micro_step: OnBad | None = None,
    max_consecutive: int | None = None,
) -> Transformation:
    """Skip a step whose gradient norm or loss is far above its recent mean.

    With x the gradient norm or the loss, and mean and sigma (the standard deviation)
    over its last `window` values:

        skip if x is not finite, or x > mean + sigmas * sigma

    `skip_spikes` does everything that `skip_nonfinite` does. The norm is the global
    norm before any clip, with the loss scale undone; under `multi_steps` the norm of
    each micro-batch, or with "abort" the norm of the window's mean. The loss is passed
    as `step(..., loss=x)`, without the loss scale, and checked in every call. A value
    above the limit enters the window as the limit: one huge value does not raise the
    limit much, and a lasting change of level passes after some steps. Sigma divides by
    the number of values and is at least 1e-6 of the mean; a window of zeros sets no
    limit.

    Source: the guards of OLMo-core (`SkipStepOptimizer`), MaxText
    (`skip_step_on_spikes`) and Levanter, which differ in the window's length and in
    whether bad values enter it.

    Args:
      inner: a transformation of this library.
      sigmas: standard deviations between mean and limit, > 0, a number or a 0-d array.
        Default: 6.
      window: number of values that are remembered, a whole number >= 2. Default: 128.
      min_history: number of values before the first check, in [2, window]. None
        (default): half of the window.
      of: the signals that are checked: "grad_norm" (default), "loss", or both in a
        sequence.
      on_bad_micro_step: what a bad micro-batch does under `multi_steps`: "drop",
        "wait" or "abort", see `skip_nonfinite`. None (default): "drop".
      max_consecutive: set `stats_of(state).stalled` after this many bad gradients in a
        row. None (default): never.

    Returns:
      A transformation whose state has `history` (float32, signals x window) and
      counters in addition to the buffers of `inner`.

    Raises:
      TypeError, ValueError: at construction, `inner` is not from this library or has a
        guard already, or an argument is not legal; when traced, `of` names the loss and
        the loss was not passed.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.skip_spikes(optadamw.adamw(0.1), window=8, min_history=4)
      >>> params = jnp.ones(2)
      >>> state = tx.init(params)
      >>> for size in (1.0, 1.2, 0.9, 1.1, 1000.0):
      ...     params, state = tx.step(jnp.full(2, size), state, params)
      >>> int(state.step), int(optadamw.stats_of(state).spikes)
      (4, 1)
    """
    window = _whole("window", window, 2, None)
    least = max(window // 2, 2) if min_history is None else min_history
    spikes = Spikes(
        sigmas=_sigmas(sigmas),
        window=window,
        min_history=_whole("min_history", least, 2, window),
        of=_signals(of),
    )
    checked = guard(on_bad_micro_step, max_consecutive)
    return controlled("skip_spikes", inner, guard=checked, spikes=spikes)


def _sigmas(value: Number) -> Constant | Dynamic:
    sigmas = hyperparameter("sigmas", value, POSITIVE)
    if not isinstance(sigmas, Constant | Dynamic):
        raise mistyped("sigmas", "a number or a 0-d array", value)
    return sigmas


def _signals(of: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(of, str | tuple | list):
        raise mistyped("of", "'grad_norm', 'loss', or both in a sequence", of)
    names = (of,) if isinstance(of, str) else tuple(of)
    if not names or len(set(names)) < len(names) or not set(names) <= set(SIGNALS):
        raise invalid("of", "'grad_norm', 'loss', or both", of)
    return names


def _whole(name: str, value: object, least: int, most: int | None) -> int:
    whole_steps(name, value)
    count = whole_number(name, value, "a whole number")
    if count < least or (most is not None and count > most):
        above = "" if most is None else f" and at most {most}"
        raise invalid(name, f"at least {least}{above}", value)
    return count
