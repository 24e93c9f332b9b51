"""Call the schedules of a transformation ahead of a training, on the host."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import (
    Clock,
    Dynamic,
    Held,
    Scheduled,
    whole_steps,
)
from optadamw.base.traced import NEEDS_VALUE, untraceable
from optadamw.base.types import Array
from optadamw.transforms.options import argument_name
from optadamw.transforms.transformation import Transformation

CHUNK = 65_536
"""How many steps a schedule is called for at once: 256 KiB of values."""
_COMPILED = (
    " in compiled code, where XLA multiplies by a rounded reciprocal instead of "
    "dividing. Hold it within the interval, or use a schedule of optadamw.schedules"
)


def check_schedules(tx: optax.GradientTransformation, steps: int) -> None:
    """Raise if a schedule or an array of `tx` is not legal in one of `steps` steps.

    A number is checked when `tx` is built. The value of a schedule is known only when a
    step runs: a guard such as `skip_nonfinite=True` then skips the step, and without a
    guard the parameters can become NaN. This function calls every schedule of the
    rules for the steps 0 to `steps - 1` before the training, compiled and not, and
    compares each value, in float32, with the interval of its argument. It changes
    nothing.

    XLA rounds a compiled schedule in another way: the line of Optax to 0 in 10 steps
    then ends at -4e-11, and is refused. Those of `optadamw.schedules` end exactly.

    Args:
      tx: a transformation of this library, built outside of `jax.jit`.
      steps: number of optimizer steps to check; a whole number >= 1.

    Raises:
      ValueError: a value is outside its interval; the message has the argument, the
        value and the step. Or `steps` is below 1.
      TypeError: `tx` is not from this library, or a schedule cannot be traced.

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
        read = partial(_read, value)
        if isinstance(value, Dynamic):
            _refuse_illegal(verb, name, value, read(jnp.asarray(0))[None], 0)
            continue
        # One step at a time, as a training computes it: XLA may round an array of
        # steps in another way.
        compiled = jax.jit(partial(lax.map, read))
        _check_traced(verb, name, read)
        for start in range(0, count, CHUNK):
            at = jnp.arange(start, min(start + CHUNK, count))
            _refuse_illegal(verb, name, value, jax.vmap(read)(at), start)
            _refuse_illegal(verb, name, value, compiled(at), start, _COMPILED)


Watched = Dynamic | Scheduled | Held


def _watched(tx: Transformation) -> Iterator[tuple[str, str, Watched]]:
    """Yield atom, argument and value of every array and schedule with an interval.

    A number that is `adjustable` is checked when it is set; times a schedule, it has
    its first value here.
    """
    for rules in tx.recipe.composition.variants:
        for rule in filter(None, rules):
            for field, value in rule.watched.items():
                if not isinstance(value, Held) or value.schedule is not None:
                    yield rule.verb, _argument(rule.verb, field, value), value


def _argument(verb: str, field: str, value: Watched) -> str:
    """Return the argument that the user gave: `limit`, or `clip_norm` of `adamw`."""
    timed = value.schedule if isinstance(value, Held) else value
    own = timed.name if isinstance(timed, Scheduled) else ""
    return own or argument_name(verb, field)


def _read(value: Watched, step: Array) -> Array:
    return jnp.asarray(value.at(Clock.at(step)))


def _check_traced(verb: str, name: str, read: Callable[[Array], Array]) -> None:
    """Refuse a schedule that JAX cannot trace, as a compiled step cannot have it."""
    try:
        jax.eval_shape(read, jnp.asarray(0))
    except NEEDS_VALUE:
        raise untraceable(name, f"the schedule in {verb}") from None


def _refuse_illegal(
    verb: str,
    name: str,
    value: Watched,
    found: Array,
    start: int,
    remark: str = "",
) -> None:
    assert value.legal is not None
    bad = np.flatnonzero(~np.asarray(value.legal.holds(found, np.dtype(np.float32))))
    if bad.size:
        kind = "array" if isinstance(value, Dynamic) else "schedule"
        where = f"The {kind} in {verb} returns this at step {start + bad[0]}{remark}."
        shown = float(f"{found[bad[0]]:.8g}")  # as many digits as a float32 has
        raise invalid(name, str(value.legal), shown, where)
