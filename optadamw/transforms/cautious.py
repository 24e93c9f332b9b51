"""Cautious updates, as an atom."""

from optadamw.rules.caution import Caution
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def cautious() -> Transformation:
    """Zero the direction where its sign is not the gradient's, and scale up the rest.

        d = d * a / max(mean(a), 1e-3),    a = 1 where d g > 0, else 0

    The mean is over one parameter. State and weight decay are untouched. It follows
    `scale_by_adam` in `optadamw.chain`, from which it takes the gradient.

    Source: arXiv 2411.16085, Algorithm 2, with the floor of 1e-3 that its authors'
    code and timm's `caution=True` have.

    Returns:
      A transformation without buffers of its own.

    Raises:
      ValueError: at construction, without `scale_by_adam` before it.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(optadamw.scale_by_adam(), optadamw.cautious())
    """
    return atom(Caution())
