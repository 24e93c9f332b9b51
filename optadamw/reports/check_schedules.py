"""Call the schedules of a transformation ahead of a training, on the host."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import (
    Clock,
    Dynamic,
    Held,
    Scheduled,
    whole_steps,
)
from optadamw.base.types import Array
from optadamw.transforms.options import argument_name
from optadamw.transforms.transformation import Transformation

CHUNK = 65_536
"""How many steps a schedule is called for at once: 256 KiB of values."""


def check_schedules(tx: optax.GradientTransformation, steps: int) -> None:
    """Raise if a schedule or an array of `tx` is not legal in one of `steps` steps.

    A number is checked when `tx` is built. The value of a schedule is known only when a
    step runs: a guard such as `skip_nonfinite=True` then skips the step, and without a
    guard the parameters can become NaN. This function calls every schedule of the
    rules for the steps 0 to `steps - 1` before the training, and compares each value,
    in float32, with the interval of its argument. It changes nothing.

    Args:
      tx: a transformation of this library, built outside of `jax.jit`.
      steps: number of optimizer steps to check; a whole number >= 1.

    Raises:
      ValueError: a value is outside its interval; the message has the argument, the
        value and the step. Or `steps` is below 1.
      TypeError: `tx` is not from this library.

    Example:
      >>> import optadamw, optax
      >>> tx = optadamw.adamw(optax.linear_schedule(1e-3, -1e-3, 100))
      >>> optadamw.check_schedules(tx, 50)
      >>> optadamw.check_schedules(tx, 100)
      Traceback (most recent call last):
      ...
      ValueError: `learning_rate` must be finite and >= 0; got -2.0000036e-05. The \
schedule in scale_by_learning_rate returns this at step 51.
    """
    if not isinstance(tx, Transformation):
        raise mistyped("tx", "a transformation of optadamw", tx)
    count = int(whole_steps("steps", steps).value)
    for verb, name, value in _watched(tx):
        dynamic = isinstance(value, Dynamic)
        for start in range(0, 1 if dynamic else count, CHUNK):
            at = jnp.arange(start, min(start + CHUNK, 1 if dynamic else count))
            found = jax.vmap(lambda step, value=value: value.at(Clock.at(step)))(at)
            _refuse_illegal(verb, name, value, found, start)


def _watched(tx: Transformation) -> Iterator[tuple[str, str, Dynamic | Scheduled]]:
    """Yield atom, argument and value of every array and schedule with an interval."""
    for rules in tx.recipe.composition.variants:
        for rule in filter(None, rules):
            for field, value in rule.watched.items():
                if not isinstance(value, Held):  # checked when it is set
                    yield rule.verb, argument_name(rule.verb, field), value


def _refuse_illegal(
    verb: str, name: str, value: Dynamic | Scheduled, found: Array, start: int
) -> None:
    assert value.legal is not None
    bad = np.flatnonzero(~np.asarray(value.legal.holds(found, np.dtype(np.float32))))
    if bad.size:
        kind = "schedule" if isinstance(value, Scheduled) else "array"
        where = f"The {kind} in {verb} returns this at step {start + bad[0]}."
        shown = float(f"{found[bad[0]]:.8g}")  # as many digits as a float32 has
        raise invalid(name, str(value.legal), shown, where)
