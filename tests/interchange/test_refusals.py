"""Saved states that are refused, each with the words of its error."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optadamw import interchange
from tests.interchange import cases
from tests.interchange.saving import each_peer, refused, saved_by, torch_state
from tests.support import trees


@each_peer
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", ["first", "last"])
def test_numbers_that_are_not_finite(name, value, at):
    """Also in the last array of all: nothing is half loaded, as nothing is returned."""
    saved, params, tx = saved_by(name)
    arrays = [x for x in jax.tree.leaves(saved) if np.size(x) > 1]
    if name == "optax":
        mu = dict(saved[0].mu)
        mu["out"] = mu["out"] | {"kernel": mu["out"]["kernel"].at[0].set(value)}
        saved = (saved[0]._replace(mu=mu), *saved[1:])
    else:
        arrays[0 if at == "first" else -1][...] = value
    refused(
        ValueError,
        r"Leaf '(dense|out)/.*NaN or infinite",
        cases.PEERS[name].back,
        saved,
        params,
        tx=tx,
    )


@each_peer
def test_numbers_beyond_the_dtype_here(name):
    """1e300 is finite there, in float64, and would be another number in float32."""
    saved, params, tx = saved_by(name)
    saved = jax.tree.map(
        lambda x: np.full(np.shape(x), 1e300) if np.size(x) > 1 else x, saved
    )
    match = r"Leaf '.*numbers (above 3\.4e\+38|are NaN or infinite)"
    refused(ValueError, match, cases.PEERS[name].back, saved, params, tx=tx)


@each_peer
def test_a_second_moment_below_zero(name):
    saved, params, tx = saved_by(name)
    if name == "optax":
        saved = (saved[0]._replace(nu=jax.tree.map(jnp.negative, saved[0].nu)),)
    else:
        for array in jax.tree.leaves(saved):
            if np.size(array) > 1:
                array[...] = -1
    refused(ValueError, "mean of squares", cases.PEERS[name].back, saved, params, tx=tx)


@each_peer
def test_other_shapes_and_counts(name):
    saved, params, tx = saved_by(name)
    back = cases.PEERS[name].back
    other = dict(params, scale=jnp.zeros(2))
    refused(ValueError, "Leaf 'scale': .* shape", back, saved, other, tx=tx)
    more = dict(params, zulu=jnp.zeros(2))
    refused(ValueError, "zulu|parameters|variables|arrays", back, saved, more, tx=tx)
    fewer = {key: x for key, x in params.items() if key != "void"}
    refused(ValueError, "void|parameters|variables|arrays", back, saved, fewer, tx=tx)


@each_peer
def test_another_kind_of_thing(name):
    back, params = cases.PEERS[name].back, [jnp.zeros(2)]
    for wrong in (None, 3, "opt.pt", [], {}, {"state": 1}, [1.0, 2.0], object()):
        refused((ValueError, TypeError), "saved|state|arrays", back, wrong, params)


@each_peer
def test_the_state_of_another_library(name):
    """Each is refused by every other, or read as what it is."""
    for other in cases.PEERS:
        saved, params, _ = saved_by(other)
        alike = ({"torch", "timm", "torchao"}, {"keras", "tensorflow"})
        if name != other and not any({name, other} <= family for family in alike):
            refused((ValueError, TypeError), ".", cases.PEERS[name].back, saved, params)


@each_peer
def test_parameters_that_are_none(name):
    saved, _, tx = saved_by(name)
    back = cases.PEERS[name].back
    refused(ValueError, "It has no leaf", back, saved, {}, tx=tx)
    refused(TypeError, "must be an array of numbers", back, saved, {"a": "b"}, tx=tx)
    refused(TypeError, "floating", back, saved, {"a": jnp.zeros(2, int)}, tx=tx)


@each_peer
def test_arguments_of_another_kind(name):
    saved, params, tx = saved_by(name)
    back, to = cases.PEERS[name].back, cases.PEERS[name].to
    state = tx.init(params)
    refused(TypeError, "`tx` must be", back, saved, params, tx=optax.adamw(1.0))
    refused(TypeError, "`layout` must be", back, saved, params, layout="T")
    refused(ValueError, "`missing` must be", back, saved, params, missing="zero")
    refused(TypeError, "`drop` must be", back, saved, params, drop="ema")
    refused(ValueError, "`drop` must be", back, saved, params, drop=("emma",))
    refused(ValueError, "`afresh` must be", back, saved, params, afresh=("step",))
    refused(TypeError, "`tx` must be", to, state, params, tx=3)
    refused(TypeError, "`layout` must be", to, state, params, tx=tx, layout=3)
    refused(ValueError, "`drop` must be", to, state, params, tx=tx, drop=("step",))
    refused(ValueError, "`state` must be", to, {"mu": 1}, params, tx=tx)
    refused(ValueError, "structure", to, state, {"x": jnp.zeros(2)}, tx=tx)


def test_steps_that_differ():
    saved, params, tx = saved_by("torch")
    saved["state"][1]["step"] = np.float32(5)
    refused(
        ValueError,
        r"different numbers of steps .*2: parameter 0, parameter 2, parameter 3 and 2 "
        r"more; 5: parameter 1\)",
        interchange.from_torch,
        saved,
        params,
        tx=tx,
    )


@pytest.mark.parametrize("step", [-1, 2.5, 2.0**31, math.nan, "x", None])
def test_steps_that_are_none(step):
    saved, params, _ = saved_by("torch")
    for entries in saved["state"].values():
        entries["step"] = step
    refused((ValueError, TypeError), "step", interchange.from_torch, saved, params)


@pytest.mark.parametrize("step", [7, 7.0, np.int64(7), np.float32(7), np.array([7])])
def test_steps_of_every_kind(step):
    saved, params, _ = saved_by("torch")
    for entries in saved["state"].values():
        entries["step"] = step
    assert int(interchange.from_torch(saved, params).step) == 7


def test_a_step_beyond_what_pytorch_counts():
    params, tx, state = torch_state(cases.tree())
    state = state._replace(step=jnp.int32(2**24 + 1))
    refused(ValueError, "16,777,217 steps", interchange.to_torch, state, params, tx=tx)


WRONG_ENTRIES = {
    "SGD": ("momentum_buffer", "SGD or Muon"),
    "Adamax": ("exp_inf", "Adamax"),
    "NAdam": ("mu_product", "NAdam"),
    "optimi": ("kahan_comp", "from_optimi"),
    "bitsandbytes": ("state1", "from_bitsandbytes"),
    "something": ("surprise", "it has 'surprise'"),
}


@pytest.mark.parametrize(("key", "text"), WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
def test_states_of_other_optimizers(key, text):
    saved, params, _ = saved_by("torch")
    saved["state"][0][key] = np.zeros(3)
    refused(ValueError, text, interchange.from_torch, saved, params)
    del saved["state"][0][key]
    del saved["state"][0]["exp_avg_sq"]
    refused(ValueError, "lacks 'exp_avg_sq'", interchange.from_torch, saved, params)


def test_state_dicts_that_contradict_themselves():
    saved, params, _ = saved_by("torch")
    group = saved["param_groups"][0]
    for change, text in (
        ({"params": [0, 1, 2, 3, 4, 4]}, "twice in the groups"),
        ({"params": [0, 1, 2, 3]}, "is in none of its groups"),
        ({"params": "abc"}, "must be a list"),
        ({"params": [[0], 1, 2, 3, 4]}, r"an index or a name; got \[0\]"),
        ({"param_names": ["a"]}, "'param_names'"),
    ):
        broken = {**saved, "param_groups": [{**group, **change}]}
        refused((ValueError, TypeError), text, interchange.from_torch, broken, params)
    broken = {**saved, "state": {**saved["state"], 0: 3}}
    refused(TypeError, r"\['state'\]\[0\]", interchange.from_torch, broken, params)


def test_integer_arrays_and_texts():
    saved, params, _ = saved_by("torch")
    for value, text in (
        (np.zeros(3, int), "must be floating; got int64"),
        (np.array(["a"] * 3), "array of numbers"),
        (None, "lacks 'exp_avg'"),
        ([1.0, [2.0]], "array of numbers"),
        (object(), "array of numbers"),
        (np.zeros(3, complex), "complex128, the parameter float32. Both must"),
    ):
        broken = copy.deepcopy(saved)
        broken["state"][0]["exp_avg"] = value
        refused((TypeError, ValueError), text, interchange.from_torch, broken, params)


def test_lists_of_numbers_are_arrays():
    saved, params, tx = saved_by("torch")
    for entries in saved["state"].values():
        for key, value in entries.items():
            entries[key] = np.asarray(value).tolist() if np.size(value) else value
    state = cases.trained(tx, cases.tree(), 2)[1]
    trees.assert_same_bits(interchange.from_torch(saved, params, tx=tx), state)


def test_a_layout_that_makes_no_array():
    saved, params, _ = saved_by("torch")
    state = interchange.from_torch(saved, params)
    refused(
        TypeError,
        "Leaf 'dense/bias': `layout` returned None for it",
        interchange.from_torch,
        saved,
        params,
        layout=lambda path, x: None,
    )
    refused(
        TypeError,
        "`layout` returned None",
        interchange.to_flux,
        state,
        params,
        betas=(0.5, 0.5),
        layout=lambda path, x: None,
    )
    refused(
        ValueError,
        r"has shape \(3,\) \(\(1, 3\) by `layout`\)",
        interchange.from_torch,
        saved,
        params,
        layout=lambda path, x: x[None],
    )


def test_traced_parameters():
    saved, params, tx = saved_by("torch")
    with pytest.raises(TypeError, match="Convert outside of jit"):
        jax.jit(lambda p: interchange.from_torch(saved, p, tx=tx))(params)
