"""Decoupled weight decay as a transformation."""

from typing import Any

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import hyperparameter, switched
from optadamw.base.interval import NON_NEGATIVE, POSITIVE
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
    cautious: bool | None = None,
) -> Transformation:
    """Add decoupled weight decay: shrink each parameter by a fraction of its value.

    With p the parameter before the step, a the learning rate of this step and w the
    weight decay, `-s p` is added to the update, with

        "lr":           s = a w                       PyTorch, Keras, Optax
        "schedule":     s = (a / max_learning_rate) w   the paper, optimi
        "independent":  s = w                         TensorFlow Addons
        "corrected":    s = a (a / max_learning_rate) w   AdamC, timm

    With `cautious`, an element decays only if its direction u (Adam's, before the
    learning rate) and the element have no opposite signs, u p >= 0: the decay then
    never works against the step.

    Weight decay stands after `scale_by_adam` and before `scale_by_learning_rate`; any
    other place would change its meaning and is refused (before Adam it would be L2
    regularization, which Adam normalizes away; after the rate its sign would be wrong).
    All modes but "lr" read the learning rate, which must be in the same
    `optadamw.chain`.

    Source: arXiv 1711.05101v3, Algorithm 2, line 12; "corrected": Defazio,
    arXiv 2506.02285; `cautious`: Chen et al., Cautious Weight Decay,
    arXiv 2510.12402v2, Algorithm 1.
    Differs from `optax.add_decayed_weights`: masks may be patterns, modes other than
    "lr", and a place in the chain that would change its meaning is refused.

    Args:
      weight_decay: w above, >= 0, per unit of learning rate ("lr", "corrected") or per
        step ("schedule", "independent"): a number, an array, or a schedule of the
        finished optimizer steps. Default: 1e-4.
      mask: the parameters that decay: a pattern such as `"*/kernel"`, a list of
        patterns, a predicate `(path, array) -> bool`, Optax's `params -> tree`, or a
        tree of bools. None (default): all parameters.
      mode: one of the four formulas above. Default: "lr".
      max_learning_rate: the peak of the learning rate's schedule, > 0, for the modes
        "schedule" and "corrected". None (default): the learning rate itself, if it is
        a plain number; with a schedule the peak is required.
      cautious: True decays only the elements that the step does not move away from
        zero. None (default) and False: all elements.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, an argument is out of its range or of a
        wrong type; when traced, a pattern matches no parameter, or the parameters were
        not passed.

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
            cautious=switched("cautious", cautious) or None,
        )
    )
