"""How 16-bit parameters are written."""

from dataclasses import replace
from typing import Any, Literal

from optadamw.base.errors import invalid, misplaced, mistyped
from optadamw.commit.commit import Commit, Nearest
from optadamw.commit.kahan import Kahan
from optadamw.commit.master import Master
from optadamw.commit.stochastic import Stochastic
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation

CommitName = Literal["nearest", "stochastic", "kahan", "master"]
NAMES = ("nearest", "stochastic", "kahan", "master")


@prints_as_call
def with_commit(inner: Transformation, commit: CommitName) -> Transformation:
    """Write parameters below float32 otherwise than rounded to nearest.

    An update of less than half a unit in the last place is lost by rounding to nearest:
    at a learning rate of 1e-4, bfloat16 weights near 1 do not move at all.

        "nearest"     round to nearest; nothing is kept.
        "stochastic"  round up or down at random, with the probability of the part cut
                      off: right on average. Nothing is kept. The bits are a hash of
                      (seed, step, leaf, element): the same for any sharding, and after
                      a restart; `with_seed` gives another seed than 0.
        "kahan"       round to nearest and keep the error in the parameter's dtype, to
                      be added the next time: 16 bits more, 2 bytes.
        "master"      keep what the parameter lacks of a float32: for bfloat16 the
                      lower 16 bits, 2 bytes; for float16 a whole copy, 4 bytes.

    Rules, decay and average see the parameter with what is kept beside it; float32 and
    wider parameters of the same tree are written as ever.

    Source: Gupta et al., arXiv 1502.02551; Zamirai et al., arXiv 2010.06192,
    Algorithms 1 and 2. PyTorch's torchao rounds at random from a stream, optimi's
    compensation leaves the weight decay out.

    Args:
      inner: a chain with a learning rate, or `param_groups` of such.
      commit: see above.

    Returns:
      A transformation whose state has `residual` for "kahan" and "master".

    Raises:
      TypeError, ValueError: at construction, for an unknown name, a chain without a
        learning rate; with the parameters, if none of them is below float32.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.with_commit(optadamw.adamw(1e-4), "master")
      >>> params = {"w": jnp.ones(4, jnp.bfloat16)}
      >>> state = tx.init(params)
      >>> for _ in range(30):
      ...     params, state = tx.step({"w": jnp.ones(4)}, state, params)
      >>> params["w"].tolist()[0]
      0.99609375
    """
    made = _chosen(commit)
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    composition = inner.recipe.composition
    if composition.commit != Nearest():
        raise misplaced(
            f"{inner!r} has the commit {composition.commit.name!r} already.",
            "Give one: adamw(..., commit=) wins over precision=.",
        )
    if not composition.is_whole:
        raise misplaced(
            f"{inner!r} has no learning rate, so it writes no parameters.",
            "Put scale_by_learning_rate into its chain.",
        )
    return transformation(replace(composition, commit=made))


def _chosen(commit: Any) -> Commit:
    """The commit of a name."""
    legal = f"one of {', '.join(map(repr, NAMES))}"
    if not isinstance(commit, str):
        raise mistyped("commit", legal, commit)
    if commit not in NAMES:
        raise invalid("commit", legal, commit)
    made: dict[str, Commit] = {
        "nearest": Nearest(),
        "stochastic": Stochastic(),
        "kahan": Kahan(),
        "master": Master(),
    }
    return made[commit]
