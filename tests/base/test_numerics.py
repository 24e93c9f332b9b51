"""Formulas of numerics that authors of rules call by themselves."""

import jax
import jax.numpy as jnp
import pytest

from optadamw.custom import one_minus_power


@pytest.mark.parametrize("exponent", [1, 3, 1.0, jnp.int32(3), jnp.float32(2)], ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9, 0.999])
def test_one_minus_power_of_any_numbers(beta, exponent):
    """Also of the step's number, which is an int32: it was wrong for a plain beta."""
    exact = 1 - beta ** float(exponent)
    for form in (beta, jnp.float32(beta)):
        for call in (one_minus_power, jax.jit(one_minus_power)):
            found = call(form, exponent)
            assert jnp.issubdtype(found.dtype, jnp.floating)
            assert float(found) == pytest.approx(exact, rel=5e-5)
    assert float(one_minus_power(beta, exponent)) == pytest.approx(exact, rel=4e-7)
