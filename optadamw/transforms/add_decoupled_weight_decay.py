"""Decoupled weight decay, as an atom."""

from typing import Any

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import NON_NEGATIVE, POSITIVE, hyperparameter
from optadamw.base.masks import selector
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.decay import Decay, DecayMode
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def add_decoupled_weight_decay(
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any = None,
    *,
    mode: DecayMode = "lr",
    max_learning_rate: ScalarOrSchedule | None = None,
) -> Transformation:
    """Shrink parameters by a share of themselves, apart from the gradient.

    With p the parameter before the step, a the learning rate of this step and w the
    weight decay, `-s p` is added to the update, with

        "lr":           s = a w                       PyTorch, Keras, Optax
        "schedule":     s = (a / max_learning_rate) w   the paper, optimi
        "independent":  s = w                         TensorFlow Addons
        "corrected":    s = a (a / max_learning_rate) w   AdamC, timm

    It stands after `scale_by_adam` and before `scale_by_learning_rate`; any other
    place would mean something else (before Adam it is L2 regularization, normalized
    away; after the rate its sign is wrong) and is refused. In all modes but "lr" the
    learning rate must be in the same `optadamw.chain`, where it can be seen.

    Source: arXiv 1711.05101v3, Algorithm 2, line 12; "corrected": Defazio,
    arXiv 2506.02285.

    Args:
      weight_decay: >= 0; per unit of learning rate ("lr", "corrected") or per step
        ("schedule", "independent"). A schedule sees finished optimizer steps.
      mask: which parameters are decayed: a pattern such as `"*/kernel"`, a list of
        patterns, a predicate `(path, array) -> bool`, Optax's `params -> tree`, or a
        tree of bools. None: all.
      mode: see above.
      max_learning_rate: the peak of the learning rate's schedule, > 0, for "schedule"
        and "corrected"; None takes the learning rate where that is a plain number.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction for a bad argument; when traced, for a
        pattern that matches nothing or parameters that were not passed.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(
      ...     optadamw.scale_by_adam(),
      ...     optadamw.add_decoupled_weight_decay(0.1, mask="*/kernel"),
      ...     optadamw.scale_by_learning_rate(1e-3),
      ... )
    """
    modes = ("lr", "schedule", "independent", "corrected")
    if mode not in modes:
        raise invalid("mode", f"one of {', '.join(map(repr, modes))}", mode)
    scaled = mode in ("schedule", "corrected")
    if max_learning_rate is not None and not scaled:
        raise ValueError(
            f"`max_learning_rate` has no meaning with the decay mode {mode!r}; got "
            f"{max_learning_rate!r}. Leave it out, or use 'schedule' or 'corrected'."
        )
    peak = None
    if max_learning_rate is not None:
        peak = hyperparameter("max_learning_rate", max_learning_rate, POSITIVE)
    remedy = "Use 0.0 for no decay."
    return atom(
        Decay(
            weight_decay=hyperparameter(
                "weight_decay", weight_decay, NON_NEGATIVE, remedy
            ),
            mode=mode,
            max_learning_rate=peak,
            where=selector("mask", mask),
        )
    )
