"""Flux's saved states."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import interchange
from optadamw.dialects.flux.powers import products, step_of
from tests.interchange import cases
from tests.interchange.saving import refused, saved_by, torch_state
from tests.support import trees


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "betas", [(0.9, 0.999), (0.95, 0.98), (0.0, 0.999), (0.5, 0.9)]
)
@pytest.mark.parametrize("step", [0, 1, 2, 10, 100, 700])
def test_the_step_is_found_in_the_powers(dtype, betas, step):
    powers = tuple(products(beta, step + 1, np.dtype(dtype))[-1] for beta in betas)
    assert step_of(powers, betas, np.dtype(dtype)) == step
    if step and betas[0]:
        with pytest.raises(ValueError, match="`betas` must be those"):
            step_of((powers[0], powers[1] * 0.999), betas, np.dtype(dtype))


@pytest.mark.parametrize("step", [20_000, 80_000])
def test_the_step_of_a_long_run(step):
    """The logarithm of the rounded product would be off by more than one."""
    powers = tuple(
        products(b, step + 1, np.dtype(np.float32))[-1] for b in (0.9, 0.999)
    )
    assert powers[0] < 1e-37
    assert step_of(powers, (0.9, 0.999), np.dtype(np.float32)) == step


def test_flux_when_the_powers_have_vanished():
    params, tx, state = torch_state(cases.tree())
    state = state._replace(step=jnp.int32(500_000))
    saved = interchange.to_flux(state, params, tx=tx)
    call = interchange.from_flux
    refused(ValueError, "too small to tell", call, saved, params, tx=tx)
    assert int(call(saved, params, tx=tx, step=500_000).step) == 500_000
    refused(ValueError, "betas of its AdamW", call, saved, params)
    refused(TypeError, "two numbers", call, saved, params, betas=(1.5, 0.9))
    refused(ValueError, "powers of the betas", interchange.to_flux, state, params)


def test_flux_by_its_own_formula():
    """Optimisers.jl's AdamW, transcribed; k steps there, k here, and back."""
    params, tx = cases.normal({"w": (4, 3), "b": (3,)}, jnp.float32, 0), cases.adamw()

    def steps(params: Any, saved: Any, first: int) -> Any:
        f = np.float32
        for i in range(first, first + 3):
            grads = cases.gradients(params, i)
            for name, x in params.items():
                m, v, powers = saved[name]
                g = np.asarray(grads[name])
                m = f(cases.B1) * m + (f(1) - f(cases.B1)) * g
                v = f(cases.B2) * v + (f(1) - f(cases.B2)) * g * g
                move = (
                    m / (1 - powers[0]) / (np.sqrt(v / (1 - powers[1])) + f(2.0**-20))
                )
                move = f(cases.RATE) * (move + f(cases.DECAY) * np.asarray(x))
                params = params | {name: jnp.asarray(np.asarray(x) - move)}
                powers = powers[0] * f(cases.B1), powers[1] * f(cases.B2)
                saved = saved | {name: (m, v, powers)}
        return params, saved

    start = {
        name: (np.zeros(x.shape, np.float32),) * 2
        + ((np.float32(cases.B1), np.float32(cases.B2)),)
        for name, x in params.items()
    }
    begun, saved = steps(params, start, 0)
    state = interchange.from_flux(saved, begun, tx=tx)
    assert int(state.step) == 3
    after, _ = cases.trained(tx, begun, 3, 3, state)
    whole, _ = steps(begun, saved, 3)
    assert cases.ulps(cases.leaves(after), cases.leaves(whole)) <= 4
    begun, state = cases.trained(tx, params, 3)
    after, _ = steps(begun, interchange.to_flux(state, params, tx=tx), 3)
    whole, _ = cases.trained(tx, params, 6)
    assert cases.ulps(cases.leaves(after), cases.leaves(whole)) <= 4


def test_flux_lists_and_frozen_parameters():
    saved, params, tx = saved_by("flux")
    listed = jax.tree.leaves(saved, is_leaf=lambda x: isinstance(x, tuple))
    state = cases.trained(tx, cases.tree(), 2)[1]
    names = ["dense/bias", "dense/kernel", "out/bias", "out/kernel", "scale", "void"]
    trees.assert_same_bits(
        interchange.from_flux(listed, params, tx=tx, names=names), state
    )
    listed[-2] = None
    call = interchange.from_flux
    refused(ValueError, "Leaf 'scale'.*has no state", call, listed, params, tx=tx)
    found = call(listed, params, tx=tx, missing="zeros")
    assert float(found.mu["scale"]) == 0
    saved["scale"] = (*saved["scale"][:2], (0.5, 0.5))
    refused(ValueError, "`betas` must be those", call, saved, params, tx=tx)
