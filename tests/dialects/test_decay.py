"""Parameters are chosen for decay in the words of each peer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optadamw.dialects import keras, tensorflow, tensorflow_addons
from optadamw.dialects import optax as optax_peer
from tests.dialects.training import PARAMS, differ, rates, same_trees, trained


def undecayed(tx):
    """Paths of the parameters that zero gradients leave alone."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    after, _ = tx.step(zeros, tx.init(PARAMS), PARAMS)
    found = jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: bool((a == b).all()), after, PARAMS)
    )
    return {"/".join(key.key for key in path) for path, kept in found if kept}


BIASES = {"dense/bias", "norm/bias"}
EXCLUDING = (
    (keras.AdamW, keras.exclude_from_weight_decay),
    (tensorflow.AdamW, tensorflow.exclude_from_weight_decay),
)


@pytest.mark.parametrize(("call", "exclude"), EXCLUDING)
def test_exclude_from_weight_decay(call, exclude):
    tx = call(0.1, 0.5)
    assert undecayed(tx) == set()
    assert undecayed(exclude(tx, var_names=["bias"])) == BIASES
    assert undecayed(exclude(tx, var_names=["^norm", "kernel$"])) == {
        "norm/scale", "norm/bias", "dense/kernel",
    }  # fmt: skip
    assert undecayed(exclude(tx, var_list=["dense/bias"])) == {"dense/bias"}
    assert undecayed(exclude(tx, ["dense/bias"], ["scale"])) == {
        "dense/bias",
        "norm/scale",
    }
    assert undecayed(tx) == set()  # a value: the first is as it was


@pytest.mark.parametrize(("call", "exclude"), EXCLUDING)
def test_a_list_is_of_exact_paths(call, exclude):
    tx = exclude(call(0.1, 0.5), var_list=["dense/bia."])
    with pytest.raises(ValueError, match="dense/bias"):
        tx.init(PARAMS)


@pytest.mark.parametrize(("call", "exclude"), EXCLUDING)
def test_a_second_exclusion_replaces_the_first(call, exclude):
    first = exclude(call(0.1, 0.5), var_names=["bias"])
    assert undecayed(exclude(first, var_names=["scale"])) == {"norm/scale"}


@pytest.mark.parametrize(("call", "exclude"), EXCLUDING)
@pytest.mark.parametrize("choice", [{"var_names": ["moon"]}, {"var_list": ["bias"]}])
def test_an_exclusion_without_a_match_names_near_paths(call, exclude, choice):
    tx = exclude(call(0.1, 0.5), **choice)
    words = rf"`{next(iter(choice))}`: .* matches no parameter. Paths near.*/"
    with pytest.raises(ValueError, match=words):
        tx.init(PARAMS)


@pytest.mark.parametrize("last", [["bias"], ["^bias$"], ["ias", "nothing"]])
def test_keras_searches_the_last_name_alone(last):
    excluded = functools.partial(
        keras.exclude_from_weight_decay, keras.AdamW(0.1, 0.5), bug_compatible=True
    )
    assert undecayed(excluded(var_names=last)) == BIASES
    assert undecayed(excluded(var_names=["dense"])) == set()
    assert undecayed(excluded(var_names=["dense/bias"])) == set()


@pytest.mark.parametrize(("call", "exclude"), EXCLUDING)
@pytest.mark.parametrize(
    ("choice", "error", "text"),
    [
        ({}, ValueError, "var_list.*var_names"),
        ({"var_names": "bias"}, TypeError, "list of strings"),
        ({"var_list": "dense/bias"}, TypeError, "list of strings"),
        ({"var_names": []}, (TypeError, ValueError), "var_names"),
        ({"var_names": ["("]}, ValueError, "regular expressions"),
        ({"var_names": [None]}, TypeError, "var_names"),
        ({"var_list": [jnp.ones(2)]}, TypeError, "no identity"),
    ],
)
def test_a_bad_exclusion(call, exclude, choice, error, text):
    with pytest.raises(error, match=text):
        exclude(call(0.1, 0.5), **choice)


def test_an_exclusion_from_what_is_no_optimizer():
    with pytest.raises(TypeError, match="optimizer"):
        keras.exclude_from_weight_decay(optax.adamw(0.1), var_names=["bias"])
    with pytest.raises(ValueError, match="no weight decay"):
        keras.exclude_from_weight_decay(optax_peer.amsgrad(0.1), var_names=["bias"])


def test_an_exclusion_inside_a_loss_scale_and_around_an_accumulation():
    inner = keras.exclude_from_weight_decay(keras.AdamW(0.1, 0.5), var_names=["bias"])
    assert undecayed(keras.LossScaleOptimizer(inner)) == BIASES
    outer = keras.LossScaleOptimizer(keras.AdamW(0.1, 0.5))
    assert (
        undecayed(keras.exclude_from_weight_decay(outer, var_names=["bias"])) == BIASES
    )
    every = keras.AdamW(
        0.1, 0.5, use_ema=True, gradient_accumulation_steps=2, bug_compatible=True
    )
    every = keras.exclude_from_weight_decay(every, var_names=["bias"])
    params, _ = trained(every, 2, grads=lambda i: jax.tree.map(jnp.zeros_like, PARAMS))
    same_trees(params["norm"]["bias"], PARAMS["norm"]["bias"])
    assert differ(params["norm"]["scale"], PARAMS["norm"]["scale"])


def test_the_list_of_addons_goes_before_its_exclusion():
    call = functools.partial(tensorflow_addons.AdamW, 0.5)
    kernel, everything = "dense/kernel", BIASES | {"dense/kernel", "norm/scale"}
    assert undecayed(call()) == set()
    assert undecayed(call(exclude_from_weight_decay=["bias"])) == BIASES
    assert undecayed(call(decay_var_list=[kernel])) == everything - {kernel}
    both = call(decay_var_list=[kernel], exclude_from_weight_decay=["kernel"])
    assert undecayed(both) == everything - {kernel}
    with pytest.raises((TypeError, ValueError), match="decay_var_list"):
        call(decay_var_list=[])
    for choice in (
        {"decay_var_list": ["moon"]},
        {"exclude_from_weight_decay": ["moon"]},
    ):
        words = rf"`{next(iter(choice))}`: .* matches no parameter"
        with pytest.raises(ValueError, match=words):
            call(**choice).init(PARAMS)


def test_the_decay_of_addons_is_not_times_the_rate():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for rate in (1e-3, 7.0):
        tx = tensorflow_addons.AdamW(0.5, rate)
        after, _ = tx.step(zeros, tx.init(PARAMS), PARAMS)
        same_trees(after, jax.tree.map(lambda p: 0.5 * p, PARAMS))


def test_the_decay_argument_of_addons_divides_the_rate():
    tx = tensorflow_addons.AdamW(0.0, 1.0, decay=0.5)
    found = rates(tx, 4, 1)
    np.testing.assert_allclose(found, [1 / (1 + 0.5 * i) for i in range(4)], rtol=1e-4)


@pytest.mark.parametrize("none", [0, 0.0])
def test_no_decay_of_the_rate_of_addons_leaves_it_a_number(none):
    constant = tensorflow_addons.AdamW(0.1, 1e-3)
    assert tensorflow_addons.AdamW(0.1, 1e-3, decay=none) == constant
