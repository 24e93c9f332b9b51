"""`adamw`: the public atoms, chained."""

from collections.abc import Mapping
from typing import Any, Literal

from optadamw.base.types import DTypeLike, Number, ScalarOrSchedule
from optadamw.control.guard import OnBad
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.rules.adam import Corrected, EpsMode, Nesterov
from optadamw.rules.decay import DecayMode
from optadamw.store.formats import Stored
from optadamw.store.presets import Precision
from optadamw.transforms.build import Groups, built
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation
from optadamw.transforms.with_commit import CommitName


@prints_as_call
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Stored | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any = None,
    *,
    nu_dtype: Stored | None = None,
    nesterov: Nesterov = False,
    amsgrad: bool | Literal["raw", "corrected"] | None = None,
    bias_correction: Corrected | None = None,
    eps_mode: EpsMode | None = None,
    clip_value: ScalarOrSchedule | None = None,
    clip_norm: ScalarOrSchedule | None = None,
    clip_global_norm: ScalarOrSchedule | None = None,
    clip_eps: ScalarOrSchedule | None = None,
    ema_decay: ScalarOrSchedule | None = None,
    ema_overwrite_every: ScalarOrSchedule | None = None,
    ema_debias: bool | None = None,
    ema_warmup: bool | None = None,
    ema_dtype: Stored | None = None,
    weight_decay_mode: DecayMode | None = None,
    max_learning_rate: ScalarOrSchedule | None = None,
    maximize: bool | None = None,
    caution: bool | None = None,
    groups: Groups | None = None,
    update_dtype: DTypeLike | None = None,
    precision: Precision | None = None,
    commit: CommitName | None = None,
    seed: Number | None = None,
    accumulate_steps: Any = None,
    accumulator_dtype: DTypeLike | None = None,
    skip_nonfinite: bool | None = None,
    skip_spikes: bool | Mapping[str, Any] | None = None,
    on_bad_micro_step: OnBad | None = None,
    max_consecutive: int | None = None,
    loss_scale: Number | DynamicLossScale | None = None,
    stats: bool | Literal["norms"] | None = None,
) -> Transformation:
    r"""AdamW: Adam with decoupled weight decay.

    With g the gradient, p the parameter, t = `state.step` + 1:

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        d = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps)
        p = p - learning_rate * d - learning_rate * weight_decay * p

    in float32 (float64 for float64 parameters), whatever the parameters' dtype; the
    new parameter is rounded once. It is `optadamw.chain` of `maximize`, the clips,
    `scale_by_adam`, `amsgrad_max`, `cautious`, `add_decoupled_weight_decay`,
    `scale_by_learning_rate` and `ema_params`, in this order, without those that are
    not asked for, inside the wrappers `multi_steps`, `with_loss_scale`,
    `skip_nonfinite` or `skip_spikes`, and `with_stats` where asked for. Each of their
    docstrings gives its formulas.

    Source: Loshchilov & Hutter, arXiv 1711.05101v3, Algorithm 2, with the decay times
    the learning rate, as all libraries have it (`weight_decay_mode="schedule"` is the
    paper's own).
    Differs from `optax.adamw`, whose positions, defaults and numbers it has: bias
    corrections are accurate (Optax's, in float32, are off by 1.3e-5 at t = 1);
    moments of 16-bit parameters are float32, and a 16-bit `mu` is rounded only where
    it is kept; bad values are refused.

    Every hyperparameter is a number, a 0-d array (also traced: build `adamw(rate)`
    inside `jit` or `vmap`) or a schedule of the finished optimizer steps. Options that
    choose structure default to None, so that `optax.inject_hyperparams(adamw)` leaves
    them alone.

    Args:
      learning_rate: >= 0.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root; in units of the gradient, >= 0.
      eps_root: added under the root; in units of the squared gradient, >= 0.
      mu_dtype: how the first moment is kept: a dtype, `stochastic("bfloat16")` or
        `blockwise()`, 8 bits, which brings `skip_nonfinite`; None: float32.
      weight_decay: >= 0. The default is Optax's; PyTorch's is 1e-2, Keras's 4e-3.
      mask: which parameters are decayed: a pattern such as `"*/kernel"`, a list of
        patterns, a predicate `(path, array) -> bool`, Optax's `params -> tree`, or a
        tree of bools. None: all.
      nu_dtype: the same for the second moment, and for AMSGrad's maximum of it.
      nesterov: look ahead by one step of momentum (NAdamW): True as Optax, "current"
        as timm.
      amsgrad: divide by the maximum of the second moments: True or "raw" as PyTorch
        and Keras, "corrected" as Optax.
      bias_correction: False leaves out the divisions by `1 - beta^t` (MLX's default);
        "mu" or "nu" keeps that of one moment.
      eps_mode: "outside" (None), or "hat" as Keras and TensorFlow.
      clip_value: limit on each element of the gradients, > 0.
      clip_norm: limit on the norm of each parameter's gradient, > 0.
      clip_global_norm: limit on the norm of all gradients, > 0. Clips combine, in
        this order.
      clip_eps: added to the norm of all gradients, >= 0: 1e-6 in PyTorch and MLX.
      ema_decay: keep a running average of the parameters, in [0, 1]; read it with
        `ema_of(state)`.
      ema_overwrite_every: write the average into the parameters every so many steps,
        a number or a schedule.
      ema_debias: average from the first written parameter on, forgetting the initial.
      ema_warmup: average faster at first, by min(decay, (1 + t) / (10 + t)).
      ema_dtype: how the average is kept: "float32", "float64" or
        `stochastic("bfloat16")`; None: float32.
      weight_decay_mode: "lr" (None), "schedule", "independent" or "corrected".
      max_learning_rate: peak of the schedule, for modes "schedule" and "corrected".
      maximize: ascend.
      caution: zero the direction where its sign is not the gradient's.
      groups: parameters with numbers of their own, `{pattern: {argument: value}}`, as
        PyTorch's param groups: `{"*/bias": {"weight_decay": 0.0}}`. Arguments that
        concern one parameter by itself, from `learning_rate` to `caution`; the first
        group that matches counts. See `param_groups`.
      update_dtype: dtype of the updates of `update`; None: the parameters'.
      precision: one word for the forms in which everything is kept. "full" (None):
        moments and average in float32. "mixed", for bfloat16 parameters: that, and
        commit="master". "compact", for bfloat16 parameters: commit="stochastic",
        `blockwise()` for both moments and `stochastic("bfloat16")` for the average, 4.1
        bytes per parameter with the parameter. Arguments that are given count instead.
      commit: how parameters below float32 are written: "nearest" (None), "stochastic",
        "kahan" or "master"; see `with_commit`.
      seed: of the random bits where something is rounded at random; None: 0.
      accumulate_steps: one step for every so many gradients, with their mean weighted
        by `step(..., weight=w)`: a whole number, an array or a schedule; `multi_steps`.
      accumulator_dtype: dtype of their sum; None: float32.
      skip_nonfinite: leave everything as it is where a gradient is not finite.
      skip_spikes: and where its norm leaps; a mapping gives the settings of the
        wrapper of this name, such as {"sigmas": 4.0, "of": ("grad_norm", "loss")}.
      on_bad_micro_step: "drop" (None) it, "wait" for another, "abort" its window.
      max_consecutive: so many bad gradients in a row are reported as a stall.
      loss_scale: what the loss was multiplied by, see `scale_loss`: a number, or a
        `DynamicLossScale`, which brings `skip_nonfinite`.
      stats: True records rates and gradient norms for `stats_of(state)`, "norms" those
        of update and parameters too.

    Returns:
      A transformation; its state is one `State` with `step`, `mu`, `nu`, and what was
      asked for.

    Raises:
      ValueError, TypeError: at construction, for a value out of its range, of a wrong
        type, or options that contradict each other; when traced, for parameters or
        gradients that do not fit, with the leaf's path.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, weight_decay=0.01, clip_global_norm=1.0)
      >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
      >>> state = tx.init(params)
      >>> grads = jax.tree.map(jnp.ones_like, params)
      >>> params, state = jax.jit(tx.step)(grads, state, params)
      >>> int(state.step)
      1
    """
    return built(dict(locals()))
