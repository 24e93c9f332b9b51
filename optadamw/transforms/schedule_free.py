"""Schedule-free steps as a transformation, and schedule-free AdamW."""

import math
from typing import Any

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import FRACTION, NON_NEGATIVE
from optadamw.base.plain import python_number
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.ema import LEGAL
from optadamw.rules.schedule_free import ScheduleFree
from optadamw.schedules.arguments import step_count
from optadamw.store.formats import Stored
from optadamw.store.moments import average
from optadamw.transforms.add_decoupled_weight_decay import add_decoupled_weight_decay
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.chain import chain
from optadamw.transforms.scale_by_learning_rate import scale_by_learning_rate
from optadamw.transforms.scale_by_second_moment import scale_by_second_moment
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def schedule_free(
    b1: ScalarOrSchedule = 0.9,
    *,
    warmup_steps: int = 0,
    weight_power: float = 2.0,
    step_power: float = 0.0,
    z_dtype: Stored | None = None,
    ema_dtype: Stored | None = None,
) -> Transformation:
    """Train without a schedule: average the steps, and evaluate the average.

    With u the update so far (direction and decay times minus the learning rate), t =
    `state.step` + 1 and f = min(t / warmup_steps, 1):

        z = z + f u                         the steps
        x = (1 - c) x + c z                 their average, in `state.ema`
        p = (1 - b1) z + b1 x               the parameters, where gradients are taken
        c = w_t / (w_1 + ... + w_t),  w_t = t^step_power f_t^weight_power

    Evaluate `ema_of(state)`, or exchange average and parameters with `swap_ema`, whose
    state `step` refuses; there is no training mode that could be forgotten. `finalize`
    gives the parameters at the end. The learning rate is a constant, which may be
    adjustable; `warmup_steps` multiplies it by f (`stats_of` has the rate without f).
    Any number of steps may follow. The average is float32: after some million steps it
    is off by more than a hundredth of its distance from z, as its steps fall below half
    a unit in the last place (after 2 million, 1.5e-2 where z was 4.4e-2 away).

    A step computes the parameters from z and x alone: a change of the parameters
    between two steps (pruning, a clip of the weights, a constraint) has no effect.

    Begin with a fresh state. The number of the step comes along when a state of another
    transformation is restored by name, and the average would then take the parameters
    for the mean of so many steps.

    Source: Defazio et al., arXiv 2405.15682, Algorithm 1; `schedulefree` 1.4, whose
    `r` is `step_power` and whose `weight_lr_power` is `weight_power`.
    Differs from `schedulefree` and `optax.contrib.schedule_free`: x is kept and not
    computed from p and z, so that it is exact also for parameters of 16 bits; c follows
    from the number of the step, and not from a sum in the state, which stands still
    after 512 steps of bfloat16 parameters in Optax. It takes one more buffer. A change
    of the parameters between two steps has no effect here, and a part of it enters x
    there. The warm-up begins with f = 1 / warmup_steps, as in `schedulefree`; Optax's
    begins with a learning rate of 0.

    Args:
      b1: the share of the average in the parameters, in [0, 1]. Default: 0.9.
      warmup_steps: number of steps in which the learning rate grows linearly, a whole
        number from 0 to 100,000. Default: 0.
      weight_power: the power with which the warm-up weights the average, >= 0. Default:
        2.
      step_power: the power with which the number of a step weights it in the average,
        in [0, 100]; a positive one lets late steps count more. Default: 0.
      z_dtype: format of z in the state: "float32", "float64" or
        `stochastic("bfloat16")`. None (default): float32 (float64 for float64
        parameters).
      ema_dtype: format of the average in the state, as `z_dtype`.

    Returns:
      A transformation whose state has `ema` and `custom["z"]`, two buffers for each
      parameter.

    Raises:
      ValueError, TypeError: at construction, an argument is out of its range or of a
        wrong type; in a chain, no `scale_by_learning_rate` stands right before the
        atom, its rate is a schedule, or a first moment is kept before it.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.chain(
      ...     optadamw.scale_by_learning_rate(1.0), optadamw.schedule_free(b1=0.5)
      ... )
      >>> params, state = jnp.array([4.0]), tx.init(jnp.array([4.0]))
      >>> for _ in range(2):
      ...     params, state = tx.step(jnp.array([1.0]), state, params)
      >>> state.custom["z"].tolist(), optadamw.ema_of(state).tolist(), params.tolist()
      ([2.0], [2.5], [2.25])
    """
    return atom(
        ScheduleFree(
            b1=hyperparameter("b1", b1, FRACTION),
            warmup_steps=_steps(warmup_steps),
            weight_power=_power("weight_power", weight_power, math.inf),
            step_power=_power("step_power", step_power, 100.0),
            z=average("z_dtype", z_dtype, LEGAL),
            ema=average("ema_dtype", ema_dtype, LEGAL),
        )
    )


def schedule_free_adamw(
    learning_rate: ScalarOrSchedule = 0.0025,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any = None,
    *,
    warmup_steps: int | None = None,
    weight_power: float | None = None,
    step_power: float | None = None,
    nu_dtype: Stored | None = None,
    z_dtype: Stored | None = None,
    ema_dtype: Stored | None = None,
) -> Transformation:
    """Schedule-free AdamW: the chain of its four atoms.

    It is `chain(scale_by_second_moment(...), add_decoupled_weight_decay(...),
    scale_by_learning_rate(...), schedule_free(...))`; their docstrings have formulas,
    ranges and errors. Clips stand before these atoms in a chain of your own; wrappers
    such as `skip_nonfinite`, `multi_steps` and `with_commit` go around the result. A
    change of the parameters between two steps has no effect (`schedule_free`).

    Source: Defazio et al., arXiv 2405.15682; `AdamWScheduleFree` of schedulefree 1.4,
    with its defaults.

    Args:
      learning_rate: size of a step, >= 0: a number, an array or an adjustable number. A
        schedule is refused. Default: 0.0025.
      b1: the share of the average in the parameters, in [0, 1]. Default: 0.9.
      b2: decay of the second moment, in [0, 1). Default: 0.999.
      eps: added to the root, in units of the gradient, >= 0. Default: 1e-8.
      weight_decay: decay of the parameters per unit of learning rate, >= 0, taken at
        the parameters. Default: 0.
      mask: the parameters that decay. None (default): all. See
        `add_decoupled_weight_decay`.
      warmup_steps: number of steps in which the learning rate grows linearly, a whole
        number from 0 to 100,000. None (default): 0.
      weight_power: the power with which the warm-up weights the average, >= 0. None
        (default): 2.
      step_power: the power with which the number of a step weights it in the average,
        in [0, 100]; a positive one lets late steps count more. None (default): 0.
      nu_dtype: format of the second moment. None (default): float32.
      z_dtype: format of z. None (default): float32.
      ema_dtype: format of the average. None (default): float32.

    Returns:
      A transformation whose state has `nu`, `ema` and `custom["z"]`.

    Raises:
      ValueError, TypeError: at construction, a value is out of its range or of a wrong
        type, or the learning rate is a schedule.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> tx = optadamw.schedule_free_adamw(0.01, warmup_steps=10)
      >>> params = {"w": jnp.ones(2)}
      >>> state = tx.init(params)
      >>> params, state = jax.jit(tx.step)({"w": jnp.ones(2)}, state, params)
      >>> evaluated = optadamw.ema_of(state, like=params)
    """
    return chain(
        scale_by_second_moment(b2, eps, nu_dtype=nu_dtype),
        add_decoupled_weight_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
        schedule_free(
            b1,
            # None, so that optax.inject_hyperparams makes no arrays of the defaults.
            warmup_steps=0 if warmup_steps is None else warmup_steps,
            weight_power=2.0 if weight_power is None else weight_power,
            step_power=0.0 if step_power is None else step_power,
            z_dtype=z_dtype,
            ema_dtype=ema_dtype,
        ),
    )


def _steps(value: Any) -> int:
    count = step_count("warmup_steps", value, least=0)
    # The weights of the warm-up are a table in the compiled step.
    if count > 100_000:
        raise invalid("warmup_steps", "at most 100000", value)
    return count


def _power(name: str, value: Any, largest: float) -> float:
    value = python_number(name, value, "a number >= 0")
    if not 0 <= value <= largest or math.isinf(value):
        bounds = "finite and >= 0" if math.isinf(largest) else f"in [0, {largest:g}]"
        raise invalid(name, bounds, value)
    hyperparameter(name, float(value), NON_NEGATIVE)  # also within float32
    return float(value)
