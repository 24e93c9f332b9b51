"""The scalars of one step: rates, bias corrections and clip factors, formed once."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.rules.groups import Variant
from optadamw.rules.rule import Scalar, Shared
from optadamw.rules.scalars import check_scalars
from optadamw.walk.norms import Norms, Scalars


def scalars_of(
    norms: Norms, shared: Sequence[Shared], clock: Clock
) -> tuple[Scalars, list[Array]]:
    """The scalars that the leaves of each group share, and the norms that rules read.

    `shared` holds, for each group, the scalars of its rules that need no norm.
    """
    inputs = norms.inputs
    used = {inputs.key(i) for i in inputs.moving}
    scalars: Scalars = {key: [] for key in sorted(used, key=str)}
    read = []
    for i, rule in enumerate(norms.rules):
        found: Mapping[str, Scalar] = {}
        if rule.reads_norm and used:
            norm = norms.before(i, scalars)
            read.append(norm)
            made = rule.norm_scalars(norm.astype(clock.dtype), shared[0].of(i))
            found = check_scalars(f"{rule.verb}: norm_scalars", made)
        for (dtype, group), rows in scalars.items():
            row = {**shared[group].of(i), **found}
            rows.append({k: jnp.asarray(v, dtype) for k, v in row.items()})
    return scalars, read


def are_legal(
    go: Array,
    read: Sequence[Array],
    variants: Sequence[Variant],
    shared: Sequence[Shared],
    clock: Clock,
) -> Array:
    """`go`, unless a norm is not finite or a rate is negative or not finite."""
    # Kept gradients are finite; their sum, as a clip measures it, may not be.
    for norm in read:
        go = go & jnp.isfinite(norm)
    # A constant was checked when it was given; a schedule may go astray.
    for rules, own in zip(variants, shared, strict=True):
        for rule in rules:
            rates = {} if rule is None else rule.report(clock, own)
            for rate in rates.values():
                go = go & jnp.isfinite(rate) & (jnp.asarray(rate) >= 0)
    return go
