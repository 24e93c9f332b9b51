"""States that real packages saved, taken up here: the next ten calls are theirs.

`tests/peers/states` holds them, with the parameters of the packages' own ten calls
after. The transformations are our calls of the same names.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import interchange
from optadamw.dialects.files import files
from tests.interchange import states
from tests.peers import calls, low_bit, saved
from tests.peers.feed import feed
from tests.peers.streams import flatten

NAMES = saved.names()


WHOLE = sorted(set(NAMES) & set(states.READ))


@pytest.mark.parametrize("name", WHOLE)
def test_ten_more_calls_are_those_of_the_package(name, record_property):
    found = saved.load(name)
    assert found.row is not None
    tx = calls.OPENED[found.peer](found.row)
    dtype = jnp.dtype(found.row.dtype)
    params = {key: jnp.asarray(x).astype(dtype) for key, x in found.params.items()}
    state = states.READ[name](found, params, tx)
    order = list(found.params)  # JAX sorts the keys of a dict
    size = np.abs(flatten(found.params))
    worst = 0.0
    step = jax.jit(tx.step)
    grads = feed(found.row).grads[saved.CALLS : 2 * saved.CALLS]
    for tree, expected in zip(grads, found.after, strict=True):
        given = {key: jnp.asarray(tree[key]) for key in params}
        if state.loss_scale is not None:
            given = jax.tree.map(lambda g, s=state: g * s.loss_scale, given)
        params, state = step(given, state, params)
        ours = flatten({key: np.asarray(params[key], np.float32) for key in order})
        size = np.maximum(size, np.abs(expected))
        unit = 2.0 ** np.floor(np.log2(size)) * float(jnp.finfo(dtype).eps)
        worst = max(worst, float(np.max(np.abs(ours - expected) / unit)))
    record_property("ulps", worst)
    assert worst <= 10  # each side rounds by half a unit in each of ten calls


def test_every_saved_state_is_taken_up_or_has_its_reason():
    known = {*states.READ, *states.LOW_BIT, *states.APART, *states.WINDOWS}
    assert set(NAMES) == known | {"optax_multi_steps"}


def test_a_window_of_optax():
    found = saved.load("optax_multi_steps")
    params = {key: jnp.asarray(x) for key, x in found.params.items()}
    state = states.WINDOWED(found, params, None)
    assert (int(state.step), int(state.micro_step), float(state.weight)) == (2, 2, 2.0)
    first, second = feed(found.row).grads[saved.CALLS - 2 : saved.CALLS]
    for key in params:
        total = first[key].astype(np.float64) + second[key]
        np.testing.assert_allclose(state.accumulator[key], total, rtol=1e-6, atol=1e-6)
        assert state.mu[key].dtype == jnp.float32


@pytest.mark.parametrize("name", states.WINDOWS)
def test_windows_of_keras(name):
    found = saved.load(name)
    params = {key: jnp.asarray(x) for key, x in found.params.items()}
    named = dict(zip(found.about["paths"], found.state.values(), strict=True))
    state = interchange.from_keras(named, params, gradient_accumulation_steps=3)
    assert (int(state.step), int(state.micro_step), float(state.weight)) == (3, 1, 1.0)
    window = feed(found.row).grads[saved.CALLS - 1]
    for key, array in found.params.items():
        np.testing.assert_array_equal(state.accumulator[key], window[key])
        assert state.ema[key].shape == array.shape


@pytest.mark.parametrize("name", states.LOW_BIT)
def test_codes_decode_to_what_the_package_decoded(name):
    found = saved.load(name)
    entries = dict(found.state)
    keys = ("exp_avg", "exp_avg_sq")
    if found.peer == "bitsandbytes":
        decoded = [entries.pop(f"decoded{i}") for i in (1, 2)]
        call = interchange.from_bitsandbytes
    else:
        call = interchange.from_torchao
        decoded = []
        for key in keys:
            parts = dict(entries[key])
            decoded.append(parts.pop("decoded"))
            if name == "torchao_fp8":
                parts["codes"] = parts["codes"].view(jnp.float8_e4m3fn)
            entries[key] = parts
    whole = {"state": {0: entries}, "param_groups": [{"params": [0]}]}
    params = [jnp.asarray(found.params["kernel"])]
    state = call(whole, params)
    assert int(state.step) == low_bit.SAVED_AFTER
    for moment, expected in zip((state.mu, state.nu), decoded, strict=True):
        np.testing.assert_array_equal(
            np.asarray(moment[0]).reshape(-1), np.asarray(expected).reshape(-1)
        )


@pytest.mark.parametrize(("name", "text"), states.APART.items(), ids=states.APART)
def test_states_that_are_not_taken_up_say_why(name, text):
    found = saved.load(name)
    params: Any = {key: jnp.asarray(x) for key, x in found.params.items()}
    with pytest.raises((TypeError, ValueError), match=text):
        states.refused(name, found, params)


def test_files_of_the_packages():
    folder = saved.FOLDER
    for name in ("mlx_corrected", "mlx_schedule"):
        found = saved.load(name)
        params = {key: jnp.asarray(x) for key, x in found.params.items()}
        state = interchange.from_mlx(files.read(folder / f"{name}.safetensors"), params)
        again = interchange.from_mlx(found.state, params)
        jax.tree.map(np.testing.assert_array_equal, state, again)


def test_a_model_of_keras():
    pytest.importorskip("h5py", reason="h5py is not installed")
    found = saved.load("keras_jax_model")
    params = {key: jnp.asarray(x) for key, x in found.params.items()}
    store = files.read(saved.FOLDER / "keras_jax_model.keras")
    options: Any = {"amsgrad": True, "names": list(found.params)}
    state = interchange.from_keras(store, params, **options)
    again = interchange.from_keras(found.state, params, **options)
    jax.tree.map(np.testing.assert_array_equal, state, again)
