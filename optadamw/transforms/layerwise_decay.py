"""Groups whose learning rate falls from the head of a network to its input."""

from collections.abc import Sequence
from typing import Any

from optadamw.base.errors import invalid, mistyped, some_leaves
from optadamw.base.hyperparameters import hyperparameter
from optadamw.base.interval import FRACTION, NON_NEGATIVE, POSITIVE
from optadamw.base.masks import selector
from optadamw.base.plain import python_number
from optadamw.base.tree import parameters
from optadamw.base.types import PyTree, ScalarOrSchedule
from optadamw.schedules.scaled import scaled

PairsOfGroups = list[tuple[Any, dict[str, Any]]]
"""The argument `groups` of `adamw`, in its form of a list."""


def layerwise_decay(
    params: PyTree,
    learning_rate: ScalarOrSchedule,
    layers: Sequence[Any],
    decay: float = 0.75,
    min_scale: float = 0.0,
) -> PairsOfGroups:
    """Make `groups` for `adamw` in which earlier layers have smaller learning rates.

    The last layer has the learning rate itself, and each layer before it `decay` times
    that of its successor: layer i of n (from 0 on) has

        learning_rate * max(min_scale, decay^(n - 1 - i))

    Source: ELECTRA, arXiv 2003.10555v1, Appendix B; BEiT, arXiv 2106.08254v2, Appendix
    H; the formula is that of timm's `param_groups_layer_decay` (1.0.31). Which
    parameter is in which layer differs: BEiT puts the last norm into the layer of the
    head, timm into that of the last block. The weight decay needs no groups of its own:
    give `adamw` a `mask`, such as `lambda path, p: p.ndim > 1`, as timm does.

    Args:
      params: the parameters, or their shapes, to check that each one is in a layer.
      learning_rate: the rate of the last layer: a number, an array, a schedule or
        `adjustable(...)`, which all layers follow.
      layers: the layers from the input to the head. A layer is a pattern, a tuple of
        patterns, or another choice of parameters (docs/guides/parameters.md). A
        parameter belongs to the first layer that matches.
      decay: factor from a layer to the one before it, in (0, 1]. Default: 0.75, as in
        timm.
      min_scale: smallest factor of the learning rate, in [0, 1]. Default: 0.

    Returns:
      A list of pairs `(layer, {"learning_rate": rate})`, the argument `groups` of
      `adamw`. Options may be added to these dicts.

    Raises:
      TypeError: `layers` is no list of choices.
      ValueError: a parameter is in no layer, a pattern matches no parameter, or a
        number is out of its range.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> params = {
      ...     "embed": jnp.ones((5, 4)),
      ...     "blocks": [{"kernel": jnp.ones((4, 4))} for _ in range(2)],
      ...     "head": {"kernel": jnp.ones((4, 3))},
      ... }
      >>> layers = ["embed", *(f"blocks/{i}/*" for i in range(2)), "head/*"]
      >>> groups = optadamw.layerwise_decay(params, 1e-3, layers, decay=0.5)
      >>> groups[0]
      ('embed', {'learning_rate': 0.000125})
      >>> tx = optadamw.adamw(1e-3, groups=groups, mask=lambda path, p: p.ndim > 1)
    """
    hyperparameter("learning_rate", learning_rate, NON_NEGATIVE)
    factor = float(python_number("decay", decay))
    if factor not in FRACTION or factor not in POSITIVE:
        raise invalid("decay", "in (0, 1]", decay)
    least = float(python_number("min_scale", min_scale))
    if least not in FRACTION:
        raise invalid("min_scale", str(FRACTION), min_scale)
    if not isinstance(layers, list | tuple) or not layers:
        raise mistyped(
            "layers",
            "a list of one or more patterns, from the input to the head",
            layers,
        )
    _check_all_chosen(params, layers)
    last = len(layers) - 1
    return [
        (layer, {"learning_rate": scaled(learning_rate, max(least, factor**distance))})
        for distance, layer in zip(range(last, -1, -1), layers, strict=True)
    ]


def _check_all_chosen(params: PyTree, layers: Sequence[Any]) -> None:
    """Refuse layers that leave a parameter out, or one that has no parameter."""
    leaves = parameters(params)
    layer_of: list[int | None] = [None] * len(leaves.paths)
    for number, layer in enumerate(layers):
        chosen = selector("layers", layer).resolve("layers", leaves, params)
        free = [i for i, is_in in enumerate(chosen) if is_in and layer_of[i] is None]
        if not free:
            raise ValueError(
                f"`layers`: every parameter of {layer!r} is in an earlier layer, or it "
                "chooses none. The first layer that matches counts."
            )
        for i in free:
            layer_of[i] = number
    left = [p for p, layer in zip(leaves.paths, layer_of, strict=True) if layer is None]
    if left:
        raise ValueError(
            f"`layers` leaves parameters out: {some_leaves(left)}. Add a layer for "
            "them, or add their pattern to one: ('head/*', 'norm/*')."
        )
