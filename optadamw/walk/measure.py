"""Measuring a step for the statistics: rates, and the norms around its clips."""

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
    """The rows of `State.stats` so far, and whether a clip changed the gradients."""

    rows: dict[str, list[Array]]
    clipped: Array

    def finished(
        self, norms: Array | None, go: Array, old: dict[str, Array]
    ) -> dict[str, Array]:
        """The rows, with the norms of update and parameters; `old` unless `go`."""
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
    """Rates and gradient norms; those that a clip or guard needs too cost no pass."""
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
    # A factor of 1 leaves the norm as it is; measured again, it may round otherwise.
    return Measurements(rows, after < before * (1 - 1e-6))


def _clipped(
    rules: Sequence[Rule], norms: Norms, scalars: Scalars, before: Array
) -> Array:
    """The norm of the gradients as the moments see them."""
    leading = [i for i, rule in enumerate(rules) if rule.stage == Stage.GRADIENT]
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
