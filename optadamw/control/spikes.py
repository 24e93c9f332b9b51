"""The spike guard: a rolling window of what gradients and losses usually are."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from optadamw.base.hyperparameters import Constant, Dynamic
from optadamw.base.types import Array

SIGNALS = ("grad_norm", "loss")


@dataclass(frozen=True)
class Spikes:
    """Limits at mean + `sigmas` standard deviations of the last `window` values."""

    sigmas: Constant | Dynamic
    window: int
    min_history: int
    of: tuple[str, ...]

    def empty(self) -> np.ndarray:
        """The history before the first value: a row for each signal."""
        return np.zeros((len(self.of), self.window), np.float32)

    def limit(self, row: Array, seen: Array) -> Array:
        """The limit of one signal; the largest float until there is enough history."""
        filled = jnp.arange(self.window) < seen
        count = jnp.clip(seen, 1, self.window).astype(jnp.float32)
        mean = jnp.sum(jnp.where(filled, row, 0)) / count
        apart = jnp.where(filled, row - mean, 0)
        sigma = jnp.sqrt(jnp.sum(apart * apart) / count)
        # Rounding of a constant signal is no spike.
        sigma = jnp.maximum(sigma, 1e-6 * jnp.abs(mean))
        sigmas = jnp.asarray(self.sigmas.value, jnp.float32)
        none = jnp.finfo(jnp.float32).max
        # Zeros alone tell no scale: a limit of 0 would be entered as 0, for ever.
        known = (seen >= self.min_history) & (sigma > 0)
        return jnp.where(known, mean + sigmas * sigma, none)

    def entered(
        self, row: Array, seen: Array, value: Array, limit: Array, when: Array
    ) -> tuple[Array, Array]:
        """The window with `value` in it, and the number of entries, where `when`.

        A value beyond its limit enters as the limit: one huge value does not widen
        the limit for the length of the window, and a lasting change of level is let
        through after some time.
        """
        here = jnp.arange(self.window) == seen % self.window
        held = jnp.minimum(value, limit).astype(row.dtype)
        row = jnp.where(when & here, held, row)
        # It stays below twice the window, full or not, and never overflows.
        following = jnp.where(seen + 1 < 2 * self.window, seen + 1, self.window)
        return row, jnp.where(when, following, seen)
