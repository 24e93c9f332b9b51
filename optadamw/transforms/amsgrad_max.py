"""AMSGrad's maximum, as an atom."""

from typing import Literal

from optadamw.base.errors import invalid
from optadamw.rules.amsgrad import Maximum
from optadamw.store.formats import Stored, maximum
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def amsgrad_max(
    kind: Literal["raw", "corrected"] = "raw", *, dtype: Stored | None = None
) -> Transformation:
    """Let Adam divide by the maximum of its second moments.

        raw:        v~ = max(v~, v),               used in place of v
        corrected:  v~ = max(v~, v / (1 - b2^t)),  used as it is

    It modifies the `scale_by_adam` that it follows in `optadamw.chain`; alone it has
    no second moment and is refused.

    Source: arXiv 1904.09237, Algorithm 2. "raw", with the bias correction applied to
    the maximum, is what PyTorch, Keras and TensorFlow do; "corrected" is Optax's.
    The two maxima are different numbers: a state of one is not a state of the other.

    Args:
      kind: which second moment the maximum is of.
      dtype: how the maximum is kept: what `nu_dtype` of `scale_by_adam` takes, always
        rounded to nearest, as a maximum of random roundings would climb. (That of a
        `nu` which is itself rounded at random climbs all the same, with its noise:
        over 10,000 steps of a stationary gradient to 1.05 times what it is in
        float32 on average in stochastic bfloat16, to 1.35 in 8 bits.) None: float32
        (float64 for float64 parameters).

    Returns:
      A transformation that adds `nu_max` (as `nu`) to the state.

    Raises:
      ValueError, TypeError: at construction, for another `kind` or `dtype`, or
        without `scale_by_adam`.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(optadamw.scale_by_adam(), optadamw.amsgrad_max())
    """
    if kind not in ("raw", "corrected"):
        raise invalid("kind", "'raw' or 'corrected'", kind)
    return atom(Maximum(kind, maximum("dtype", dtype)))
