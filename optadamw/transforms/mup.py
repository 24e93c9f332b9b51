"""Groups whose learning rates follow the width: the Maximal Update Parametrization."""

import re
from typing import Any

import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import NON_NEGATIVE
from optadamw.base.tree import Leaves, match_leaves, parameters
from optadamw.base.types import PyTree, ScalarOrSchedule
from optadamw.schedules.scaled import scaled
from optadamw.transforms.layerwise_decay import PairsOfGroups


def mup(
    params: PyTree,
    base: PyTree,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule | None = None,
) -> PairsOfGroups | None:
    """Make `groups` for `adamw` with which a learning rate fits every width.

    A learning rate tuned for a narrow model is then near the best one for a wide model
    of the same depth. With m the width of `params` over that of `base`:

        hidden weights (two axes grow with the width)   learning_rate / m
        input weights, output weights, biases, scales   learning_rate

    This is the column "Adam LR" of a table that has two more rows, and these are for
    your model:

        initialization   variance 1 / fan_in for input and hidden weights, and a
                         variance that does not depend on the width for output weights
        forward          multiply the output (the logits) by 1 / m; in attention divide
                         by the dimension of the heads, and not by its root

    Without these two the learning rate does not transfer. A model of the width of
    `base` trains as it would without `mup`.

    Source: Yang et al., Tensor Programs V, arXiv 2203.03466v2, Table 8; `MuAdamW` of
    the package mup 1.0 for the weight decay, which becomes `weight_decay * m` for
    hidden weights, so that its product with the learning rate does not depend on the
    width. `eps` should be far below the gradients at every width.

    Args:
      params: the parameters of the model to be trained, or their shapes.
      base: the parameters of a narrow model of the same structure, or their shapes.
        They must differ in width alone.
      learning_rate: rate of the base model: a number, an array, a schedule or
        `adjustable(...)`.
      weight_decay: weight decay of the base model, in the mode "lr". None (default):
        the groups do not set it.

    Returns:
      A list of pairs, the argument `groups` of `adamw`, with a group for each m. None,
      which `adamw` takes too, if no axis differs.

    Raises:
      ValueError: the structures differ, a parameter has another number of axes, or its
        axes grow by different factors.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> def shapes(n):
      ...     return {"in": jnp.ones((3, n)), "mid": jnp.ones((n, n)), "b": jnp.ones(n)}
      >>> optadamw.mup(shapes(256), shapes(64), 1e-3)
      [(re.compile('^(mid)$'), {'learning_rate': 0.00025})]
      >>> tx = optadamw.adamw(1e-3, groups=optadamw.mup(shapes(256), shapes(64), 1e-3))
    """
    hyperparameter("learning_rate", learning_rate, NON_NEGATIVE)
    if weight_decay is not None:
        hyperparameter("weight_decay", weight_decay, NON_NEGATIVE)
    leaves = parameters(params)
    paths: dict[float, list[str]] = {}
    is_grown = False
    for path, ratios in zip(leaves.paths, _growths(leaves, base), strict=True):
        is_grown = is_grown or bool(ratios)
        if len(ratios) > 1:
            paths.setdefault(ratios[0], []).append(path)
    if not is_grown:
        return None
    if not paths:
        raise ValueError(
            "`base` has no hidden weights, of which two axes grow with the width: no "
            "learning rate depends on it. Leave mup out, or check that `base` is "
            "another width of the model of `params`."
        )
    groups: PairsOfGroups = []
    for growth, found in sorted(paths.items()):
        own: dict[str, Any] = {"learning_rate": scaled(learning_rate, 1 / growth)}
        if weight_decay is not None:
            own["weight_decay"] = scaled(weight_decay, growth)
        groups.append((re.compile(f"^({'|'.join(map(re.escape, found))})$"), own))
    return groups


def _growths(leaves: Leaves, base: PyTree) -> list[list[float]]:
    """Return for each leaf the factors of the axes that differ from those of `base`."""
    narrow = match_leaves(base, leaves, "`base`")
    grown = []
    for path, array, other in zip(leaves.paths, leaves.arrays, narrow, strict=True):
        wide, thin = array.shape, np.shape(other)
        if len(wide) != len(thin):
            raise at_leaf(
                path,
                f"it has shape {wide}, in `base` {thin}: another number of axes.",
                "Pass two widths of one model.",
            )
        pairs = [(w, t) for w, t in zip(wide, thin, strict=True) if w != t]
        if any(0 in pair for pair in pairs):
            raise at_leaf(path, f"it has shape {wide}, in `base` {thin}.")
        ratios = [w / t for w, t in pairs]
        if len(set(ratios)) > 1:
            raise at_leaf(
                path,
                f"it has shape {wide}, in `base` {thin}: its axes grow by different "
                "factors.",
                "Grow all widths of the model together.",
            )
        grown.append(ratios)
    return grown
