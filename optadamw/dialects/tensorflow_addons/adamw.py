"""TensorFlow Addons: `tfa.optimizers.AdamW`."""

from typing import Any

import numpy as np

from optadamw.adamw import adamw
from optadamw.base.errors import invalid
from optadamw.base.patterns import Excluded, Patterns
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects import keras
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.callables import InverseTime, schedule
from optadamw.dialects.calls.checks import flags, label, refuse_unknown
from optadamw.dialects.calls.selections import exactly, names, searched
from optadamw.transforms.transformation import Transformation

_RATE = 0.001


@call("tensorflow_addons", like=keras.AdamW)
def AdamW(
    weight_decay: ScalarOrSchedule,
    learning_rate: ScalarOrSchedule = _RATE,
    beta_1: ScalarOrSchedule = 0.9,
    beta_2: ScalarOrSchedule = 0.999,
    epsilon: ScalarOrSchedule = 1e-7,
    amsgrad: bool = False,
    name: str = "AdamW",
    *,
    exclude_from_weight_decay: list[str] | None = None,
    decay_var_list: list[str] | None = None,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    decay: float | None = None,
    lr: ScalarOrSchedule | None = None,
    bug_compatible: bool = False,
    **kwargs: Any,
) -> Transformation:
    r"""`tfa.optimizers.AdamW(weight_decay, learning_rate, ...)`: the decay comes first.

        p = p - weight_decay * p                    not times the learning rate
        p = p - learning_rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)

    A decay that follows the learning rate must be scheduled beside it.

    Source: TensorFlow Addons 0.23, `weight_decay_optimizers.py`, on the optimizers of
    `tf.keras.optimizers.legacy`.

    Differs:
      - Functions are asked at every step, also when compiled.
      - An epsilon of 0 is refused; TensorFlow Addons replaces it by 1e-7
        (`bug_compatible=True`).
      - An empty `decay_var_list` is refused; TensorFlow Addons ignores it and decays
        everything.
      - All rows of a parameter decay; in TensorFlow Addons only the rows that a sparse
        gradient names.
      - A clip of 0 is refused.

    Args:
      weight_decay: Weight decay, not multiplied by the learning rate. Like the learning
        rate, the betas and epsilon it is a number, an array, a schedule of the finished
        steps, or a callable without arguments. Sets `weight_decay`,
        `weight_decay_mode="independent"`.
      learning_rate: Learning rate. Sets `learning_rate`.
      exclude_from_weight_decay: Regular expressions; parameters whose path matches one
        of them anywhere have no weight decay. Sets `mask`.
      decay_var_list: Exact paths of the only parameters that decay. If it is given,
        `exclude_from_weight_decay` has no effect.
      clipvalue: Limit on the magnitude of each element of the gradients, before the
        norms. Sets `clip_value`.
      global_clipnorm: Limit on the norm of all gradients together; not with `clipnorm`.
        Sets `clip_global_norm`.
      decay: The learning rate becomes `learning_rate / (1 + decay * step)`.
      lr: Another name of `learning_rate`.
      bug_compatible: Read an epsilon of 0 as 1e-7.

    Example:
      >>> from optadamw.dialects import tensorflow_addons
      >>> tx = tensorflow_addons.AdamW(1e-4, learning_rate=1e-3)
    """
    refuse_unknown(AdamW, kwargs)
    label("name", name)
    flags(amsgrad=amsgrad, bug_compatible=bug_compatible, none=False)
    if clipnorm is not None and global_clipnorm is not None:
        raise ValueError(
            "Cannot accept both `clipnorm` and `global_clipnorm`; got "
            f"{clipnorm!r} and {global_clipnorm!r}."
        )
    if isinstance(epsilon, int | float) and epsilon == 0:
        if not bug_compatible:
            raise invalid(
                "epsilon",
                "> 0",
                epsilon,
                "It becomes 1e-7 there: give 1e-7, or bug_compatible=True.",
            )
        epsilon = 1e-7
    if lr is not None and not _is_default(learning_rate):
        raise ValueError(
            "`lr` is another name of `learning_rate`; got both, "
            f"{lr!r} and {learning_rate!r}. Give one."
        )
    rate = schedule(learning_rate if lr is None else lr)
    if decay is not None:
        known = isinstance(decay, int | float) and not isinstance(decay, bool)
        # 1e39 would be infinity in float32, and infinity times step 0 is NaN.
        if not known or not 0 <= decay <= float(np.finfo(np.float32).max):
            wanted = "a number >= 0 that is finite in float32, or None"
            raise invalid("decay", wanted, decay)
        # A rate with no decay stays a number, as `describe` and checkpoints show it.
        rate = InverseTime(rate, float(decay)) if decay else rate
    return adamw(
        rate,
        schedule(beta_1),
        schedule(beta_2),
        schedule(epsilon),
        weight_decay=schedule(weight_decay),
        mask=_mask(decay_var_list, exclude_from_weight_decay),
        weight_decay_mode="independent",
        eps_mode="hat",
        amsgrad=amsgrad,
        clip_value=clipvalue,
        clip_norm=clipnorm,
        clip_global_norm=global_clipnorm,
    )


def _is_default(rate: Any) -> bool:
    return isinstance(rate, float) and rate == _RATE


def _mask(only: Any, but: Any) -> Any:
    if only is not None:
        name = "decay_var_list"
        return Patterns(exactly(names(name, only)), name)
    if but is not None:
        name = "exclude_from_weight_decay"
        return Patterns(tuple(map(Excluded, searched(name, but))), name)
    return None


CALL = PeerCall(
    module="tensorflow_addons",
    peer="TensorFlow Addons",
    studied="tensorflow-addons 0.23",
    formula="p -= wd p; p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)",
    function=AdamW,
    state={"iter": "`step`", "m": "`mu`", "v": "`nu`", "vhat": "`nu_max`"},
    ours=("bug_compatible",),
)
