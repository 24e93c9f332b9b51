"""One parameter on its way through the rules, and the value that may replace it."""

from collections.abc import Mapping
from typing import NamedTuple, Self

from optadamw.base.numerics import quotient
from optadamw.base.types import Array


class Leaf(NamedTuple):
    """One parameter on its way through the rules.

    The update is `numerator / denominator + drift`. The quotient stays open until the
    end, so that its last operation is a division. A multiplication would be contracted
    with the addition to the parameter (FMA) inside `step`, but not across `update` and
    `apply_updates`, and the two results would differ by an ulp.
    """

    numerator: Array
    """The gradient; after Adam the first moment; after the rate times minus the rate.
    """
    denominator: Array | None
    """The root of the second moment plus eps; None before Adam: 1."""
    drift: Array | None
    """Decoupled weight decay, which later rules do not scale; None: 0."""
    gradient: Array
    """The gradient from which the moments were computed."""
    second: Array | None
    """The second moment by whose root the direction will divide; None before Adam."""
    second_is_corrected: bool
    """Whether `second` is already divided by its bias correction."""
    param: Array | None
    """The parameter before the step; None if it was not passed."""
    buffers: Mapping[str, Array]
    """The buffers of the rules by name, in the dtype of computation."""
    is_bounded: bool = False
    """Whether a guard ensures that the squares of the gradient are finite."""

    def value(self) -> Array:
        """Return the update with the quotient carried out."""
        update = self.numerator
        if self.denominator is not None:
            update = quotient(update, self.denominator)
        return update if self.drift is None else update + self.drift

    def settled(self) -> Self:
        """Return this leaf with the quotient carried out and the drift added."""
        return self._replace(numerator=self.value(), denominator=None, drift=None)

    def keeping(self, **buffers: Array) -> Self:
        """Return this leaf with new values for some of its buffers."""
        return self._replace(buffers={**self.buffers, **buffers})


class Overwrite(NamedTuple):
    """A value that replaces the committed parameter in the steps where `when` holds."""

    when: Array
    value: Array
