"""Groups of parameters with hyperparameters of their own."""

from collections.abc import ItemsView, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.masks import Everything, selector
from optadamw.rules.groups import Group, aligned
from optadamw.rules.order import check_variants
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.freeze import FROZEN
from optadamw.transforms.transformation import Transformation, transformation


@prints_as_call
def param_groups(
    rest: Transformation,
    groups: Mapping[Any, Transformation] | Sequence[tuple[Any, Transformation]],
) -> Transformation:
    """Give groups of parameters hyperparameters of their own, in one transformation.

    The chains of the groups must have the same parts, with other numbers. A group may
    leave out the parts that concern each parameter by itself (`maximize`,
    `clip_by_value`, `clip_by_norm`, `amsgrad_max`, `add_slow_moment`, `cautious`,
    `add_decoupled_weight_decay`, `clip_update_by_rms`), and a group may be `freeze()`:
    its parameters do not train and have no buffers. `adamw(..., groups=)` makes such
    groups in one call. Wrappers such as `multi_steps` are put around the result.

    Differs from `optax.multi_transform`: all groups share one state, one count of steps
    and one norm over all gradients.

    Args:
      rest: the transformation of the parameters that no group chooses.
      groups: `{choice: transformation}`, or a list of such pairs. A choice is a pattern
        such as `"*/bias"`, a tuple of patterns, a predicate `(path, array) -> bool`, or
        a tree of bools, as for `mask`. A parameter belongs to the first group that
        chooses it.

    Returns:
      A transformation with the state of `rest`; if one group has AMSGrad, all
      parameters have a `nu_max`.

    Raises:
      TypeError: a transformation is not from this library.
      ValueError: at construction, the chains have different parts; at `init`, a pattern
        matches no parameter, or all of a group are in an earlier one.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.param_groups(
      ...     optadamw.scale_by_learning_rate(1.0),
      ...     {"*/bias": optadamw.scale_by_learning_rate(0.5)},
      ... )
      >>> params = {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}
      >>> grads = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
      >>> params, _ = tx.step(grads, tx.init(params), params)
      >>> params["kernel"].tolist(), params["bias"].tolist()
      ([-1.0], [-0.5])
    """
    pairs: Any = groups.items() if isinstance(groups, Mapping) else groups
    is_listed = isinstance(pairs, Sequence | ItemsView) and not isinstance(pairs, str)
    if not is_listed or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs
    ):
        raise mistyped(
            "groups",
            "a mapping {pattern: transformation}, or a list of such pairs",
            groups,
        )
    named = [(f"groups[{where!r}]", where, tx) for where, tx in pairs]
    parts = [*((name, tx) for name, _, tx in named), ("rest", rest)]
    for name, tx in parts:
        if not isinstance(tx, Transformation):
            raise mistyped(
                name,
                "a transformation of optadamw",
                tx,
                "optax.multi_transform takes any, with a state for each.",
            )
        composition = tx.recipe.composition
        if composition == FROZEN:
            if name == "rest":
                raise misplaced(
                    "freeze() is the rest of param_groups, which says what trains.",
                    "Give the chain that trains as the rest, and freeze() to a group, "
                    "such as {('!head/*',): freeze()} for all but the head.",
                )
            continue
        if not composition.is_bare or composition.update_dtype is not None:
            raise misplaced(
                f"{tx!r} is more than a chain of rules, and is the {name} of "
                "param_groups.",
                "Give plain chains, and put wrappers and update_dtype around the "
                "result.",
            )
    frozen = [tx.recipe.composition == FROZEN for _, tx in parts]
    # The rules of frozen parameters never run; those of the rest stand in their place,
    # so that no check of the groups' rules or of their rates finds a difference.
    chains = [
        (name, (rest if is_frozen else tx).recipe.composition.rules)
        for (name, tx), is_frozen in zip(parts, frozen, strict=True)
    ]
    rules, variants = aligned(chains)
    check_variants(variants)
    choices = [selector("groups", where) for _, where, _ in named] + [Everything()]
    made = tuple(
        Group(name, where, variant, is_frozen)
        for (name, _), where, variant, is_frozen in zip(
            parts, choices, variants, frozen, strict=True
        )
    )
    composition = replace(rest.recipe.composition, rules=rules, groups=made)
    return transformation(composition)
