"""The records of statistics and counters that `stats_of` returns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.types import Array


class GroupStats(NamedTuple):
    """Norms over one group of parameters in the last step that was taken.

    Attributes:
      grad_norm: norm of the group's gradients before any clip.
      update_norm: norm of the group's updates; None without `norms=True`.
      param_norm: norm of the group's parameters after the step; None without
        `norms=True`.
    """

    grad_norm: Array
    update_norm: Array | None
    param_norm: Array | None

    @property
    def update_to_weight(self) -> Array | None:
        """`update_norm / param_norm`; None without `norms=True`.

        The ratio is 0 if the update is 0, as it is before the first step.
        """
        return _ratio(self.update_norm, self.param_norm)


class Stats(NamedTuple):
    """The statistics and counters that `stats_of` returns.

    Rates and norms are those of the last step that was taken, 0 before the first step;
    `with_stats` records them. Counters count from the first call; `with_stats`,
    `multi_steps` and the guards record them. A field that is not recorded is None.

    Attributes:
      step: number of optimizer steps taken.
      learning_rate: learning rate of the last step; with `groups`, of the parameters
        that are in no group.
      weight_decay: weight decay as configured, of the first decay in the chain. It is
        not multiplied by the learning rate.
      grad_norm: norm of all gradients, accumulated, with the loss scale undone, before
        any clip.
      clipped_grad_norm: norm of the gradients after all clips, from which the moments
        are computed.
      update_norm: norm of the updates before they are rounded, and before an average
        overwrites the parameters (`ema_overwrite_every`); None without `norms=True`.
      param_norm: norm of the parameters after the step, and after such an overwrite;
        None without `norms=True`.
        Parameters without a gradient are left out. Only `grad_norm` is rescued from
        overflow: this norm and `update_norm` are infinite from 1.8e19 on.
      clip_fraction: fraction of the steps whose gradient was clipped.
      skipped: number of optimizer steps that were due and skipped.
      nonfinite: number of gradients or losses that were not finite.
      spikes: number of gradients or losses beyond the limit of the spike guard.
      illegal: number of optimizer steps that a guard skipped because an array or a
        schedule gave a hyperparameter outside its legal interval.
      dropped: number of micro-batches left out of their window.
      consecutive: number of bad gradients since the last good one.
      stalled: whether `consecutive` is at least `max_consecutive`.
      loss_scale: factor for the next loss; None without a loss scale.
      fill: number of gradients received since the last window of accumulation ended;
        None without `multi_steps`.
      groups: norms of each group by its name; empty without `with_stats(..., groups=)`.
      steps_past_schedule: number of steps taken after the schedule of the learning rate
        had ended, of groups the last that ends, 0 before. None unless `stats_of` is
        given a `tx` with such a schedule that ends: those of `optadamw.schedules` say
        where they end, and another schedule can with an attribute `horizon`.
    """

    step: Array
    learning_rate: Array | None
    weight_decay: Array | None
    grad_norm: Array | None
    clipped_grad_norm: Array | None
    update_norm: Array | None
    param_norm: Array | None
    clip_fraction: Array | None
    skipped: Array | None
    nonfinite: Array | None
    spikes: Array | None
    illegal: Array | None
    dropped: Array | None
    consecutive: Array | None
    stalled: Array | None
    loss_scale: Array | None
    fill: Array | None
    groups: dict[str, GroupStats]
    steps_past_schedule: Array | None = None

    @property
    def update_to_weight(self) -> Array | None:
        """`update_norm / param_norm`, the relative length of the last update.

        The ratio is 0 if the update is 0, as it is before the first step. None without
        `norms=True`.
        """
        return _ratio(self.update_norm, self.param_norm)

    def flat(self) -> dict[str, float]:
        """Return every recorded number by name, as floats for a logger.

        A field that is not recorded is left out, so that no value is None. The numbers
        of a group have the name "groups/<group>/<field>". `update_to_weight`, of all
        parameters and of each group, is there if `norms=True` recorded the norms.
        `stalled` is 1.0 or 0.0. The call waits for the device and fetches all numbers
        in one transfer.

        Returns:
          A dict of floats, in the order of the fields.

        Raises:
          TypeError: the statistics are traced, which have no values yet.
          ValueError: they are those of a population, with an axis for its members.

        Example:
          >>> import jax.numpy as jnp, optadamw
          >>> tx = optadamw.adamw(0.1, weight_decay=0.0, stats="norms")
          >>> params = jnp.full(4, 2.0)
          >>> params, state = tx.step(jnp.ones(4), tx.init(params), params)
          >>> numbers = optadamw.stats_of(state).flat()
          >>> numbers["step"], numbers["grad_norm"]
          (1.0, 2.0)
          >>> round(numbers["update_to_weight"], 4)
          0.0526
        """
        recorded = _recorded(self)
        for name, group in self.groups.items():
            prefix = f"groups/{name}/"
            recorded |= {prefix + key: x for key, x in _recorded(group).items()}
        for name, value in recorded.items():
            _refuse_without_a_number(name, value)
        fetched = jax.device_get(recorded)
        return {name: float(fetched[name]) for name in recorded}


def _recorded(stats: Stats | GroupStats) -> dict[str, Array]:
    """Return the recorded fields of a record, and its ratio, by name."""
    fields = {name: x for name, x in stats._asdict().items() if name != "groups"}
    fields["update_to_weight"] = stats.update_to_weight
    return {name: x for name, x in fields.items() if x is not None}


def _ratio(update: Array | None, param: Array | None) -> Array | None:
    if update is None or param is None:
        return None
    return jnp.where(update == 0, 0.0, update / jnp.where(update == 0, 1.0, param))


def _refuse_without_a_number(name: str, value: Array) -> None:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"`{name}` is traced and has no value yet: flat() was called inside a "
            "function that jax.jit, jax.vmap or jax.grad transforms. Return the state "
            "from it, and call stats_of(state).flat() outside."
        )
    if np.shape(value) != ():
        raise ValueError(
            f"`{name}` has the shape {np.shape(value)}: these are the statistics of a "
            "population. Take one member first: "
            "jax.tree.map(lambda x: x[0], stats).flat()."
        )
