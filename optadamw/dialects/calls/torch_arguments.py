"""Arguments that `torch.optim.AdamW`, optimi and timm share."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from optadamw.base.errors import invalid, near
from optadamw.dialects.calls.callables import schedule
from optadamw.dialects.calls.checks import flag, pair, scalar
from optadamw.dialects.calls.phrases import Phrase
from optadamw.dialects.calls.selections import param_groups

PHRASES = {
    "lr": Phrase("Invalid learning rate: {value}"),
    "learning_rate": Phrase("Invalid learning rate: {value}"),
    "eps": Phrase("Invalid epsilon value: {value}"),
    "b1": Phrase("Invalid beta parameter at index 0: {value}"),
    "b2": Phrase("Invalid beta parameter at index 1: {value}"),
    "weight_decay": Phrase("Invalid weight_decay value: {value}"),
}
"""PyTorch's words, which timm has too."""

STATE_OF_GROUPS = (
    "compared with `tx`: a warning names numbers that differ, and the training "
    "continues with those of `tx`"
)
"""What is done with `param_groups` of a saved state, for the pages."""


def rate(name: str, value: Any) -> Any:
    """Check a learning rate: a number, an array of one element, or a schedule."""
    return schedule(scalar(name, value))


def b1_and_b2(betas: Any) -> dict[str, Any]:
    """Turn `betas` into options of `adamw`.

    Raises:
      ValueError: one is an integer, or one is a float and the other an array.
    """
    b1, b2 = (scalar("betas", beta) for beta in pair("betas", betas))
    for name, beta in (("b1", b1), ("b2", b2)):
        if isinstance(beta, int) and not 0 <= beta < 1:  # which PyTorch checks first
            raise invalid(name, "in [0, 1)", beta)
    arrays = [isinstance(beta, np.ndarray | jax.Array) for beta in (b1, b2)]
    floats = [isinstance(beta, float | np.floating) for beta in (b1, b2)]
    functions = [callable(beta) for beta in (b1, b2)]
    if not (all(arrays) or all(f or c for f, c in zip(floats, functions, strict=True))):
        raise ValueError(
            "betas must be either both floats or both Tensors. `betas` must be either "
            f"both floats or both arrays; got {(b1, b2)!r}."
        )
    return {"b1": b1, "b2": b2}


def clipped(norm: Any) -> dict[str, Any]:
    """Turn a limit of `clip_grad_norm_` into options of `adamw`."""
    return {} if norm is None else {"clip_global_norm": norm, "clip_eps": 1e-6}


def relative_decay(
    name: str, word: str, mode: str, is_on: Any, lr: Any, max_lr: Any
) -> dict[str, Any]:
    """A decay relative to the largest learning rate, for `adamw`.

    Args:
      name: the argument that turns the decay on.
      word: how errors call the decay.
      mode: the `weight_decay_mode` that it sets.
      is_on: the value of the argument, checked here.
      lr: the learning rate.
      max_lr: the largest learning rate; None takes `lr`, if that is a number.

    Raises:
      ValueError: `max_lr` is missing, or has no effect.
    """
    if not flag(name, is_on, none=False):
        if max_lr is None:
            return {}
        raise ValueError(
            f"`max_lr` has no effect without `{name}`; got {max_lr!r}. Leave it out."
        )
    # All groups take the rate of the call, whatever a group's own rate is.
    peak = lr if max_lr is None and not callable(lr) else max_lr
    if peak is None:
        raise ValueError(
            f"`max_lr` is missing: the {word} decay is relative to the largest "
            f"learning rate, and `lr` is the schedule {lr!r}. Give it, for example "
            "max_lr=1e-3."
        )
    return {"weight_decay_mode": mode, "max_learning_rate": peak}


def grouped(
    params: Any,
    names: Mapping[str, str],
    unchanging: Collection[str],
    has_betas: bool = True,
) -> dict[str, Any]:
    """Turn PyTorch's param groups into the `groups` of `adamw`.

    Args:
      params: None, or a list of dicts with "params" and options.
      names: the option of `adamw` for each option of a group.
      unchanging: options that a group may repeat and that have no effect.
      has_betas: whether a group may have both betas as one option (default).

    Raises:
      TypeError: an option that no group has.
    """

    def translated(where: str, own: Mapping[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for name, value in own.items():
            if name == "betas" and not has_betas:
                raise TypeError(
                    f"`{where}` has the option 'betas', which has no effect in a group "
                    "there: groups have 'beta1' and 'beta2'. Give those."
                )
            if name == "betas":
                options |= b1_and_b2(value)
            elif name == "lr":
                options["learning_rate"] = rate(f"{where}['lr']", value)
            elif name in names:
                options[names[name]] = value
            elif name not in unchanging:
                both = ["betas"] if has_betas else []
                legal = ["lr", *both, *names, *unchanging]
                raise TypeError(
                    f"`{where}` has the option {name!r}, which no group has. Near it: "
                    f"{near(name, legal)}."
                )
        return options

    groups = param_groups(params, translated)
    return {} if groups is None else {"groups": groups}
