"""The wrapper `with_reproducible_norms`, and the option of `adamw`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.custom import Array, Leaf, Rule, Stage, atom
from tests.support import trees

KINDS = {"w": (jnp.float32, (64, 64)), "b": (jnp.bfloat16, (64,))}
CLIP = {"clip_global_norm": 0.5}


def test_it_is_a_value():
    tx = optadamw.adamw(0.1, reproducible_norms=True, **CLIP)
    assert tx == optadamw.with_reproducible_norms(optadamw.adamw(0.1, **CLIP))
    assert tx != optadamw.adamw(0.1, **CLIP)
    assert optadamw.adamw(0.1, reproducible_norms=False, **CLIP) == optadamw.adamw(
        0.1, **CLIP
    )
    assert repr(tx) == "adamw(0.1, clip_global_norm=0.5, reproducible_norms=True)"
    assert "\n-  with_reproducible_norms\n" in optadamw.describe(
        tx, trees.normal(KINDS, 0)
    )


def test_the_order_of_wrappers_does_not_matter():
    plain = optadamw.adamw(0.1, **CLIP)
    one = optadamw.with_reproducible_norms(optadamw.skip_nonfinite(plain))
    other = optadamw.skip_nonfinite(optadamw.with_reproducible_norms(plain))
    assert one == other


@pytest.mark.parametrize(
    "options",
    [
        {**CLIP, "clip_value": 0.9},
        {"clip_norm": 0.5},
        {"clip_update_rms": 0.5},
        {"caution": True},
        {"stats": "norms", "skip_spikes": True},
        {"accumulate_steps": 2, "loss_scale": optadamw.DynamicLossScale(4.0), **CLIP},
        {"groups": {"b": {"clip_norm": 0.1}}},
    ],
    ids=str,
)
def test_the_step_is_the_plain_one_to_within_rounding(options):
    params = trees.normal(KINDS, 0)
    found = []
    for reproducible in (None, True):
        tx = optadamw.adamw(0.1, reproducible_norms=reproducible, **options)
        pair = params, tx.init(params)
        for i in range(3):
            grads = trees.normal(KINDS, 1 + i)
            pair = jax.jit(tx.step)(grads, pair[1], pair[0])
        found.append(pair)
    plain, other = map(jax.tree.leaves, found)
    for a, b in zip(plain, other, strict=True):
        tolerance = 1e-2 if a.dtype == jnp.bfloat16 else 2e-5
        np.testing.assert_allclose(
            *(np.asarray(x, np.float64) for x in (a, b)), rtol=tolerance, atol=1e-6
        )


def test_a_huge_gradient_is_clipped_and_a_bad_one_is_skipped():
    params = {"w": jnp.ones(4)}
    tx = optadamw.chain(optadamw.clip_by_global_norm(1.0))
    clip = optadamw.with_reproducible_norms(tx)
    updates, _ = jax.jit(clip.update)({"w": jnp.full(4, 1e30)}, clip.init(params))
    np.testing.assert_allclose(updates["w"], 0.5, rtol=1e-6)
    guarded = optadamw.adamw(0.1, skip_nonfinite=True, reproducible_norms=True)
    for bad in (jnp.nan, jnp.inf, 1e30):
        grads = {"w": jnp.ones(4).at[2].set(bad)}
        after, state = jax.jit(guarded.step)(grads, guarded.init(params), params)
        trees.assert_same_bits(after, params)
        assert int(optadamw.stats_of(state).skipped) == 1


def test_an_update_has_a_derivative():
    tx = optadamw.adamw(0.1, reproducible_norms=True, clip_norm=0.1, **CLIP)
    plain = optadamw.adamw(0.1, clip_norm=0.1, **CLIP)
    params = {"w": jnp.arange(1.0, 5.0)}

    def length(grads, tx):
        return jnp.sum(tx.update(grads, tx.init(params), params)[0]["w"] ** 2)

    found, wanted = (jax.grad(length)(params, t)["w"] for t in (tx, plain))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)
    at_zero = jax.grad(length)({"w": jnp.zeros(4)}, tx)["w"]
    assert np.isfinite(at_zero).all()


SUMS = {"clip": CLIP, "norm": {"clip_norm": 0.5}, "guard": {"skip_spikes": True}}
SUMS |= {"caution": {"caution": True}}


@pytest.mark.parametrize("options", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_allocates_no_more_than_the_plain_one(options, dtype):
    """Integers that wait in memory would be four times the parameters."""
    params = {f"w{i}": jnp.ones((512, 512), dtype) for i in range(4)}
    commit = {} if dtype == "float32" else {"commit": "stochastic"}
    temporaries = []
    for reproducible in (None, True):
        tx = optadamw.adamw(0.1, reproducible_norms=reproducible, **options, **commit)
        lowered = tx.jit_step.lower(params, tx.init(params), params)
        temporaries.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    assert temporaries[1] <= temporaries[0] + 0.01 * size


@dataclass(frozen=True)
class Centered(Rule):
    """Subtracts the mean of each gradient, a sum in the order of the compiler."""

    stage: ClassVar[Stage] = Stage.GRADIENT
    sums: ClassVar[bool] = True
    verb: ClassVar[str] = "centered"

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        mean = jnp.mean(leaf.numerator)
        return leaf._replace(numerator=leaf.numerator - mean)


def test_what_it_cannot_change_is_refused():
    wrap = optadamw.with_reproducible_norms
    with pytest.raises(ValueError, match="no effect: the transformation takes"):
        wrap(optadamw.adamw(0.1))
    with pytest.raises(ValueError, match="Leave `reproducible_norms`"):
        optadamw.adamw(0.1, reproducible_norms=True)
    with pytest.raises(ValueError, match="has with_reproducible_norms already"):
        wrap(wrap(optadamw.clip_by_norm(1.0)))
    with pytest.raises(TypeError, match="`inner` must be"):
        wrap(None)
    with pytest.raises(TypeError, match="`reproducible_norms` must be"):
        optadamw.adamw(0.1, reproducible_norms="yes", **CLIP)
    with pytest.raises(ValueError, match=r"centered sums .* by itself.*reductions"):
        wrap(optadamw.chain(atom(Centered()), optadamw.scale_by_learning_rate(0.1)))
