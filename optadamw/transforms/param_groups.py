"""Groups of parameters with numbers of their own."""

from collections.abc import ItemsView, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.masks import Everything, selector
from optadamw.rules.groups import Group, aligned
from optadamw.rules.order import check_order
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation


@prints_as_call
def param_groups(
    rest: Transformation,
    groups: Mapping[Any, Transformation] | Sequence[tuple[Any, Transformation]],
) -> Transformation:
    """Give some parameters rules with numbers of their own, in one step.

    The chains have the same form: they differ in numbers, and in parts that concern
    one parameter by itself (`maximize`, `clip_by_value`, `clip_by_norm`,
    `amsgrad_max`, `cautious`, `add_decoupled_weight_decay`), which a group may leave
    out. There is one state, one count of steps and one norm over all gradients, which
    is what sets it apart from `optax.multi_transform`. `adamw(..., groups=)` is the
    same in one call. Wrappers such as `multi_steps` stand around it.

    Args:
      rest: for the parameters that no group chooses.
      groups: `{choice: transformation}`, or pairs of them. A choice is what `mask`
        takes: a pattern such as `"*/bias"`, several of them, a predicate, a tree of
        bools. The first that matches a parameter counts.

    Returns:
      A transformation whose state is that of `rest`, with a `nu_max` for all
      parameters where one group has AMSGrad.

    Raises:
      TypeError: a part from elsewhere.
      ValueError: at construction, for chains of different form; with the parameters,
        for a group that no parameter is in.

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
        if not composition.is_bare or composition.update_dtype is not None:
            raise misplaced(
                f"{tx!r} decides more than the rules of its parameters, and is the "
                f"{name} of param_groups.",
                "Give plain chains, and wrap or chain the result.",
            )
    rules, variants = aligned(
        [(name, tx.recipe.composition.rules) for name, tx in parts]
    )
    check_order(rules)
    choices = [selector("groups", where) for _, where, _ in named] + [Everything()]
    made = tuple(
        Group(name, where, variant)
        for (name, _), where, variant in zip(parts, choices, variants, strict=True)
    )
    composition = replace(rest.recipe.composition, rules=rules, groups=made)
    return transformation(composition)
