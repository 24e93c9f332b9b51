"""`adamw`: the public atoms, chained."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from optadamw.base.types import DTypeLike, Number, ScalarOrSchedule
from optadamw.control.guard import OnBad
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.rules.adam import Corrected, EpsMode, Nesterov
from optadamw.rules.decay import DecayMode
from optadamw.store.formats import Stored
from optadamw.store.presets import Precision, forms
from optadamw.transforms.build import (
    Groups,
    Values,
    chained,
    grouped,
    in_our_words,
    with_guard,
    wrapped,
)
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation
from optadamw.transforms.unused import refuse_unused
from optadamw.transforms.with_commit import CommitName
from optadamw.transforms.with_kernels import Kernel


@in_our_words
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
    groups: Groups | None = None,
    clip_global_norm: ScalarOrSchedule | None = None,
    clip_eps: ScalarOrSchedule | None = None,
    clip_norm: ScalarOrSchedule | None = None,
    clip_value: ScalarOrSchedule | None = None,
    accumulate_steps: Any = None,
    accumulator_dtype: DTypeLike | None = None,
    precision: Precision | None = None,
    commit: CommitName | None = None,
    residual_bits: int | None = None,
    nu_dtype: Stored | None = None,
    seed: Number | None = None,
    update_dtype: DTypeLike | None = None,
    loss_scale: Number | DynamicLossScale | None = None,
    skip_nonfinite: bool | None = None,
    skip_spikes: bool | Mapping[str, Any] | None = None,
    on_bad_micro_step: OnBad | None = None,
    max_consecutive: int | None = None,
    stats: bool | Literal["norms"] | None = None,
    zero1: str | Sequence[str] | None = None,
    zero1_layout: Any = None,
    offload: str | Sequence[str] | None = None,
    reproducible_norms: bool | None = None,
    ema_decay: ScalarOrSchedule | None = None,
    ema_debias: bool | None = None,
    ema_warmup: bool | None = None,
    ema_overwrite_every: ScalarOrSchedule | None = None,
    ema_dtype: Stored | None = None,
    weight_decay_mode: DecayMode | None = None,
    max_learning_rate: ScalarOrSchedule | None = None,
    cautious_weight_decay: bool | None = None,
    nesterov: Nesterov = False,
    amsgrad: bool | Literal["raw", "corrected"] | None = None,
    b3: ScalarOrSchedule | None = None,
    slow_alpha: ScalarOrSchedule | None = None,
    caution: bool | None = None,
    clip_update_rms: ScalarOrSchedule | None = None,
    clip_update_keeps_decay: bool | None = None,
    maximize: bool | None = None,
    bias_correction: Corrected | None = None,
    eps_mode: EpsMode | None = None,
    kernel: Kernel | None = None,
) -> Transformation:
    r"""AdamW: Adam with decoupled weight decay.

    With g the gradient, p the parameter, t = `state.step` + 1:

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        d = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps)
        p = p - learning_rate * d - learning_rate * weight_decay * p

    A step is computed in float32 (float64 for float64 parameters), whatever dtype the
    parameters have, and the new parameter is rounded once. `adamw` is the
    `optadamw.chain` of the atoms that its options ask for, in this order: `maximize`,
    `clip_by_value`, `clip_by_norm`, `clip_by_global_norm`, `scale_by_adam`,
    `amsgrad_max`, `add_slow_moment`, `cautious`, `add_decoupled_weight_decay`,
    `clip_update_by_rms`, `scale_by_learning_rate`, `ema_params`. Around the chain stand
    the wrappers that its options ask for: `with_commit`, `with_seed`, `multi_steps`,
    `with_loss_scale`, `skip_nonfinite` or `skip_spikes`, `with_zero1`, `with_offload`,
    `with_stats`, `with_reproducible_norms` and `with_kernels`.
    The docstring of each atom and wrapper gives its formulas.

    Source: Loshchilov & Hutter, arXiv 1711.05101v3, Algorithm 2, except that the
    learning rate multiplies the weight decay, as in PyTorch, Keras and Optax;
    `weight_decay_mode="schedule"` is the paper's own decay.
    Differs from `optax.adamw`, whose positions, defaults and formula `adamw` keeps:
    bias corrections are accurate (Optax's are off by 1.3e-5 at t = 1, in float32);
    moments of 16-bit parameters are float32, and a 16-bit `mu` is rounded only when it
    is stored; hyperparameters out of range are refused.

    Every hyperparameter is a number, a 0-d array or a schedule. An array may be traced:
    `adamw(rate)` may be built inside `jit` or `vmap`. A schedule is called with the
    number of finished optimizer steps. `adjustable(1e-3)` puts a number into the state,
    where it can be changed without a compilation. Options that choose structure default
    to None, so that `optax.inject_hyperparams(adamw)` does not make arrays of them.

    The arguments of `optax.adamw` come first. The other options follow in the order in
    which most users need them: groups, clipping, accumulation, precision, protection
    against bad gradients, the average of the parameters, and variants of the update.

    Args:
      learning_rate: size of a step, >= 0.
      b1: decay of the first moment, in [0, 1). Default: 0.9.
      b2: decay of the second moment, in [0, 1). Default: 0.999.
      eps: added to the root, in units of the gradient, >= 0. Default: 1e-8.
      eps_root: added under the root, in units of the squared gradient, >= 0. Default:
        0.
      mu_dtype: dtype of the first moment in the state. None: float32 (float64 for
        float64 parameters). Else a dtype (rounded to nearest), `stochastic("bfloat16")`
        or `blockwise()`, which stores 8 bits per number and turns `skip_nonfinite` on.
        A complex dtype, as Optax takes it, means the dtype of the two parts.
      weight_decay: decay of the parameters per unit of learning rate, >= 0. Default:
        1e-4, as in Optax; PyTorch's default is 1e-2, Keras's is 4e-3.
      mask: which parameters decay. None: all. Else a pattern such as `"*/kernel"`, a
        list of patterns, a predicate `(path, array) -> bool`, Optax's `params -> tree`,
        or a tree of bools.
      groups: other options for some parameters, as PyTorch's param groups:
        `{pattern: {option: value}}`, for example `{"*/bias": {"weight_decay": 0.0}}`.
        A parameter belongs to the first group that matches it. A group may set the
        options of the chain, except `mu_dtype`, `nu_dtype`, `clip_global_norm`,
        `clip_eps` and those of the average, which all parameters share.
        {"freeze": True} alone leaves the parameters of a group as they are, without
        buffers. None: no groups. See `param_groups`.
      clip_global_norm: largest norm of all gradients together, > 0. None: no limit.
        `clip_value` is applied first, then `clip_norm`, then `clip_global_norm`.
      clip_eps: added to the norm of all gradients before `clip_global_norm` is divided
        by the sum, >= 0. None: 0. PyTorch and MLX have 1e-6.
      clip_norm: largest norm of each parameter's gradient, > 0. None: no limit.
      clip_value: largest absolute value of each element of a gradient, > 0. None: no
        limit.
      accumulate_steps: number of gradients whose mean makes one step (a weighted mean
        with `step(..., weight=w)`): a whole number, an array or a schedule. None: each
        gradient makes a step. See `multi_steps`.
      accumulator_dtype: dtype of the sum of the accumulated gradients. None: float32.
      precision: preset for the dtypes of everything that is stored. "full" (also None):
        moments and average in float32. "mixed", for bfloat16 parameters: "full" and
        commit="master". "compact", for bfloat16 parameters: commit="stochastic",
        `blockwise()` for both moments and `stochastic("bfloat16")` for the average;
        parameter and state together take 4.1 bytes per parameter. An option that you
        give yourself overrides the preset.
      commit: how parameters below float32 are rounded when they are written: "nearest",
        "stochastic", "kahan" or "master". None: "nearest", and `init` warns of 16-bit
        parameters, because they lose small updates. See `with_commit`.
      residual_bits: with commit="master", the bits of the buffer beside each bfloat16
        parameter: 8 makes a master copy of 24 bits and takes 1 byte. None: 16, an exact
        float32 copy, 2 bytes.
      nu_dtype: dtype of the second moment in the state, and of AMSGrad's maximum of it:
        None or a value as for `mu_dtype`. A dtype in which the moment would freeze,
        such as "bfloat16", is refused.
      seed: seed of the random bits of stochastic rounding, in [0, 2**32). None: 0.
      update_dtype: dtype of the updates that `update` returns. None: the parameters'
        dtype.
      loss_scale: factor by which you multiplied the loss (see `scale_loss`); gradients
        are divided by it. A number, or a `DynamicLossScale`, which adapts the factor
        and turns `skip_nonfinite` on. None: 1.
      skip_nonfinite: True skips a step whose gradient has a NaN or an infinity, and
        leaves parameters and state as they are. None: off, unless `mu_dtype`,
        `nu_dtype` or `loss_scale` needs it; False raises an error if one needs it.
      skip_spikes: True also skips steps whose gradient norm is far above its recent
        mean. A mapping gives arguments of the wrapper `skip_spikes`, for example
        {"sigmas": 4.0, "of": ("grad_norm", "loss")}. None: off.
      on_bad_micro_step: what a bad micro-batch does while gradients accumulate: "drop"
        (also None) leaves it out of the mean, "wait" also waits for a replacement,
        "abort" discards the window.
      max_consecutive: set `stats_of(state).stalled` after this many bad gradients in a
        row. None: never.
      stats: True records learning rate, weight decay and gradient norms for
        `stats_of(state)`; "norms" also records the norms of update and parameters.
        None: no records.
      zero1: an axis of the mesh, such as "data", or a tuple of axes, over which the
        state is divided beyond the parameters (ZeRO-1). None: the state lies as the
        parameters. See `with_zero1`.
      zero1_layout: the shardings of the parameters, a tree, for `zero1` in a function
        that you compile with `jax.jit` on automatic axes. None: those of the arrays
        that are passed.
      offload: buffers that lie in the memory of the host between steps, such as ("mu",
        "nu", "ema"); a step moves a part of them after the other to the device and
        back. None: all lie on the device. See `with_offload`.
      reproducible_norms: True takes norms and means over many elements, for clips,
        guards, `stats` and `caution`, so that their bits are the same on every mesh, in
        two passes over the gradients. None: one pass, whose sum another mesh rounds
        otherwise. See `with_reproducible_norms`.
      ema_decay: keep a running average of the parameters with this decay, in [0, 1].
        Read the average with `ema_of(state)`. None: no average.
      ema_debias: True forgets the initial parameters: the average starts from the first
        parameters that a step writes. None: False.
      ema_warmup: True lowers the decay at first, to min(decay, (1 + t) / (10 + t)).
        None: False.
      ema_overwrite_every: copy the average into the parameters every so many steps, a
        whole number or a schedule. None: never.
      ema_dtype: dtype of the average: "float32", "float64" or
        `stochastic("bfloat16")`. None: float32.
      weight_decay_mode: what the weight decay is multiplied by. "lr" (also None): the
        learning rate. "schedule": the learning rate over its peak, as in the paper.
        "independent": nothing. "corrected": the learning rate times itself, over its
        peak. See `add_decoupled_weight_decay`.
      max_learning_rate: peak of the learning rate's schedule, > 0, for the modes
        "schedule" and "corrected". None: the learning rate, if it is a plain number;
        these modes need the peak of a schedule.
      cautious_weight_decay: True decays only elements that the step does not move away
        from zero. None: all.
      nesterov: True looks ahead by one step of momentum (NAdamW) as Optax does,
        "current" as timm does. False: off.
      amsgrad: divide by the maximum of the second moments so far: True or "raw" as
        PyTorch and Keras do, "corrected" as Optax does. None: off.
      b3: AdEMAMix: add a second mean of the gradients to the first moment, with this
        decay, in [0, 1), such as 0.9999. It is kept in the dtype that `mu_dtype` says.
        None: off. See `add_slow_moment`.
      slow_alpha: the weight of that mean in the step, >= 0. None: 5.
      caution: True zeroes the direction of elements where its sign is not the
        gradient's, and scales the others up. None: off.
      clip_update_rms: shorten the step of a parameter, and its decay, where the root
        mean square of its gradient over the root of its second moment is above this
        number, > 0; StableAdamW has 1.0. None: no limit. See `clip_update_by_rms`.
      clip_update_keeps_decay: True leaves the weight decay of a step that is shortened
        as it is, as timm does. None: shorten both.
      maximize: True ascends the gradient. None: descend.
      bias_correction: False leaves out the divisions by `1 - beta^t`, as MLX does by
        default; "mu" or "nu" corrects that moment only. None: both.
      eps_mode: "outside" (also None) adds `eps` to the root of the corrected moment;
        "hat" to the root of the uncorrected one, as Keras and TensorFlow do. Both are
        equal if `bias_correction` is False or "mu".
      kernel: "auto" runs `step` on the CPU in one pass by kernels that are compiled
        from the rules, where that is possible; "native" raises an error where it is
        not; "xla" uses none. None: "auto" on one x86-64 CPU with a C compiler, else
        "xla". See `with_kernels`.

    Returns:
      A transformation. Its state is one `State` with `step`, `mu`, `nu`, and the
      buffers of the options that were given.

    Raises:
      ValueError, TypeError: at construction, for a value out of its range or of a wrong
        type, for options that contradict each other and for one that has no effect;
        when traced, for parameters or gradients that do not fit, with the leaf's path.

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
    given = dict(locals())  # every option by its name: transforms/options.py lists them
    values: Values = given | forms(**given)
    tx = chained(values) if groups is None else grouped(values, groups)
    values = with_guard(values, tx)
    made = wrapped(tx, values)
    refuse_unused(given, values)
    return made
