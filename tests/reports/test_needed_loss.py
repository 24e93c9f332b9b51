"""Reports that trace a step of a guard that watches the loss."""

import jax.numpy as jnp
import pytest

import optadamw

PARAMS = {"w": jnp.ones((16, 16))}


@pytest.mark.parametrize("kernel", [None, "xla"])
@pytest.mark.parametrize("of", ["loss", ("grad_norm", "loss")])
def test_the_loss_is_not_asked_for(of, kernel):
    tx = optadamw.adamw(1e-3, skip_spikes={"of": of}, kernel=kernel)
    assert optadamw.memory_plan(tx, PARAMS).temporaries is not None
    assert "skip_spikes" in optadamw.describe(tx, PARAMS)
