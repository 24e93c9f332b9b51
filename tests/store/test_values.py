"""Transformations with stores print, compare, hash and pickle as values."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import blockwise, stochastic
from tests.store.runs import EIGHT, SIXTEEN, eight, nbytes, run, without_addresses

VALUES = {
    "blockwise()": blockwise(),
    "blockwise(block_size=16)": blockwise(block_size=16),
    "blockwise(min_size=0)": blockwise(min_size=0, rounding="stochastic"),
    "blockwise(keep='*/embedding')": blockwise(keep="*/embedding"),
    "blockwise(rounding='nearest')": blockwise(rounding="nearest"),
    "stochastic('bfloat16')": stochastic(),
    "stochastic('float16')": stochastic(jnp.float16),
}


@pytest.mark.parametrize(("spelled", "value"), VALUES.items(), ids=VALUES)
def test_forms_are_values(spelled, value):
    assert repr(value) == spelled
    names = {"blockwise": blockwise, "stochastic": stochastic}
    same = eval(spelled, names)
    for other in (same, copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value
        assert hash(other) == hash(value)
    assert sum(value == other for other in VALUES.values()) == 1


TRANSFORMATIONS = (
    "adamw(0.001, mu_dtype=blockwise(), nu_dtype=stochastic('bfloat16'))",
    "adamw(0.001, precision='compact')",
    "adamw(0.001, ema_decay=0.9, ema_dtype=stochastic('bfloat16'), seed=3)",
    "with_seed(adamw(0.001, mu_dtype=blockwise(min_size=0)), seed=7)",
    "skip_nonfinite(scale_by_adam(mu_dtype=blockwise(), nu_dtype=blockwise(keep='b')))",
    "chain(scale_by_adam(nu_dtype='bfloat16', b2=0.9), amsgrad_max(dtype='bfloat16'))",
)


@pytest.mark.parametrize("spelled", TRANSFORMATIONS)
def test_transformations_are_values(spelled):
    tx, same = (eval(spelled, vars(optadamw).copy()) for _ in range(2))
    again = eval(repr(tx), vars(optadamw).copy())
    for other in (same, again, copy.deepcopy(tx), pickle.loads(pickle.dumps(tx))):
        assert other == tx
        assert hash(other) == hash(tx)
        assert repr(other) == repr(tx)
    assert tx != optadamw.adamw(0.001)


def test_repr_is_the_call():
    tx = optadamw.adamw(0.001, mu_dtype=blockwise(keep="a"), precision="compact")
    assert repr(tx) == "adamw(0.001, mu_dtype=blockwise(keep='a'), precision='compact')"
    with_seed = optadamw.with_seed(eight(), 7)
    assert repr(with_seed).endswith("seed=7)")


@pytest.mark.parametrize("form", [blockwise(), SIXTEEN], ids=["8-bit", "16-bit"])
def test_inject_hyperparams(form):
    tx = optax.inject_hyperparams(optadamw.adamw)(
        learning_rate=1e-2,
        mu_dtype=form,
        nu_dtype=form,
        ema_decay=0.9,
        ema_dtype=SIXTEEN,
    )
    params = {"w": jnp.ones((64, 64))}
    grads = {"w": jnp.linspace(-1, 1, 4096).reshape(64, 64)}
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        _, state = update(grads, state, params)
    kept = state.inner_state
    assert kept.mu["w"].dtype == ("bfloat16" if form is SIXTEEN else "uint8")
    assert int(kept.step) == 3
    state.hyperparams["learning_rate"] = jnp.asarray(0.0)
    idle, state = update(grads, state, params)
    assert np.all(np.asarray(idle["w"]) == 0)
    plain = eight(form=form, ema_decay=0.9, ema_dtype=SIXTEEN)
    _, expected = run(plain, [grads] * 4, params)
    found = optadamw.dequantize(state.inner_state).nu["w"]
    assert np.mean(found == optadamw.dequantize(expected).nu["w"]) > 0.98


@pytest.mark.parametrize(
    "options",
    [
        {"mu_dtype": EIGHT, "nu_dtype": blockwise(), "amsgrad": True},
        {"mu_dtype": SIXTEEN, "nu_dtype": SIXTEEN, "ema_decay": 0.9},
        {"precision": "compact", "ema_decay": 0.9, "accumulate_steps": 2},
        {"precision": "mixed", "stats": True},
    ],
    ids=without_addresses,
)
def test_describe_tells_the_forms_and_the_bytes(options):
    params = {"w": jnp.ones((64, 96), jnp.bfloat16), "b": jnp.ones(50)}
    tx = optadamw.adamw(1e-3, **options)
    text, state = optadamw.describe(tx, params), tx.init(params)
    assert f"state {nbytes(state):,} bytes" in text
    (row,) = (line for line in text.splitlines() if line.startswith("w "))
    trees_of = [getattr(state, f) for f in optadamw.State._fields]
    own = nbytes([t["w"] for t in trees_of if isinstance(t, dict) and "w" in t])
    assert row.endswith(f" {own:,}")
    if state.mu_scales is not None:
        assert "mu 8-bit/32" in row
        assert "nu 8-bit/32" in row
    elif state.ema is not None:
        assert "mu bfloat16, nu bfloat16" in row
