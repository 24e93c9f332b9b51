"""Parameters that do not train."""

from optadamw.base.masks import Everything
from optadamw.rules.groups import Group
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation
from optadamw.walk.composition import Composition

FROZEN = Composition((), groups=(Group("all", Everything(), (), is_frozen=True),))


@prints_as_call
def freeze() -> Transformation:
    """Leave parameters as they are, and keep nothing for them.

    Give it to the groups that do not train:
    `param_groups(chain, {"embed/*": freeze()})`. The option of `adamw` for it is
    `groups={"embed/*": {"freeze": True}}`. A frozen parameter has None in place of each
    buffer of the state, whatever gradients arrive for it; they count in no norm, and
    are no reason for a guard to skip a step. Its average (`ema_of(state, like=params)`)
    is the parameter. A gradient that nothing else reads is not computed under `jit`;
    pass None if you do not have it.

    Differs from `optax.freeze`: it is not a wrapper with a mask, but a choice for one
    group, and the frozen parameters are missing from the global norm.

    Returns:
      A transformation without rules or buffers, whose `step` returns the parameters
      unchanged and whose `update` returns updates of -0.0, which change no bit.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.param_groups(
      ...     optadamw.chain(
      ...         optadamw.scale_by_adam(), optadamw.scale_by_learning_rate(0.1)
      ...     ),
      ...     {"embed": optadamw.freeze()},
      ... )
      >>> params = {"embed": jnp.ones(2), "head": jnp.ones(1)}
      >>> grads = {"embed": jnp.ones(2), "head": jnp.ones(1)}
      >>> params, state = tx.step(grads, tx.init(params), params)
      >>> params["embed"].tolist(), state.mu["embed"] is None
      ([1.0, 1.0], True)
    """
    return transformation(FROZEN)
