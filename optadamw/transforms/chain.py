"""`chain`: transformations composed into one that walks the tree once."""

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

    The result computes what `optax.chain` of the same parts computes, in one pass per
    parameter instead of one per part, and holds one `State`. Chains nest.

    Args:
      *transformations: atoms and chains of this library, in the order of a step.
      update_dtype: dtype of the updates that `update` returns; None: the parameter's.
        With "float32", `optax.apply_updates` lands exactly on what `step` writes for
        parameters of every dtype.

    Returns:
      A transformation.

    Raises:
      TypeError: a part from elsewhere, which has no rule to compose.
      ValueError: an order in which a part would not mean what it says, two parts
        that keep the same buffer, or a wrapper such as `multi_steps` as one of several
        parts.

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
                "written, and stands inside a chain, whose other parts would not "
                "follow it.",
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
    return transformation(replace(only, rules=ordered, update_dtype=dtype))


def _update_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise mistyped("update_dtype", "a floating dtype, or None", dtype)
    check_enabled("update_dtype", found)
    return found
