"""Cycles of warm-up and cosine decay."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import jax
import optax

from optadamw.base.errors import invalid, mistyped
from optadamw.schedules.arguments import step_count
from optadamw.schedules.value import OptaxSchedule, Table
from optadamw.schedules.warmup import warmup_cosine_decay_schedule


class Cycles(OptaxSchedule):
    """Cycles of Optax that are those of `warmup_cosine_decay_schedule` here."""

    def __call__(self, step: Any) -> Any:
        """The value after `step` finished optimizer steps."""
        cycles = self.given["cosine_kwargs"]
        ends = list(accumulate(cycle["decay_steps"] for cycle in cycles))
        joined = optax.schedules.join_schedules(
            [warmup_cosine_decay_schedule(**cycle) for cycle in cycles], ends[:-1]
        )
        with jax.numpy_dtype_promotion("standard"):
            return joined(step)


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> OptaxSchedule:
    """Cycles of `warmup_cosine_decay_schedule`, as `optax.sgdr_schedule`.

    Each cycle lasts its `decay_steps` steps, the last one's end is kept. For restarts
    without warm-up whose length grows by a factor, use `cosine_warm_restarts`. Source:
    arXiv 1608.03983.

    Args:
      cosine_kwargs: for each cycle the arguments of `warmup_cosine_decay_schedule`, by
        their names.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: no cycle, or an argument out of its range.

    Example:
      >>> from optadamw import schedules
      >>> cycle = {"init_value": 0.0, "warmup_steps": 5, "decay_steps": 10}
      >>> rate = schedules.sgdr_schedule(
      ...     [cycle | {"peak_value": 1.0}, cycle | {"peak_value": 0.5}]
      ... )
      >>> [float(rate(step)) for step in (0, 5, 10, 15, 20)]
      [0.0, 1.0, 0.0, 0.5, 0.0]
    """
    if not isinstance(cosine_kwargs, Iterable) or isinstance(cosine_kwargs, Mapping):
        raise mistyped("cosine_kwargs", "a list of mappings", cosine_kwargs)
    cycles = []
    for index, kwargs in enumerate(cosine_kwargs):
        if not isinstance(kwargs, Mapping):
            raise mistyped(f"cosine_kwargs[{index}]", "a mapping of arguments", kwargs)
        checked = warmup_cosine_decay_schedule(**kwargs).arguments
        given = {name: value for name, value in checked.rows if name in kwargs}
        cycles.append(Table(tuple(given.items())))
    if not cycles:
        raise invalid("cosine_kwargs", "at least one cycle", cycles)
    whole = sum(dict(cycle.rows)["decay_steps"] for cycle in cycles)
    end = step_count("the sum of decay_steps", whole)
    return Cycles.of("sgdr_schedule", cosine_kwargs=tuple(cycles)).ending_at(end)
