"""The seed of the random bits of stochastic rounding."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Constant, Dynamic
from optadamw.base.types import Number
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation


@prints_as_call
def with_seed(inner: Transformation, seed: Number) -> Transformation:
    """Set the seed of the random bits of stochastic rounding; the default seed is 0.

    The bits are a hash of (seed, step, leaf, buffer, element), so two runs with the
    same seed round alike. So do the members of a `vmap` and the parts inside a
    `jax.shard_map`, unless each of them has a seed of its own. The step count stops at
    2**31 - 1: later steps all draw the same bits unless you change the seed.

    Args:
      inner: a transformation that rounds at random: with the commit "stochastic", or
        with moments or average in the format `stochastic(...)` or `blockwise(...)`.
      seed: a whole number or a 0-d array of integers, concrete or traced, in
        [0, 2**32).

    Returns:
      A transformation with the state of `inner`.

    Raises:
      TypeError, ValueError: at construction, the seed is not legal, or `inner` rounds
        nothing at random.

    Example:
      >>> import optadamw
      >>> tx = optadamw.adamw(1e-4, commit="stochastic")
      >>> optadamw.with_seed(tx, 5) == optadamw.adamw(1e-4, commit="stochastic", seed=5)
      True
    """
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    composition = inner.recipe.composition
    checked = _checked(seed)
    if not composition.draws:
        raise ValueError(
            f"`seed` has no effect where nothing is rounded at random; got {seed!r}. "
            "Leave it out, or use commit='stochastic'."
        )
    return transformation(replace(composition, seed=checked))


def _checked(seed: Any) -> Constant | Dynamic:
    rule = "a whole number or 0-d array of integers, in [0, 2**32)"
    if isinstance(seed, np.ndarray | jax.Array):
        if seed.shape != () or not jnp.issubdtype(seed.dtype, jnp.integer):
            raise mistyped("seed", rule, seed)
        if isinstance(seed, jax.core.Tracer):
            return Dynamic(seed)
        if not 0 <= int(jax.device_get(seed)) < 2**32:
            raise invalid("seed", rule, seed)
        if isinstance(seed, jax.Array):
            return Dynamic(seed)
        seed = int(seed)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise mistyped("seed", rule, seed)
    if not 0 <= seed < 2**32:
        raise invalid("seed", rule, seed)
    return Constant(float(seed))
