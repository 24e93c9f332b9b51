"""AMSGrad's maximum as a transformation."""

from typing import Literal

from optadamw.base.errors import invalid
from optadamw.rules.amsgrad import Maximum
from optadamw.store.formats import Stored
from optadamw.store.moments import maximum
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def amsgrad_max(
    kind: Literal["raw", "corrected"] = "raw", *, dtype: Stored | None = None
) -> Transformation:
    """Let Adam divide by the maximum of its second moments (AMSGrad).

        raw:        v~ = max(v~, v),               then bias-corrected as v is
        corrected:  v~ = max(v~, v / (1 - b2^t)),  without a further correction

    AMSGrad modifies the `scale_by_adam` right before it in `optadamw.chain`; without
    one it is refused.

    Source: arXiv 1904.09237, Algorithm 2. PyTorch, Keras and TensorFlow use "raw",
    Optax uses "corrected". The two maxima are different numbers: a state saved with one
    `kind` cannot be used with the other.

    Args:
      kind: one of the two formulas above, "raw" or "corrected". Default: "raw".
      dtype: the format of the maximum in the state: a dtype, `stochastic(...)` or
        `blockwise(...)`, as for `nu_dtype` in `scale_by_adam`. In each of them the
        maximum is rounded to nearest, because a maximum of random roundings grows.
        (With a `nu` that is itself rounded at random, the maximum grows with the noise
        of `nu`: over 10,000 steps of a stationary gradient to 1.05 times its float32
        value on average in stochastic bfloat16, to 1.35 times in 8 bits.) None
        (default): float32 (float64 for float64 parameters).

    Returns:
      A transformation whose state has `nu_max`, a buffer for each parameter.

    Raises:
      ValueError, TypeError: at construction, `kind` or `dtype` is not legal, or no
        `scale_by_adam` stands right before it.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(optadamw.scale_by_adam(), optadamw.amsgrad_max())
    """
    if kind not in ("raw", "corrected"):
        raise invalid("kind", "'raw' or 'corrected'", kind)
    return atom(Maximum(kind, maximum("dtype", dtype)))
