"""Choose how 16-bit parameters are rounded when they are written."""

from dataclasses import replace
from typing import Any, Literal

from optadamw.base.errors import invalid, misplaced, mistyped
from optadamw.base.plain import whole_number
from optadamw.commit.commit import Commit, Nearest
from optadamw.commit.kahan import Kahan
from optadamw.commit.master import Master
from optadamw.commit.short_master import ShortMaster
from optadamw.commit.stochastic import Stochastic
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation

CommitName = Literal["nearest", "stochastic", "kahan", "master"]
NAMES = ("nearest", "stochastic", "kahan", "master")


@prints_as_call
def with_commit(
    inner: Transformation, commit: CommitName, residual_bits: int = 16
) -> Transformation:
    """Choose how 16-bit parameters are rounded when they are written.

    Rounding to nearest loses an update of less than half a unit in the last place: at a
    learning rate of 1e-4, bfloat16 weights near 1 do not move at all. Without
    `with_commit`, `init` therefore warns if a parameter has 16 bits.

        "nearest"     round to nearest, and do not warn. No buffer.
        "stochastic"  round up or down at random, so that the expected value is exact.
                      No buffer. The random bits are a hash of (seed, step, leaf,
                      element): they do not depend on the sharding, and a restarted run
                      draws the same ones. The seed is 0; `with_seed` changes it.
        "kahan"       round to nearest and keep the rounding error, which the next step
                      adds. A buffer in the parameter's dtype, 2 bytes per parameter.
        "master"      keep a float32 copy. Its buffer holds only the bits that the
                      parameter lacks: 2 bytes for a bfloat16 parameter, and the whole
                      copy, 4 bytes, for a float16 parameter. With residual_bits=8
                      the copy has 24 bits, and its buffer takes 1 byte.

    Rules, decay and average compute on the sum of parameter and buffer. Parameters of
    the same tree in float32 or wider are rounded to nearest.

    Source: Gupta et al., arXiv 1502.02551; Zamirai et al., arXiv 2010.06192,
    Algorithms 1 and 2.
    Differs from torchao, which rounds with a stream of random numbers, and from optimi,
    whose compensation does not cover the weight decay.

    Args:
      inner: a chain with a learning rate, or `param_groups` of such chains.
      commit: "nearest", "stochastic", "kahan" or "master", see above.
      residual_bits: for "master", how many bits of a float32 the buffer holds beside
        the 16 bits of a bfloat16 parameter. 16 (default): all of them. 8: the next 8,
        so that the copy has 16 significant bits. Numbers are rounded to such a copy at
        random, so that smaller updates are applied on average. A float16 parameter
        has a whole float32 copy with either number.

    Returns:
      A transformation whose state has `residual` for "kahan" and "master".

    Raises:
      TypeError, ValueError: at construction, the name is unknown, the chain has no
        learning rate, or `residual_bits` is not 8 or 16, or is 8 without "master"; at
        `init`, no parameter has 16 bits, or `residual_bits` is 8 and none is bfloat16.

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
    made = _chosen(commit, residual_bits)
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
    return transformation(replace(composition, commit=made, has_chosen_commit=True))


def _chosen(commit: Any, residual_bits: Any) -> Commit:
    """Return the commit with this name and size of its buffer."""
    legal = f"one of {', '.join(map(repr, NAMES))}"
    if not isinstance(commit, str):
        raise mistyped("commit", legal, commit)
    if commit not in NAMES:
        raise invalid("commit", legal, commit)
    if whole_number("residual_bits", residual_bits, "8 or 16") not in (8, 16):
        raise invalid("residual_bits", "8 or 16", residual_bits)
    if residual_bits == 8:
        if commit != "master":
            told = f'16 (the default) with commit="{commit}"'
            remedy = 'Give commit="master", whose buffer alone can have 8 bits.'
            raise invalid("residual_bits", told, residual_bits, remedy)
        return ShortMaster()
    made: dict[str, Commit] = {
        "nearest": Nearest(),
        "stochastic": Stochastic(),
        "kahan": Kahan(),
        "master": Master(),
    }
    return made[commit]
