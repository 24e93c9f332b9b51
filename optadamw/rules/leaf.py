"""One parameter on its way through the rules, and the value that may replace it."""

from collections.abc import Mapping
from typing import NamedTuple, Self

from optadamw.base.errors import misplaced
from optadamw.base.numerics import quotient
from optadamw.base.reductions import PLAIN, Reductions
from optadamw.base.types import Array


class Leaf(NamedTuple):
    """One parameter on its way through the rules.

    The update is `numerator / denominator + drift`. The quotient stays open until the
    end, so that its last operation is a division. A multiplication would be contracted
    with the addition to the parameter (FMA) inside `step`, but not across `update` and
    `apply_updates`, and the two results would differ by an ulp.

    Attributes:
      numerator: the gradient; after Adam the first moment; after
        `scale_by_learning_rate` the first moment times minus the learning rate.
      denominator: the root of the second moment plus eps. None stands for 1, as before
        Adam.
      drift: the part of the update that decoupled weight decay adds; the learning rate
        does not scale it. None stands for 0.
      gradient: the gradient from which the moments were computed.
      second: the second moment by whose root the direction will divide; None before
        Adam.
      second_is_corrected: whether `second` is already divided by its bias correction.
      param: the parameter before the step; None if it was not passed.
      buffers: the buffers of the rules by name, in the dtype of computation.
      is_bounded: whether a guard ensures that the squares of the gradient are finite.
      reductions: the functions by which a rule sums over all elements: those of
        `with_reproducible_norms`, or plain ones (default).
      nonzero: the denominator, if no element of it counts as 0. A rule that replaces
        the denominator need not know: another array in this place has no effect.
      rate_is_due: whether the learning rate is in the drift already and not yet in the
        numerator, as between `add_decoupled_weight_decay` and `scale_by_learning_rate`.
        The sum of the two then has no meaning.
    """

    numerator: Array
    denominator: Array | None
    drift: Array | None
    gradient: Array
    second: Array | None
    second_is_corrected: bool
    param: Array | None
    buffers: Mapping[str, Array]
    is_bounded: bool = False
    reductions: Reductions = PLAIN
    nonzero: Array | None = None
    rate_is_due: bool = False

    def value(self) -> Array:
        """Return the update with the quotient carried out.

        Raises:
          ValueError: the drift is a part of the step, and the direction still waits for
            the learning rate.
        """
        if self.rate_is_due and self.drift is not None:
            raise misplaced(
                "A rule between add_decoupled_weight_decay and scale_by_learning_rate "
                "takes `value()` or `settled()` of its leaf, or the norm of the "
                "updates. There the decay is already multiplied by minus the learning "
                "rate and the direction is not, so their sum has no meaning.",
                "Put the rule before the decay, to change the direction alone, or "
                "behind the learning rate, to change the whole step.",
            )
        update = self.numerator
        if self.denominator is not None:
            update = self.over_denominator(update)
        return update if self.drift is None else update + self.drift

    def over_denominator(self, numerator: Array) -> Array:
        """Return the quotient of an array and the denominator."""
        assert self.denominator is not None
        if self.denominator is self.nonzero:
            return numerator / self.denominator
        return quotient(numerator, self.denominator)

    def settled(self) -> Self:
        """Return this leaf with the quotient carried out and the drift added."""
        return self._replace(numerator=self.value(), denominator=None, drift=None)

    def keeping(self, **buffers: Array) -> Self:
        """Return this leaf with new values for some of its buffers."""
        return self._replace(buffers={**self.buffers, **buffers})


class Overwrite(NamedTuple):
    """A value that `after_commit` returns to write a parameter once more.

    Attributes:
      when: a scalar of bool; in steps where it is False the parameter stays.
      value: the new parameter, in the dtype of computation.
    """

    when: Array
    value: Array
