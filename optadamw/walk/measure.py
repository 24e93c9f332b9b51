"""Measure a step for the statistics: rates, and the norms before and after clips."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.control.statistics import TREE, Statistics
from optadamw.rules.groups import Variant
from optadamw.rules.rule import Rule, Scalar, Shared, Stage
from optadamw.walk.norms import Norms, Scalars


class Measurements(NamedTuple):
    """Rates and gradient norms of a step, measured before the pass over the leaves."""

    rows: dict[str, list[Array]]
    """The first entries of each row of `State.stats`."""
    clipped: Array
    """Whether a clip reduced the norm of the gradients."""

    def finished(
        self, norms: Array | None, go: Array, old: dict[str, Array]
    ) -> dict[str, Array]:
        """Return the complete rows of `State.stats`; unless `go`, the old ones.

        Args:
          norms: the norms of updates and parameters; None: they are not recorded.
          go: whether the step was taken.
          old: the rows of the last state.
        """
        rows = {}
        for index, (name, entries) in enumerate(self.rows.items()):
            row = jnp.stack(entries)
            if norms is not None:
                row = jnp.concatenate([row, norms[index]])
            rows[name] = jnp.where(go, row, old[name])
        return rows


def measure(
    statistics: Statistics,
    rules: Variant,
    norms: Norms,
    scalars: Scalars,
    clock: Clock,
    shared: Shared,
) -> Measurements:
    """Measure rates and gradient norms; norms that clips or guards need are reused."""
    rates: dict[str, Scalar] = {"learning_rate": 1.0, "weight_decay": 0.0}
    for rule in reversed(rules):
        rates.update({} if rule is None else rule.report(clock, shared))
    if norms.inputs.moving:
        before, *groups = list(norms.of_gradients())
        after = _clipped(norms.rules, norms, scalars, before)
    else:
        before = after = jnp.zeros((), jnp.float32)
        groups = [before for _ in statistics.groups]
    row = [rates["learning_rate"], rates["weight_decay"], before, after]
    rows = {TREE: [jnp.asarray(entry, jnp.float32) for entry in row]}
    for (name, _), norm in zip(statistics.groups, groups, strict=True):
        rows[name] = [norm.astype(jnp.float32)]
    # The tolerance covers a norm that is measured twice and rounded differently.
    return Measurements(rows, after < before * (1 - 1e-6))


def _clipped(
    rules: Sequence[Rule], norms: Norms, scalars: Scalars, before: Array
) -> Array:
    """Return the norm of the gradients after all clips that precede the moments."""
    leading = []
    for i, rule in enumerate(rules):
        if rule.stage in (Stage.MOMENTS, Stage.RATE):
            break  # a clip that stands after it clips the direction, or the update
        if rule.stage == Stage.GRADIENT:
            leading.append(i)
    changing = [i for i in leading if not rules[i].keeps_norm]
    if not changing:
        return before
    last = changing[-1]
    rows = next(iter(scalars.values()))
    if rules[last].reads_norm:
        after = rules[last].norm_after(norms.before(last, scalars), rows[last])
        if after is not None:
            return after
    return norms.before(leading[-1] + 1, scalars)
