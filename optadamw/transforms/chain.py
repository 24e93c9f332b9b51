"""`chain` composes transformations into one that walks the tree once."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.types import DTypeLike
from optadamw.rules.order import check_order, composed
from optadamw.rules.rule import Rule
from optadamw.store.dense import check_enabled
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation
from optadamw.walk.composition import Composition


@prints_as_call
def chain(
    *transformations: optax.GradientTransformation,
    update_dtype: DTypeLike | None = None,
) -> Transformation:
    """Compose transformations of this library into one that walks the tree once.

    The result computes the same as `optax.chain` of the same parts, in one pass over
    each parameter instead of one pass for each part, and has one `State`. A part may
    itself be a chain.

    Args:
      *transformations: transformations of this library, in the order of a step.
      update_dtype: dtype of the updates that `update` returns. None (default): the
        parameter's dtype. With "float32", `optax.apply_updates` gives exactly the
        parameters that `step` writes, for parameters of every dtype.

    Returns:
      A transformation.

    Raises:
      TypeError: a part is not from this library, so that it has no rule to compose.
      ValueError: a part stands where its meaning would change, two parts keep the same
        buffer, or one of several parts is a wrapper such as `multi_steps`.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(
      ...     optadamw.clip_by_global_norm(1.0),
      ...     optadamw.scale_by_adam(),
      ...     optadamw.add_decoupled_weight_decay(0.01),
      ...     optadamw.scale_by_learning_rate(1e-3),
      ... )
      >>> tx
      chain(clip_by_global_norm(1.0), scale_by_adam(), \
add_decoupled_weight_decay(0.01), scale_by_learning_rate(0.001))
    """
    rules: list[Rule] = []
    dtypes = {_update_dtype(update_dtype)}
    only = Composition(())
    for part in transformations:
        if not isinstance(part, Transformation):
            raise mistyped(
                "transformations",
                "transformations of optadamw",
                part,
                "Use optax.chain to combine them with other ones.",
            )
        only = part.recipe.composition
        if len(transformations) > 1 and not only.is_bare:
            raise misplaced(
                f"{part!r} has groups, or decides when a step is taken or how it is "
                "written, and cannot be one of several parts of a chain: it would "
                "apply to itself alone.",
                "Wrap the whole chain: multi_steps(chain(...), every); give groups to "
                "adamw, or param_groups whole chains.",
            )
        rules.extend(only.rules)
        dtypes.add(only.update_dtype)
    ordered = composed(rules)
    check_order(ordered)
    asked = sorted(dtypes - {None}, key=str)
    if len(asked) > 1:
        raise ValueError(
            f"`update_dtype` is {' here and '.join(map(str, asked))} there, and the "
            "updates of a chain have one dtype. Give it once, to the outer chain."
        )
    dtype = next(iter(asked), None)
    is_chosen = any(
        part.recipe.composition.has_chosen_commit for part in transformations
    )
    return transformation(
        replace(
            only,
            rules=ordered,
            update_dtype=dtype,
            has_chosen_commit=is_chosen,
        )
    )


def _update_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    if dtype is None:
        return None
    try:
        parsed = jnp.dtype(dtype)
    except (TypeError, ValueError):
        parsed = None
    if parsed is None or not jnp.issubdtype(parsed, jnp.floating):
        raise mistyped("update_dtype", "a floating dtype, or None", dtype)
    check_enabled("update_dtype", parsed)
    return parsed
