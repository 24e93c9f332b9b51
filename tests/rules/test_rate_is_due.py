"""Rules of one's own around weight decay and learning rate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw.custom import Leaf, Rule, Stage, atom

PARAMS = {"w": jnp.array([1.0, -2.0, 100.0])}
GRADS = {"w": jnp.array([1e-3, -2e-3, 3e-3])}
ADAM = optadamw.scale_by_adam()
DECAY = optadamw.add_decoupled_weight_decay(0.5)
RATE = optadamw.scale_by_learning_rate(0.1)


@dataclass(frozen=True)
class Applied(Rule):
    """Whatever a function makes of the leaf."""

    made: Callable[[Leaf], Leaf]
    stage: ClassVar[Stage] = Stage.DECAY

    def apply(self, leaf, scalars):
        return self.made(leaf)


@dataclass(frozen=True)
class AtRate(Applied):
    stage: ClassVar[Stage] = Stage.RATE


@dataclass(frozen=True)
class Normed(Rule):
    stage: ClassVar[Stage] = Stage.DECAY
    reads_norm: ClassVar[bool] = True

    def norm_scalars(self, norm, scalars):
        return {"factor": 1 / norm}

    def apply(self, leaf, scalars):
        return leaf._replace(numerator=leaf.numerator * scalars["factor"])


@dataclass(frozen=True)
class Trust(Rule):
    """You et al., arXiv 1904.00962v5, Algorithm 2, with the identity for phi."""

    stage: ClassVar[Stage] = Stage.RATE
    needs_params: ClassVar[bool] = True
    sums: ClassVar[bool] = True

    def scalars(self, clock, shared):
        return {"learning_rate": shared("learning_rate")}

    def apply(self, leaf, scalars):
        norm, update = leaf.reductions.norm, leaf.value()
        ratio = norm(leaf.param) / norm(update) * scalars["learning_rate"]
        return leaf.settled()._replace(numerator=update * ratio)


def after_one_step(*chain):
    tx = optadamw.chain(*chain)
    return tx.step(GRADS, tx.init(PARAMS), PARAMS)[0]["w"]


@pytest.mark.parametrize(
    "rule",
    [
        Applied(lambda leaf: leaf.settled()),
        Applied(lambda leaf: leaf._replace(numerator=leaf.value())),
        Normed(),
    ],
    ids=["settled", "value", "norm"],
)
def test_the_sum_of_decay_and_direction_waits_for_the_rate(rule):
    with pytest.raises(ValueError, match="their sum has no meaning"):
        after_one_step(ADAM, DECAY, atom(rule), RATE)


def test_another_rule_of_the_stage_does_not_stand_for_the_rate():
    rule = AtRate(lambda leaf: leaf)
    settled = AtRate(lambda leaf: leaf.settled())
    with pytest.raises(ValueError, match="their sum has no meaning"):
        after_one_step(ADAM, DECAY, atom(rule), atom(settled), RATE)


@dataclass(frozen=True)
class NormedAtRate(Normed):
    stage: ClassVar[Stage] = Stage.RATE


@dataclass(frozen=True)
class Summed(AtRate):
    """It takes a sum over the leaf before its step."""

    sums: ClassVar[bool] = True

    def leaf_scalars(self, leaf, scalars):
        return {"norm": leaf.reductions.norm(leaf.value())}


@pytest.mark.parametrize(
    "reader", [NormedAtRate(), Summed(lambda leaf: leaf)], ids=["norm", "sum"]
)
def test_sums_before_the_rate_are_refused_behind_another_rule_of_its_stage(reader):
    rule = AtRate(lambda leaf: leaf)
    with pytest.raises(ValueError, match="their sum has no meaning"):
        after_one_step(ADAM, DECAY, atom(rule), atom(reader), RATE)


def test_a_rule_there_may_change_the_direction_alone():
    halved = Applied(lambda leaf: leaf._replace(numerator=leaf.numerator / 2))
    found = after_one_step(ADAM, DECAY, atom(halved), RATE)
    wanted = after_one_step(ADAM, atom(halved), DECAY, RATE)
    np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(found, after_one_step(ADAM, DECAY, RATE))


def test_without_a_rate_in_the_chain_the_sum_is_that_of_optax():
    settled = atom(Applied(lambda leaf: leaf.settled()))
    found = after_one_step(ADAM, DECAY, settled)
    np.testing.assert_array_equal(found, after_one_step(ADAM, DECAY))


def test_a_trust_ratio_behind_the_rate_is_lamb():
    peer = optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.5),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(0.1),
    )
    updates, _ = peer.update(GRADS, peer.init(PARAMS), PARAMS)
    wanted = optax.apply_updates(PARAMS, updates)["w"]
    found = after_one_step(ADAM, DECAY, RATE, atom(Trust()))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@dataclass(frozen=True)
class Publishes(Rule):
    """A rate that other rules may read; with `takes` the rule multiplies by it too."""

    takes: bool
    stage: ClassVar[Stage] = Stage.GRADIENT
    publishes: ClassVar[tuple[str, ...]] = ("learning_rate",)

    def scalars(self, clock, shared):
        return {"learning_rate": 0.1}

    def apply(self, leaf, scalars):
        if not self.takes:
            return leaf
        return leaf._replace(numerator=leaf.numerator * -scalars["learning_rate"])


@dataclass(frozen=True)
class Direct(Publishes):
    stage: ClassVar[Stage] = Stage.DIRECTION


@dataclass(frozen=True)
class Takes(Rule):
    """Multiply by minus the rate that another rule publishes."""

    stage: ClassVar[Stage] = Stage.RATE

    def scalars(self, clock, shared):
        return {"rate": shared("learning_rate")}

    def apply(self, leaf, scalars):
        return leaf._replace(numerator=leaf.numerator * -scalars["rate"])


@pytest.mark.parametrize(
    "chain",
    [
        (ADAM, atom(Direct(takes=True)), DECAY),
        (atom(Publishes(takes=False)), ADAM, DECAY, atom(Takes())),
    ],
    ids=["multiplies before the decay", "publishes first, multiplies last"],
)
def test_rates_of_ones_own(chain):
    np.testing.assert_array_equal(
        after_one_step(*chain), after_one_step(ADAM, DECAY, RATE)
    )
