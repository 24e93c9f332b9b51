"""The scalars of one step: rates, bias corrections, clip factors, computed once."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.rules.check_scalars import check_scalars
from optadamw.rules.rule import Scalar, Shared
from optadamw.walk.norms import Norms, Scalars


def scalars_of(
    norms: Norms, shared: Sequence[Shared], clock: Clock
) -> tuple[Scalars, list[Array]]:
    """Return the scalars that the leaves share, and the norms that the rules read.

    Args:
      norms: the norms of this step.
      shared: for each group the scalars of its rules that depend on no norm.
      clock: the time of this step.
    """
    inputs = norms.inputs
    used = {inputs.key(i) for i in inputs.moving}
    scalars: Scalars = {key: [] for key in sorted(used, key=str)}
    read = []
    for i, rule in enumerate(norms.rules):
        of_norm: Mapping[str, Scalar] = {}
        if rule.reads_norm and used:
            norm = norms.before(i, scalars)
            read.append(norm)
            made = rule.norm_scalars(norm.astype(clock.dtype), shared[0].of(i))
            of_norm = check_scalars(f"{rule.verb}: norm_scalars", made)
        for (dtype, group), rows in scalars.items():
            row = {**shared[group].of(i), **of_norm}
            rows.append({k: jnp.asarray(v, dtype) for k, v in row.items()})
    return scalars, read
