"""Hyperparameters that are functions, in the forms that the peers take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.dialects.calls.checks import takes


@dataclass(frozen=True)
class Asked:
    """A schedule that calls a function without arguments at every step.

    Keras and TensorFlow promise this of `learning_rate=function`. Under `jit` they ask
    once, when the step is traced, and the first answer stays for ever. A callback on
    the host keeps the promise; it takes the step so that no two calls are the same.
    """

    function: Callable[[], Any]

    def __call__(self, step: Any) -> Any:
        return jax.pure_callback(
            self._answer,
            jax.ShapeDtypeStruct((), _wide()),
            step,
            vmap_method="sequential",
        )

    def _answer(self, step: Any) -> np.ndarray:
        del step
        value = self.function()
        found = np.asarray(value)
        is_real = found.size == 1 and found.dtype.kind in "fiu"
        if not is_real or not (np.isfinite(found).all() and (found >= 0).all()):
            raise ValueError(
                f"the callable {self.function!r} must return a finite number >= 0; got "
                f"{value!r}. It is called without arguments at every step."
            )
        return found.astype(_wide()).reshape(())


def _wide() -> np.dtype:
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))


@dataclass(frozen=True)
class AtMicroSteps:
    """A schedule of gradient calls, read at optimizer steps of `every` calls each.

    A step is made by the last of its calls: step 0 by call `every - 1`, step `step` by
    call `every * (step + 1) - 1`.
    """

    schedule: Callable[[Any], Any]
    every: int

    def __call__(self, step: Any) -> Any:
        return self.schedule(self.every * (step + 1) - 1)


@dataclass(frozen=True)
class FirstCopy:
    """The decay of an average that begins as a copy of the parameters (Keras 3).

    It is 0 in the first `calls` calls, and `decay` after them.
    """

    decay: float
    calls: int = 1

    def __call__(self, step: Any) -> Any:
        return jnp.where(step < self.calls, 0.0, self.decay)


@dataclass(frozen=True)
class InWindows:
    """An overwrite period: 1 at every call of each `windows`-th window, else 0 (never).

    A window is `calls` gradient calls.
    """

    windows: int
    calls: int

    def __call__(self, step: Any) -> Any:
        return jnp.where((step // self.calls + 1) % self.windows == 0, 1, 0)


@dataclass(frozen=True)
class InverseTime:
    """`rate / (1 + decay * step)`: the `decay` of old Keras optimizers."""

    rate: Any
    decay: float

    def __call__(self, step: Any) -> Any:
        step = jnp.asarray(step)
        rate = self.rate(step) if callable(self.rate) else self.rate
        rate = jnp.asarray(rate, jnp.result_type(float))
        return rate / (1 + self.decay * step.astype(rate.dtype))


@dataclass(frozen=True)
class Times:
    """A number times a schedule."""

    factor: Any
    schedule: Callable[[Any], Any]

    def __call__(self, step: Any) -> Any:
        return self.factor * self.schedule(step)


def schedule(value: Any) -> Any:
    """Turn a callable without arguments into a schedule; return other values as is."""
    is_function = callable(value) and not isinstance(value, type)
    if is_function and not takes(value, 1) and takes(value, 0):
        return Asked(value)
    return value
