"""Ascent instead of descent as a transformation."""

from optadamw.rules.maximize import Maximize
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def maximize() -> Transformation:
    """Negate the gradients before everything else, to maximize the objective.

    The moments are computed from the negated gradient, and weight decay still shrinks
    the parameters.

    Source: PyTorch's `maximize=True`.

    Returns:
      A transformation without buffers.

    Example:
      >>> import optadamw
      >>> tx = optadamw.adamw(1e-3, maximize=True)
    """
    return atom(Maximize())
