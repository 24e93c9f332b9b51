"""Learning rates that are arrays, and complex parameters, as PyTorch takes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import optimi, timm, torch
from tests.dialects.training import PARAMS, gradients, trained


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("kind", [np.float32, jnp.float32])
def test_a_rate_of_torch_may_be_an_array_of_one_element(shape, kind):
    whole = kind(np.full(shape, 0.125)) if shape else kind(0.125)
    for call in (torch.AdamW, timm.AdamWLegacy, timm.NAdamW, optimi.AdamW):
        found, _ = trained(call(lr=jnp.asarray(whole)))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6),
            found,
            trained(call(lr=0.125))[0],
        )


def test_a_rate_of_torch_may_be_traced():
    @jax.jit
    def step(rate, beta):
        tx = torch.AdamW(lr=rate, betas=(beta, jnp.float32(0.75)))
        return tx.step(gradients(), tx.init(PARAMS), PARAMS)[0]

    expected = torch.AdamW(lr=0.125, betas=(0.5, 0.75))
    expected, _ = expected.step(gradients(), expected.init(PARAMS), PARAMS)
    for shape in ((), (1,)):
        found = step(jnp.full(shape, 0.125), jnp.full(shape, 0.5))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected
        )


@pytest.mark.parametrize(
    "call",
    [torch.AdamW, timm.AdamWLegacy, functools.partial(optimi.AdamW)],
    ids=["torch", "timm", "optimi"],
)
def test_an_array_of_more_elements_is_no_rate(call):
    for shape in ((2,), (0,), (2, 1)):
        with pytest.raises(ValueError, match="1-element"):
            call(lr=jnp.ones(shape))


def test_an_array_of_one_element_and_two_axes():
    torch.AdamW(lr=jnp.full((1, 1), 0.125))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_complex_parameters_of_torch_are_two_reals(amsgrad):
    params = {"w": jnp.array([1 + 2j, -3 + 0.5j, 0.25 - 1j], jnp.complex64)}
    tx = torch.AdamW(lr=0.1, betas=(0.9, 0.5), amsgrad=amsgrad, weight_decay=0.25)
    grads = [
        {"w": jnp.array([2 - 1j, 0.1 + 5j, -1j], jnp.complex64) * (1 + 0.5j) ** i}
        for i in range(6)
    ]
    real = {"r": params["w"].real, "i": params["w"].imag}
    state, apart = tx.init(params), tx.init(real)
    for g in grads:
        params, state = jax.jit(tx.step)(g, state, params)
        parts = {"r": g["w"].real, "i": g["w"].imag}
        real, apart = jax.jit(tx.step)(parts, apart, real)
    np.testing.assert_allclose(params["w"].real, real["r"], rtol=1e-6)
    np.testing.assert_allclose(params["w"].imag, real["i"], rtol=1e-6)
