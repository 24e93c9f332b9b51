"""Keras 3: `keras.optimizers.AdamW` and what goes with it."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import PyTree, ScalarOrSchedule
from optadamw.control.loss_scale import LARGEST, SMALLEST, DynamicLossScale
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.callables import AtMicroSteps, FirstCopy, InWindows
from optadamw.dialects.calls.checks import flags, label, refuse_unknown, whole
from optadamw.dialects.calls.every_call import EveryCall, at_every_call
from optadamw.dialects.calls.keras_arguments import average, clips, decay, rate
from optadamw.dialects.calls.keras_phrases import KERAS_3, NAME
from optadamw.dialects.calls.selections import decaying, leaving_out
from optadamw.transforms.average import finalize
from optadamw.transforms.ema_params import ema_params
from optadamw.transforms.skip_nonfinite import skip_nonfinite
from optadamw.transforms.transformation import Transformation
from optadamw.transforms.with_loss_scale import with_loss_scale


@call("keras", phrases=KERAS_3)
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

    Differs:
      - Schedules and the average count optimizer steps. Under accumulation Keras counts
        gradient calls, so its average moves k times per step (`bug_compatible=True`).
      - A callable learning rate is asked at every step; under `jit` Keras asks once.
      - bfloat16 parameters train, as hyperparameters stay float32. Keras rounds
        beta_2=0.999 to 1.0 for them, and nothing moves.
      - Powers of beta are exact to float32 rounding.
      - An epsilon, clip, decay or rate below 0, a clip of 0 and accumulation of 0
        gradients are refused; Keras ignores them or computes nonsense.
      - A gradient that is not finite leaves the other parameters alone; Keras's
        `global_clipnorm` turns all of them into NaN.
      - A parameter without a gradient keeps its average; Keras moves it on.
      - `finalize_variable_values` before the first step is refused; Keras writes zeros
        into the model.
      - `exclude_from_weight_decay` searches whole paths; Keras searches the last name
        of each.
      - Under accumulation a gradient that is None must be None in the whole window.

    Args:
      learning_rate: A float (an integer is refused), a schedule `step -> rate` of the
        finished optimizer steps, or a callable without arguments, which is called on
        the host at every step. Sets `learning_rate`.
      weight_decay: Weight decay, multiplied by the learning rate.
        `exclude_from_weight_decay` leaves parameters out. Sets `weight_decay`.
      beta_1: Decay rate of the first moment, in [0, 1). Sets `b1`.
      beta_2: Decay rate of the second moment, in [0, 1). Sets `b2`.
      epsilon: Added to the root of the second moment, before its bias is corrected
        ("epsilon hat"). Sets `eps`, `eps_mode="hat"`.
      amsgrad: True divides by the maximum of the second moments so far, taken before
        their bias is corrected; False (default) does not. Sets `amsgrad`.
      clipnorm: Limit on the norm of each parameter's gradient; None (default) does not
        limit. Sets `clip_norm`.
      clipvalue: Limit on the magnitude of each element of the gradients; None (default)
        does not limit. Sets `clip_value`.
      global_clipnorm: Limit on the norm of all gradients together; None (default) does
        not limit. Only one of the three clips can be set. Sets `clip_global_norm`.
      use_ema: True keeps a moving average of the parameters (default: False), for
        `finalize_variable_values(state, params)` and `optadamw.ema_of(state)`.
      ema_momentum: Decay rate of the average, in [0, 1]; without `use_ema` it has no
        effect. Sets `ema_decay`.
      ema_overwrite_frequency: Write the average into the parameters every so many
        optimizer steps; None (default) never does. Sets `ema_overwrite_every`.
      loss_scale_factor: The factor by which the loss was multiplied
        (`optadamw.scale_loss`); gradients are divided by it. None (default): 1. Sets
        `loss_scale`.
      gradient_accumulation_steps: Take one step with the mean of this many gradients,
        at least 2; None (default) takes a step with every gradient. Sets
        `accumulate_steps`.
      name: Shown when the transformation is printed; it has no other effect.
      bug_compatible: True counts as Keras counts under accumulation: schedules see
        gradient calls, and the average moves and overwrites at every gradient call.
        With an average the state is then a pair of States. Default: False.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw.dialects import keras
      >>> tx = keras.AdamW(learning_rate=0.01, global_clipnorm=1.0)
      >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
      >>> state = tx.init(params)
      >>> tx
      keras.AdamW(0.01, global_clipnorm=1.0)
    """
    refuse_unknown(AdamW, kwargs)
    flags(amsgrad=amsgrad, bug_compatible=bug_compatible, none=False)
    label("name", name)
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


@call("keras", phrases=NAME)
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
    for another one. The scale stays a normal float32 number; Keras's can become 0 or
    infinite.

    Args:
      inner_optimizer: The transformation that `AdamW` returned, without a
        `loss_scale_factor`.
      initial_scale: The first scale, > 0. Sets `DynamicLossScale.initial`.
      dynamic_growth_steps: Number of finite gradients in a row after which the scale
        doubles, a whole number >= 1. Sets `DynamicLossScale.growth_interval`.
      name: Shown when the transformation is printed; it has no other effect.
      **kwargs: Other arguments are refused: they belong to `inner_optimizer`.

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


@call("keras")
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
      optimizer: The transformation that `AdamW` returned.
      var_list: Exact paths of parameters without weight decay, such as
        `["dense/bias"]`.
      var_names: Regular expressions; parameters whose path matches one of them anywhere
        have no weight decay, such as `["bias"]`.
      bug_compatible: Search `var_names` in the last name of each path alone, as Keras
        does on JAX and PyTorch, where the name of a layer matches nothing.

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

    Before the first step there is no average, and this is an error; Keras writes zeros.

    Args:
      state: The state of the optimizer.
      params: The parameters.

    Returns:
      The averaged parameters.

    Raises:
      ValueError: No step was taken yet, or no average is kept.

    Example:
      >>> import jax.numpy as jnp
      >>> from optadamw.dialects import keras
      >>> tx = keras.AdamW(0.5, use_ema=True)
      >>> params = {"w": jnp.ones(2)}
      >>> params, state = tx.step({"w": jnp.ones(2)}, tx.init(params), params)
      >>> params = keras.finalize_variable_values(state, params)
    """
    return finalize(state, params)


CALL = PeerCall(
    module="keras",
    peer="Keras 3",
    studied="keras 3.15.1",
    formula=(
        "p -= wd lr p; p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)"
    ),
    function=AdamW,
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
    ours=("bug_compatible",),
    others=(LossScaleOptimizer, exclude_from_weight_decay, finalize_variable_values),
)
