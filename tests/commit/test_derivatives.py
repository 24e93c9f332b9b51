"""Derivatives through parameters and buffers that are written by their bits."""

import jax
import jax.numpy as jnp
import pytest

import optadamw

FORMS = {
    "stochastic": ("bfloat16", {"commit": "stochastic"}),
    "master": ("bfloat16", {"commit": "master"}),
    "a master of 24 bits": ("bfloat16", {"commit": "master", "residual_bits": 8}),
    "float16": ("float16", {"commit": "stochastic"}),
    "a moment": ("float32", {"mu_dtype": optadamw.stochastic("bfloat16")}),
    "both moments": (
        "float32",
        dict.fromkeys(("mu_dtype", "nu_dtype"), optadamw.stochastic("bfloat16")),
    ),
}


def derivatives(dtype, options):
    """Of the sum of parameters after three steps, by the rate and by a gradient."""

    def end(rate, grad):
        tx = optadamw.adamw(rate, weight_decay=0.1, **options)
        params = {"w": jnp.linspace(0.5, 1.5, 64).astype(dtype)}
        state = tx.init(params)
        for i in range(3):
            grads = jnp.sin(params["w"]) * (grad if i == 0 else 1)
            params, state = tx.step({"w": grads.astype(dtype)}, state, params)
        return jnp.sum(params["w"].astype(jnp.float32))

    return jax.jit(jax.grad(end, (0, 1)))(0.1, 0.7)


@pytest.mark.parametrize("name", FORMS)
def test_they_are_those_of_float32(name):
    """They were 0; in float16 jax 0.10 had no rule for `nextafter`."""
    wanted, found = derivatives("float32", {}), derivatives(*FORMS[name])
    for one, other in zip(wanted, found, strict=True):
        assert float(other) == pytest.approx(float(one), rel=0.03)
