"""A loss and a norm of 16 bits, as models in 16 bits have them, or of integers."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
READERS = {
    "loss": optadamw.adamw(0.1, skip_spikes={"of": "loss"}),
    "grad_norm": optadamw.adamw(0.1, skip_spikes=True),
    "grad_norm of a clip": optadamw.adamw(0.1, clip_global_norm=1.0, stats=True),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
@pytest.mark.parametrize("name", READERS)
def test_under_strict_promotion(name, dtype):
    tx, states = READERS[name], []
    for given in (jnp.asarray(2.0, dtype), jnp.float32(2.0)):
        argument = {name.split()[0]: given}
        with jax.numpy_dtype_promotion("strict"):
            states.append(tx.step(PARAMS, tx.init(PARAMS), PARAMS, **argument))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_norm_in_float16_meets_no_infinite_bound():
    tx = optadamw.adamw(0.1, skip_nonfinite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = {"grad_norm": jnp.float16(2.0)}
        _, state = jax.jit(tx.step)(PARAMS, tx.init(PARAMS), PARAMS, **given)
    assert int(state.step) == 1


def test_a_norm_in_float16_is_divided_by_a_large_loss_scale():
    clip = optadamw.clip_by_global_norm(1e-5)
    chain = optadamw.chain(clip, optadamw.scale_by_learning_rate(1.0))
    tx = optadamw.with_loss_scale(optadamw.with_stats(chain), 2.0**26)
    given = {"grad_norm": jnp.float16(6476.0)}
    _, state = tx.step(PARAMS, tx.init(PARAMS), PARAMS, **given)
    wanted = 6476 / 2.0**26
    assert float(optadamw.stats_of(state).grad_norm) == pytest.approx(wanted)
