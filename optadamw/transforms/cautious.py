"""Cautious updates as a transformation."""

from optadamw.rules.caution import Caution
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def cautious() -> Transformation:
    """Zero elements of the direction whose sign is not the gradient's; scale the rest.

        d = d * a / max(mean(a), 1e-3),    a = 1 where d g > 0, else 0

    The mean is over the elements of one parameter. Moments and weight decay do not
    change. It stands after `scale_by_adam` in `optadamw.chain`, whose gradient g it
    compares with.

    Source: arXiv 2411.16085, Algorithm 2, with the floor of 1e-3 that its authors'
    code and timm's `caution=True` have.

    Returns:
      A transformation without buffers of its own.

    Raises:
      ValueError: at construction, no `scale_by_adam` stands before it.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(optadamw.scale_by_adam(), optadamw.cautious())
    """
    return atom(Caution())
