"""The clip of the update as a transformation."""

from optadamw.base.hyperparameters import hyperparameter, switch
from optadamw.base.interval import POSITIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.clip import REMEDY
from optadamw.rules.clip_update import ClipUpdate
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def clip_update_by_rms(
    limit: ScalarOrSchedule = 1.0, *, keeps_decay: bool = False
) -> Transformation:
    """Shrink the step of each parameter whose gradient is large for its moment.

    After a change in the data, Adam's second moment is too small for a while, and steps
    are too large. For each parameter, with g its gradient, v^ the corrected second
    moment (that of AMSGrad if there is one) and d the direction,

        rms = sqrt(mean((g / (sqrt(v^ + eps_root) + eps))^2))
        d = d / max(1, rms / limit)

    and the same factor shrinks a weight decay that stands before this atom in the
    chain. After `add_decoupled_weight_decay`, as in `adamw(clip_update_rms=1.0)`, the
    atom is StableAdamW, which divides the learning rate. Before it, or with
    `keeps_decay=True`, the decay stays as it is, as in timm.

    Without `bias_correction` the uncorrected root counts, which clips early steps. A
    mean that is not finite clips nothing: a NaN in the gradient spoils its own element.

    Source: Wortsman et al., arXiv 2304.13013v2, Algorithm 2 (StableAdamW), after
    Shazeer & Stern, arXiv 1804.04235v1, Section 6; `limit`: timm's NAdamW.
    Differs from the paper and optimi where the root is not far above eps: they divide g
    by max(sqrt(v^), eps), timm and this atom by the denominator of the step.

    Args:
      limit: largest root mean square that leaves a step as it is, > 0: a number, an
        array or a schedule. Default: 1, as in the paper.
      keeps_decay: True leaves a weight decay that stands before the atom as it is.
        Default: False, as in the paper.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: `limit` is out of its range or of a wrong type; in a chain,
        no `scale_by_adam` stands before the atom, or one with eps_mode="hat".

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(0.1, b2=0.5, weight_decay=0.0, clip_update_rms=1.0)
      >>> params = jnp.zeros(2)
      >>> params, state = tx.step(jnp.ones(2), tx.init(params), params)
      >>> stepped, _ = tx.step(100 * jnp.ones(2), state, params)  # rms is 1.22
      >>> [round(x, 3) for x in (stepped - params).tolist()]
      [-0.053, -0.053]
    """
    return atom(
        ClipUpdate(
            limit=hyperparameter("limit", limit, POSITIVE, REMEDY),
            keeps_decay=switch("keeps_decay", keeps_decay),
        )
    )
