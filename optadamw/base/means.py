"""The recurrence of a running mean, `b x + (1 - b) y`, without drift.

With the weights float32(b) and 1 - b, which do not sum to 1, the mean of many steps is
wrong: by 1.3e-5 of itself at b = 0.999, 1.65e-4 at 0.9999 and 1.35e-3 at 0.99999. The
form `x + (1 - b) (y - x)` has the weights 1 - (1 - b) and 1 - b. The one product in it
is small, so that rounding it, where no machine fuses it with the addition, is no drift
either; and programs cannot differ in which of two products they fuse.

If b is near 0, this form is not exact: beside a large x, y - x has no digits of y. The
two products then stand as they are. Their weights are no small numbers, so that the sum
of them is wrong by 1e-7 at most.
"""

from typing import Any, Literal

import jax.numpy as jnp

from optadamw.base.hyperparameters import form_of_number
from optadamw.base.types import Array

MeanForm = Literal["one product", "two products", "either"]
"""The form of a running mean; "either" has both, and its scalars choose."""

LEAST = 0.5
"""The least weight b of the old mean with which the form has one product."""


def mean_form(keep: Any) -> MeanForm:
    """Return the form of the mean whose old value has the weight `keep`.

    It is known of a plain number, and "either" for arrays and schedules.
    """

    def of(number: float) -> MeanForm:
        return "one product" if number >= LEAST else "two products"

    return form_of_number(keep, of, "either")


def running_mean(
    old: Array, new: Array, keep: Array, take: Array, form: MeanForm
) -> Array:
    """Return `keep * old + take * new`, with weights that sum to 1.

    Args:
      old: the mean before this step.
      new: the number of this step.
      keep: the weight of `old`, a scalar in [0, 1].
      take: the scalar `1 - keep`, not computed from `keep` in float32.
      form: `mean_form` of the hyperparameter.
    """
    if form == "one product":
        return old + take * (new - old)
    if form == "two products":
        return keep * old + take * new
    # Scalars, not selections between arrays: a kernel has a loop for each of those.
    is_near = keep >= LEAST
    near = is_near.astype(keep.dtype)
    return jnp.where(is_near, 1, keep) * old + take * (new - near * old)
