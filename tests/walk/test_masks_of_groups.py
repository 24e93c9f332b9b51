"""How often the choices of a transformation with many groups are resolved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import pytest

import optadamw
from optadamw.base.patterns import Patterns
from optadamw.custom import Rule, Stage, atom


def test_groups_that_share_a_mask_resolve_it_once(monkeypatch):
    """Each resolution matches a pattern with the path of every leaf."""
    params = {f"l{i}": {"kernel": jnp.ones(2), "bias": jnp.ones(2)} for i in range(9)}
    rates = {f"l{i}/*": {"learning_rate": 0.1 * i} for i in range(1, 9)}
    tx = optadamw.adamw(1.0, groups=rates, mask="*/kernel")
    resolved, resolve = [], Patterns.resolve

    def counted(self, name, leaves, tree):
        resolved.append(self)
        return resolve(self, name, leaves, tree)

    monkeypatch.setattr(Patterns, "resolve", counted)
    tx.init(params)
    masks = [one for one in resolved if one.patterns == ("*/kernel",)]
    others = [one for one in resolved if one.patterns != ("*/kernel",)]
    assert 8 * len(masks) == len(others) > 0


@dataclass
class First:
    """A choice of a user's own, which cannot be a key of a dict."""

    def resolve(self, name, leaves, tree):
        return tuple(i == 0 for i in range(len(leaves.paths)))


@dataclass(frozen=True)
class Listed:
    """A frozen choice, whose hash fails as late as its list is hashed."""

    numbers: list[int]

    def resolve(self, name, leaves, tree):
        return tuple(i in self.numbers for i in range(len(leaves.paths)))


@dataclass(frozen=True)
class Halve(Rule):
    choose: Callable[[], First | Listed]
    stage: ClassVar[Stage] = Stage.GRADIENT

    @property
    def selector(self):
        return self.choose()

    def apply(self, leaf, scalars):
        return leaf._replace(numerator=leaf.numerator / 2)


@pytest.mark.parametrize(
    "choose", [First, lambda: Listed([0])], ids=["none", "that fails"]
)
def test_a_choice_without_a_hash_is_resolved(choose):
    tx = optadamw.chain(atom(Halve(choose)), optadamw.scale_by_learning_rate(1.0))
    params = [jnp.zeros(2), jnp.zeros(2)]
    grads = [jnp.ones(2), jnp.ones(2)]
    params, _ = tx.step(grads, tx.init(params), params)
    assert [float(x[0]) for x in params] == [-0.5, -1.0]
