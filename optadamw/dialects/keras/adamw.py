"""Keras 3: `keras.optimizers.AdamW` and what goes with it."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import PyTree, ScalarOrSchedule
from optadamw.control.loss_scale import LARGEST, SMALLEST, DynamicLossScale
from optadamw.dialects.calls.call import Door, door
from optadamw.dialects.calls.callables import AtMicroSteps, FirstCopy, InWindows
from optadamw.dialects.calls.checks import flag, label, refuse_unknown, whole
from optadamw.dialects.calls.every_call import EveryCall, at_every_call
from optadamw.dialects.calls.keras_arguments import average, clips, decay, rate
from optadamw.dialects.calls.selections import decaying, leaving_out
from optadamw.transforms.average import finalize
from optadamw.transforms.ema_params import ema_params
from optadamw.transforms.skip_nonfinite import skip_nonfinite
from optadamw.transforms.transformation import Transformation
from optadamw.transforms.with_loss_scale import with_loss_scale


@door(
    "keras",
    b1="beta_1",
    b2="beta_2",
    eps="epsilon",
    clip_norm="clipnorm",
    clip_value="clipvalue",
    clip_global_norm="global_clipnorm",
    scale="loss_scale_factor",
    loss_scale="loss_scale_factor",
)
def AdamW(
    learning_rate: ScalarOrSchedule = 0.001,
    weight_decay: ScalarOrSchedule = 0.004,
    beta_1: ScalarOrSchedule = 0.9,
    beta_2: ScalarOrSchedule = 0.999,
    epsilon: ScalarOrSchedule = 1e-7,
    amsgrad: bool = False,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    use_ema: bool = False,
    ema_momentum: float = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: float | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
    *,
    bug_compatible: bool = False,
    **kwargs: Any,
) -> Any:
    r"""`keras.optimizers.AdamW` of Keras 3.

        g = g / loss_scale_factor;  mean over gradient_accumulation_steps;  clip
        p = p - weight_decay * learning_rate * p
        m = b1 m + (1 - b1) g,      v = b2 v + (1 - b2) g^2,    [v = max(v, before)]
        p = p - learning_rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)
        average = ema_momentum * average + (1 - ema_momentum) p,   = p at t = 1

    Source: keras 3.15.1, `base_optimizer.py`, `adam.py`, `adamw.py`.
    Differs where Keras surprises: schedules and the average count optimizer steps and
    not gradient calls (`bug_compatible=True` counts as Keras does); a callable
    rate is asked at every step, also under `jit`; bfloat16 variables train; a clip of 0
    is refused and not ignored; the powers of beta are exact to float32 rounding.

    Args:
      learning_rate: a float, a schedule of the finished optimizer steps, or a callable
        without arguments, which is called on the host at every gradient.
      weight_decay: times the learning rate. Which parameters:
        `exclude_from_weight_decay`.
      beta_1: decay of the first moment, in [0, 1).
      beta_2: decay of the second moment, in [0, 1).
      epsilon: "epsilon hat", added to the root of the uncorrected second moment.
      amsgrad: divide by the maximum of the (uncorrected) second moments.
      clipnorm: limit on the norm of each parameter's gradient.
      clipvalue: limit on each element.
      global_clipnorm: limit on the norm of all gradients. Only one of the three.
      use_ema: keep an average of the parameters: `ema_of(state)`,
        `finalize_variable_values(state, params)`.
      ema_momentum: in [0, 1].
      ema_overwrite_frequency: write the average into the parameters every so many
        optimizer steps.
      loss_scale_factor: what the loss was multiplied by; see `scale_loss`.
      gradient_accumulation_steps: >= 2; one step with the mean of so many gradients.
      name: part of how the transformation prints.
      bug_compatible: count as Keras counts under accumulation: schedules see gradient
        calls, the average moves and overwrites at every one of them. With an average
        the state is then a pair of States.
      **kwargs: refused, by name.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: what Keras refuses, and what it should.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw.dialects import keras
      >>> tx = keras.AdamW(learning_rate=0.01, global_clipnorm=1.0)
      >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
      >>> state = tx.init(params)
      >>> tx
      keras.AdamW(0.01, global_clipnorm=1.0)
    """
    refuse_unknown("keras.AdamW", kwargs, DOOR.arguments)
    flag("amsgrad", amsgrad, none=False)
    label("name", name)
    if not isinstance(bug_compatible, bool):
        raise mistyped("bug_compatible", "True or False", bug_compatible)
    every = whole("gradient_accumulation_steps", gradient_accumulation_steps, 2, "is 1")
    averaged = average(use_ema, ema_momentum, ema_overwrite_frequency, first_copy=True)
    learning_rate = rate(learning_rate)
    outside = None
    if bug_compatible and every is not None:
        if callable(learning_rate):
            learning_rate = AtMicroSteps(learning_rate, every)
        if averaged:
            outside, averaged = _at_every_call(averaged, every), {}
    tx = adamw(
        learning_rate,
        beta_1,
        beta_2,
        epsilon,
        weight_decay=decay(weight_decay, "AdamW"),
        eps_mode="hat",
        amsgrad=amsgrad,
        loss_scale=loss_scale_factor,
        accumulate_steps=every,
        **clips(clipnorm, clipvalue, global_clipnorm),
        **averaged,
    )
    return tx if outside is None else at_every_call(tx, outside)


def _at_every_call(averaged: dict[str, Any], every: int) -> Transformation:
    """Keras's average under accumulation: one that sees gradient calls."""
    windows = averaged["ema_overwrite_every"]
    return ema_params(
        FirstCopy(averaged["ema_decay"].decay, calls=every),
        overwrite_every=None if windows is None else InWindows(windows, every),
    )


@door("keras", initial="initial_scale")
def LossScaleOptimizer(
    inner_optimizer: Transformation,
    initial_scale: float = 2.0**15,
    dynamic_growth_steps: int = 2000,
    name: str | None = None,
    **kwargs: Any,
) -> Transformation:
    """`keras.optimizers.LossScaleOptimizer`: a dynamic loss scale around an optimizer.

    The scale doubles after `dynamic_growth_steps` finite gradients in a row and halves
    at each that is not, which changes nothing else. Multiply the loss by it with
    `optadamw.scale_loss(state, loss)`.

    Source: keras 3.15.1, `loss_scale_optimizer.py`.
    Under accumulation a micro-batch that overflows is left out, and its window waits
    for another one.
    Differs: the scale stays a normal float32 number (Keras's can become 0 or infinite).

    Args:
      inner_optimizer: what `AdamW` returned, without a `loss_scale_factor`.
      initial_scale: > 0.
      dynamic_growth_steps: a whole number >= 1.
      name: part of how the transformation prints.
      **kwargs: refused: they belong to the inner optimizer.

    Returns:
      A transformation.

    Raises:
      TypeError, ValueError: a bad argument.

    Example:
      >>> from optadamw.dialects import keras
      >>> keras.LossScaleOptimizer(keras.AdamW(0.01), initial_scale=1024.0)
      keras.LossScaleOptimizer(keras.AdamW(0.01), initial_scale=1024.0)
    """
    dynamic = kwargs.pop("dynamic", True)
    if dynamic is not True:
        raise invalid(
            "dynamic", "True", dynamic, "A static scale is `loss_scale_factor`."
        )
    for given in kwargs:
        raise ValueError(
            f"LossScaleOptimizer does not support `{given}`. Instead, set `{given}` on "
            "the `inner_optimizer`."
        )
    label("name", name)
    growth = whole("dynamic_growth_steps", dynamic_growth_steps, 1)
    if isinstance(inner_optimizer, EveryCall):
        raise ValueError(
            "`inner_optimizer` keeps its average outside the step (bug_compatible=True "
            "under accumulation), where a skipped gradient would still move it. Leave "
            "bug_compatible out."
        )
    if not isinstance(inner_optimizer, Transformation):
        raise mistyped(
            "inner_optimizer", "a transformation of optadamw", inner_optimizer
        )
    scale = DynamicLossScale(
        initial=initial_scale,
        growth_interval=growth,  # type: ignore[arg-type]
        minimum=SMALLEST,
        maximum=LARGEST,
        counts="gradients",
    )
    tx = with_loss_scale(inner_optimizer, scale)
    if tx.recipe.composition.control.accumulation is None:
        return tx
    return skip_nonfinite(tx, on_bad_micro_step="wait")


@door("keras")
def exclude_from_weight_decay(
    optimizer: Any,
    var_list: list[str] | None = None,
    var_names: list[str] | None = None,
    *,
    bug_compatible: bool = False,
) -> Any:
    """`optimizer.exclude_from_weight_decay(...)`: the optimizer without some decay.

    Transformations are values, so this returns another one. A second call replaces the
    choice of the first, as in Keras.

    Args:
      optimizer: what `AdamW` returned.
      var_list: paths of parameters, such as `["dense/bias"]`, exactly.
      var_names: regular expressions searched in the paths, such as `["bias"]`.
      bug_compatible: search them in the last name of a path alone, as Keras does on JAX
        and PyTorch, where a layer's name therefore matches nothing.

    Returns:
      A transformation.

    Raises:
      TypeError, ValueError: no list of strings, an expression that does not compile;
        with the parameters, one that matches none of them.

    Example:
      >>> from optadamw.dialects import keras
      >>> tx = keras.exclude_from_weight_decay(keras.AdamW(), var_names=["bias"])
    """
    where = leaving_out(var_list, var_names, last=bug_compatible)
    if isinstance(optimizer, EveryCall):
        return at_every_call(decaying(optimizer.inner, where), optimizer.init.average)
    return decaying(optimizer, where)


def finalize_variable_values(state: PyTree, params: PyTree) -> PyTree:
    """`optimizer.finalize_variable_values(variables)`: the average for the parameters.

    Differs: before the first step it is refused; Keras then writes zeros.

    Args:
      state: the optimizer's state.
      params: the parameters.

    Returns:
      The averaged parameters.

    Raises:
      ValueError: no step was taken yet, or no average is kept.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw.dialects import keras
      >>> tx = keras.AdamW(0.5, use_ema=True)
      >>> params = {"w": jnp.ones(2)}
      >>> params, state = tx.step({"w": jnp.ones(2)}, tx.init(params), params)
      >>> params = keras.finalize_variable_values(state, params)
    """
    return finalize(state, params)


DOOR = Door(
    module="keras",
    peer="Keras 3",
    studied="keras 3.15.1",
    function=AdamW,
    formula=(
        "p -= wd lr p; p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)"
    ),
    arguments={
        "learning_rate": "`learning_rate`; a callable without arguments is asked on "
        "the host at every step",
        "weight_decay": "`weight_decay`, times the learning rate",
        "beta_1": "`b1`",
        "beta_2": "`b2`",
        "epsilon": '`eps` with `eps_mode="hat"`',
        "amsgrad": "`amsgrad`, of the raw second moment",
        "clipnorm": "`clip_norm`",
        "clipvalue": "`clip_value`",
        "global_clipnorm": "`clip_global_norm`",
        "use_ema": "`ema_decay` is given or not",
        "ema_momentum": "`ema_decay`, 0 at the first step",
        "ema_overwrite_frequency": "`ema_overwrite_every`",
        "loss_scale_factor": "`loss_scale`",
        "gradient_accumulation_steps": "`accumulate_steps`",
        "name": "printed",
    },
    ours={
        "bug_compatible": "schedules, average and overwrite count gradient calls",
    },
    differs=(
        "Schedules and the average count optimizer steps; Keras's count gradient calls "
        "under accumulation, so its average moves k times per step "
        "(`bug_compatible=True`).",
        "A callable learning rate is asked at every step; under `jit` Keras asks once.",
        "bfloat16 parameters train: hyperparameters stay float32. In Keras "
        "beta_2=0.999 becomes 1.0 there and nothing moves.",
        "`epsilon`, clips, decay and rate below 0, a clip of 0, accumulation by 0 are "
        "refused; Keras ignores them or computes nonsense.",
        "A gradient that is not finite leaves the other parameters alone; Keras's "
        "`global_clipnorm` turns all of them into NaN.",
        "A parameter without a gradient keeps its average; Keras moves it on.",
        "`finalize_variable_values` before the first step is refused; Keras writes "
        "zeros into the model.",
        "`exclude_from_weight_decay` searches whole paths; Keras the last name alone.",
        "Under accumulation a gradient that is None is None in the whole window.",
    ),
    state={
        "iteration": "`step` (times the accumulation steps, plus `micro_step`)",
        "learning_rate": "not read: the rate is that of `tx`",
        "*_momentum": "`mu`",
        "*_velocity": "`nu`",
        "*_velocity_hat": "`nu_max`",
        "*_average": "`ema`",
        "*_gradient_accumulator": "`accumulator`",
        "dynamic_scale": "`loss_scale`",
        "step_counter": "`growth`",
    },
    others=(LossScaleOptimizer, exclude_from_weight_decay, finalize_variable_values),
)
