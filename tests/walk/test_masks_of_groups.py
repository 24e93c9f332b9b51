"""How often the choices of a transformation with many groups are resolved."""

import jax.numpy as jnp

import optadamw
from optadamw.base.patterns import Patterns


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
