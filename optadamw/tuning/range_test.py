"""The learning-rate range test: one short training with a rate that rises."""

import math
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.plain import python_number, whole_number
from optadamw.base.types import PyTree
from optadamw.tuning.losses import Losses
from optadamw.tuning.training import TrainStep, built, check_traceable, stepped

_MANY = "an iterable of batches, such as a list or a generator"
_REPEAT = "For one batch again and again pass itertools.repeat(batch)."

_TENTH = 10.0
"""The suggestion is the rate of the least loss divided by this number."""


@dataclass(frozen=True)
class RangeTest:
    """The result of `lr_range_test`; prints as its conclusion.

    Attributes:
      rates: the learning rates that were tried, ascending.
      losses: for each rate the loss after the step with this rate.
      smoothed: the losses as a moving average, corrected for its start.
      start: the loss before the first step.
      suggestion: a tenth of the rate at the least smoothed loss; None if the test does
        not show one.
      steepest: the rate at which the smoothed loss falls fastest; None without a
        suggestion.
      diverged: the rate at which the loss was not finite or too large, and the test
        ended; None if it never was.
      reason: why there is no suggestion, with the remedy; empty if there is one.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    start: float
    suggestion: float | None
    steepest: float | None
    diverged: float | None
    reason: str = ""

    def __str__(self) -> str:
        if not len(self.rates):
            return f"No rate was tried. No suggestion: {self.reason}"
        tried = f"{len(self.rates)} rates from {self.rates[0]:.3g} to "
        tried += f"{self.rates[-1]:.3g}."
        if self.diverged is not None:
            tried += f" The loss diverged at {self.diverged:.3g}."
        if self.suggestion is None:
            return f"{tried} No suggestion: {self.reason}"
        return (
            f"{tried} Suggestion: {self.suggestion:.3g}, a tenth of the rate of the "
            f"least loss. The loss falls fastest at {self.steepest:.3g}."
        )


def lr_range_test(
    train_step: TrainStep,
    tx_of: Callable[[Any], Any],
    params: PyTree,
    batches: Iterable[Any],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
) -> RangeTest:
    """Train for some steps with a rising learning rate, and suggest a rate.

    The rate rises from `low` to `high` by a constant factor, one step each. The loss is
    flat while the rate is too small, falls, and rises when the rate is too large. The
    test ends early if the loss is not finite, or if the smoothed loss exceeds its
    minimum by more than 3 times the larger of this minimum and of the fall to it (for
    losses above 0 that fell little: 4 times the minimum, as fastai's `lr_find`).

    The suggestion is the rate of the least smoothed loss divided by 10. There is none
    if the loss does not fall by more than its noise, or still falls at `high`.

    It tells in which power of ten a rate can start, for these parameters and batches.
    It does not tell the best rate: that depends on the length of the training, on the
    schedule, on weight decay and on the batch size, none of which 100 steps show. A
    loss that falls here may diverge later. Each step also has the steps before it
    behind it, at lower rates, and moments that are younger than 1 / (1 - b2) steps.
    Compare a few rates around the suggestion with `sweep`.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, arXiv
    1506.01186, section 3.3; the exponential rise and the tenth are those of fastai's
    `lr_find`. Differs: the loss of a step is assigned to the rate of the step before
    it, which made the parameters on which it is computed.

    Args:
      train_step: `train_step(tx, params, state, *batch) -> (params, state, loss)`, your
        step. It is compiled once; the rate is an argument of the program.
      tx_of: makes the transformation for a rate, such as `optadamw.adamw` or
        `lambda rate: optadamw.adamw(rate, weight_decay=0.1)`. Give it the rate alone:
        a schedule would be multiplied into the rise.
      params: the first parameters. They are not changed.
      batches: yields what `train_step` takes after the state; an item that is a tuple
        is spread over several arguments. At most `steps + 1` items are taken.
      low: the first rate. Default: 1e-7.
      high: the last rate. Default: 10.
      steps: the number of rates, at least 10. Default: 100.
      smoothing: the decay of the moving average of the losses, in [0, 1). Default: 0.9.

    Returns:
      A `RangeTest`, which `print` shows and `optadamw.plotting.range_test` draws.

    Raises:
      TypeError: `train_step` or `tx_of` is no function of the form above; `batches` is
        one array or a mapping.
      ValueError: `tx_of` does not use its rate (of a transformation of another library
        this is not seen), or keeps it in the state; a number is out of its range, or
        `batches` ends before 11 items.

    Example:
      >>> import itertools, jax, jax.numpy as jnp, optadamw
      >>> def train_step(tx, params, state, x):
      ...     loss, grads = jax.value_and_grad(lambda p: jnp.mean((p - x) ** 2))(params)
      ...     params, state = tx.step(grads, state, params)
      ...     return params, state, loss
      >>> found = optadamw.lr_range_test(
      ...     train_step, optadamw.adamw, jnp.zeros(8), itertools.repeat(jnp.ones(8))
      ... )
      >>> 1e-3 < found.suggestion < 1.0
      True
    """
    _check(train_step, tx_of, low, high, steps, smoothing)
    _check_batches(batches)
    check_traceable(tx_of, high)
    if built(tx_of, low) == built(tx_of, high):
        raise ValueError(
            "`tx_of` makes the same transformation for every rate, so that the test "
            "would show no effect of a rate. Pass its argument on: lambda rate: "
            "optadamw.adamw(rate, weight_decay=0.1)."
        )
    _refuse_rate_in_state(tx_of, params, low, high)
    rates = np.geomspace(low, high, int(steps))
    losses = _losses(train_step, tx_of, params, batches, rates, smoothing)
    return _concluded(rates, losses)


def _check(
    train_step: Any, tx_of: Any, low: Any, high: Any, steps: Any, smoothing: Any
) -> None:
    for name, value in (("train_step", train_step), ("tx_of", tx_of)):
        if not callable(value):
            raise mistyped(name, "a function", value)
    for name, value in (("low", low), ("high", high), ("smoothing", smoothing)):
        python_number(name, value)
    if not (0 < low < math.inf):
        raise invalid("low", "finite and > 0", low)
    if not (low < high < math.inf):
        raise invalid("high", f"finite and > `low`, which is {low!r}", high)
    if whole_number("steps", steps, "a whole number") < 10:
        raise invalid("steps", "at least 10", steps)
    if not 0 <= smoothing < 1:
        raise invalid("smoothing", "in [0, 1)", smoothing)
    built(tx_of, low)


def _check_batches(batches: Any) -> None:
    """Refuse one batch in the place of many, of which a step would get the parts."""
    if isinstance(batches, np.ndarray | jax.Array | Mapping | str):
        raise mistyped("batches", _MANY, batches, _REPEAT)
    if not isinstance(batches, Iterable):
        raise mistyped("batches", _MANY, batches, _REPEAT)
    if isinstance(batches, Sized) and len(batches) < 11:
        raise _too_few(f"it has {len(batches)}")


def _too_few(found: str) -> ValueError:
    return ValueError(f"`batches` must yield at least 11 items; {found}. {_REPEAT}")


def _refuse_rate_in_state(
    tx_of: Callable[[Any], Any], params: PyTree, low: float, high: float
) -> None:
    """Refuse a rate that `init` writes into the state, where no later rate follows."""

    def scalars(rate: float) -> list[Any]:
        leaves = jax.tree.leaves(built(tx_of, rate).init(params))
        return [x for x in leaves if x.size == 1]

    pairs = zip(scalars(low), scalars(high), strict=True)
    if not all(jnp.array_equal(x, y) for x, y in pairs):
        raise ValueError(
            "`tx_of` makes a transformation that keeps the rate in its state, such as "
            "optax.inject_hyperparams, so that every step would take the first rate. "
            "Give a function that takes the rate as a number, such as "
            "optadamw.adamw."
        )


def _losses(
    train_step: TrainStep,
    tx_of: Callable[[Any], Any],
    params: PyTree,
    batches: Iterable[Any],
    rates: np.ndarray,
    smoothing: float,
) -> Losses:
    """Return the loss before the first step and after each step that was taken."""

    def step(params: PyTree, state: PyTree, rate: Any, batch: Any) -> Any:
        return stepped(train_step, built(tx_of, rate), params, state, batch)

    # Copies, because they are donated.
    params = jax.tree.map(jnp.array, params)
    state = built(tx_of, jnp.float32(rates[0])).init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1))
    losses = Losses(smoothing)
    # The last step only measures the parameters that the last rate has made.
    due = [*rates, rates[-1]]
    for rate, batch in zip(due, batches, strict=False):
        spread = batch if isinstance(batch, tuple) else (batch,)
        params, state, loss = compiled(params, state, jnp.float32(rate), spread)
        losses.add(float(loss))
        if losses.have_diverged:
            break
    else:
        count = len(losses.values)
        if count < min(len(due), 11):
            raise _too_few(f"it ended after {count}")
    return losses


def _concluded(rates: np.ndarray, found: Losses) -> RangeTest:
    losses, ended = np.array(found.values), found.have_diverged
    finite = losses[np.isfinite(losses)]
    start, tried = float(losses[0]), rates[: len(losses) - 1]
    diverged = float(tried[-1]) if ended and len(tried) else None
    smoothed = np.array(found.smoothed[1:])
    after = losses[1:]
    if len(finite) < 6:
        reason = "the loss is not finite at the lowest rates: lower `low`, or look for "
        reason += "the fault in the loss."
        return RangeTest(tried, after, smoothed, start, None, None, diverged, reason)
    known = np.where(np.isfinite(smoothed), smoothed, np.inf)
    place = int(known.argmin())
    # Steps at the lowest rates change nothing, so their losses differ by noise alone.
    quiet = finite[: max(len(finite) // 5, 5)]
    noise = float(np.abs(np.diff(quiet)).mean())
    level = float(quiet.mean())
    reason = ""
    is_short = len(tried) < len(rates) and not ended
    is_flat = level - known[place] <= max(noise, 1e-3 * abs(level))
    if is_flat and is_short:
        reason = (
            f"`batches` ended after {len(losses)} items, at the rate {tried[-1]:.3g}, "
            "before the loss fell by more than its noise. Give "
            f"{len(rates) + 1} items, or fewer `steps`."
        )
    elif is_flat:
        reason = (
            "the loss never fell by more than its noise. Raise `high`, lower `low`, or "
            "give larger batches."
        )
    elif place == len(known) - 1 and is_short:
        reason = (
            f"`batches` ended after {len(losses)} items, at the rate {tried[-1]:.3g}, "
            f"and the loss still fell. Give {len(rates) + 1} items, or fewer `steps`."
        )
    elif place == len(known) - 1 and not ended:
        reason = (
            f"the loss still fell at the highest rate, {tried[-1]:.3g}. Raise `high`."
        )
    if reason:
        return RangeTest(tried, after, smoothed, start, None, None, diverged, reason)
    falls = np.diff(known[: place + 1], prepend=start)
    # The average of few losses falls and rises by the noise of each.
    falls[: min(round(1 / (1 - found.smoothing)), place)] = 0
    steepest = float(tried[int(falls.argmin())])
    suggestion = float(tried[place]) / _TENTH
    return RangeTest(tried, after, smoothed, start, suggestion, steepest, diverged)
