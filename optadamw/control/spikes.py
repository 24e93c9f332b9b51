"""The spike guard: limits from a rolling window of gradient norms and losses."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from optadamw.base.hyperparameters import Constant, Dynamic
from optadamw.base.types import Array

SIGNALS = ("grad_norm", "loss")


@dataclass(frozen=True)
class Spikes:
    """Limits at mean + `sigmas` standard deviations of the last `window` values.

    Attributes:
      sigmas: standard deviations between mean and limit.
      window: number of values that are remembered.
      min_history: number of values before the first limit.
      of: the signals with a limit, some of `SIGNALS`.
    """

    sigmas: Constant | Dynamic
    window: int
    min_history: int
    of: tuple[str, ...]

    def empty(self) -> np.ndarray:
        """Return the history before the first value: a row of zeros for each signal."""
        return np.zeros((len(self.of), self.window), np.float32)

    def limit(self, row: Array, seen: Array) -> Array:
        """Return the limit of one signal; without enough history, the largest float."""
        filled = jnp.arange(self.window, dtype=seen.dtype) < seen
        count = jnp.clip(seen, 1, self.window).astype(jnp.float32)
        mean = jnp.sum(jnp.where(filled, row, 0)) / count
        apart = jnp.where(filled, row - mean, 0)
        # In units of the largest distance: the squares of 1e-20 would be flushed to 0,
        # and those of 1e20 would overflow.
        most = jnp.max(jnp.abs(apart))
        apart = apart / jnp.where(most > 0, most, 1)
        sigma = most * jnp.sqrt(jnp.sum(apart * apart) / count)
        # The rounding errors of a constant signal are no spikes.
        sigma = jnp.maximum(sigma, 1e-6 * jnp.abs(mean))
        sigmas = jnp.asarray(self.sigmas.value, jnp.float32)
        none = jnp.finfo(jnp.float32).max
        # A window of zeros gives no limit: with a limit of 0 every value would enter
        # the window as 0, for ever.
        known = (seen >= self.min_history) & (sigma > 0)
        return jnp.where(known, mean + sigmas * sigma, none)

    def entered(
        self, row: Array, seen: Array, value: Array, limit: Array, when: Array
    ) -> tuple[Array, Array]:
        """Return the window and the count of values seen; with `value` if `when`.

        A value beyond its limit enters the window as the limit: one huge value does not
        raise the limit much, and a lasting change of level passes after some time.
        """
        here = jnp.arange(self.window, dtype=seen.dtype) == seen % self.window
        held = jnp.minimum(value, limit).astype(row.dtype)
        row = jnp.where(when & here, held, row)
        # The count stays below twice the window, so that it never overflows.
        following = jnp.where(seen + 1 < 2 * self.window, seen + 1, self.window)
        return row, jnp.where(when, following, seen)
