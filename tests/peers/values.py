"""Values in a row that are not plain numbers, without any framework.

A row must be readable by the recorders, by the transcriptions and by the tests of
the library, which share nothing but NumPy. So a schedule is a frozen dataclass that
can be called with a step; each side turns it into its own form.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Exponential:
    """`initial * decay_rate ** (step / decay_steps)`, the first step being 0."""

    initial: float
    decay_steps: int
    decay_rate: float

    def __call__(self, step: int) -> float:
        return self.initial * self.decay_rate ** (step / self.decay_steps)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Half a cosine from `initial` to `alpha * initial` in `decay_steps`, then flat."""

    initial: float
    decay_steps: int
    alpha: float = 0.0

    def __call__(self, step: int) -> float:
        fraction = min(step, self.decay_steps) / self.decay_steps
        cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
        return self.initial * ((1.0 - self.alpha) * cosine + self.alpha)


@dataclasses.dataclass(frozen=True)
class PiecewiseTable:
    """`values[i]` from step `boundaries[i - 1]` up to, not including, the next one."""

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, step: int) -> float:
        return self.values[sum(step >= boundary for boundary in self.boundaries)]


@dataclasses.dataclass(frozen=True)
class ZeroArgument:
    """A callable without argument, as Keras and TensorFlow take for a rate."""

    value: float

    def __call__(self) -> float:
        return self.value


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A number handed over as an array of one element: shape () or (1,)."""

    value: float
    shape: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Decayed:
    """The mask of the leaves that decay: all whose path matches no pattern."""

    except_for: tuple[str, ...]


Schedule = Exponential | Cosine | PiecewiseTable


def at(value: object, step: int) -> float:
    """Return the number that `value` is at `step`, as a Python float."""
    if isinstance(value, Schedule):
        return value(step)
    if isinstance(value, ZeroArgument):
        return value()
    if isinstance(value, Tensor):
        return value.value
    return value
