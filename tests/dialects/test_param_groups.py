"""Parameter groups of PyTorch, timm and optimi."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.dialects import optimi, timm, torch
from tests.dialects.training import PARAMS, differ, same_trees, trained

GROUPED = {
    "torch": torch.AdamW,
    "timm": timm.AdamWLegacy,
    "timm nadamw": timm.NAdamW,
    "optimi": functools.partial(optimi.AdamW, lr=0.1),
}


@pytest.mark.parametrize("case", GROUPED)
def test_param_groups(case):
    call = functools.partial(GROUPED[case], lr=0.1)
    groups = [
        {"params": "*/bias", "weight_decay": 0.0},
        {"params": "norm/*", "lr": 0.5, "eps": 0.25},
        {"params": "*/*", "lr": 0.75},  # the first that matches counts
    ]
    found, _ = trained(call(groups))
    plain, _ = trained(call(lr=0.75))
    bias, _ = trained(call(weight_decay=0.0))
    norm, _ = trained(call(lr=0.5, eps=0.25))
    same_trees(found["dense"]["kernel"], plain["dense"]["kernel"])
    same_trees(found["dense"]["bias"], bias["dense"]["bias"])
    same_trees(found["norm"]["bias"], bias["norm"]["bias"])
    same_trees(found["norm"]["scale"], norm["norm"]["scale"])
    assert differ(found["norm"]["bias"], plain["norm"]["bias"])


def betas(case, b1, b2):
    """Both betas in a group: optimi ignores `betas` there."""
    return {"beta1": b1, "beta2": b2} if case == "optimi" else {"betas": (b1, b2)}


@pytest.mark.parametrize("case", GROUPED)
def test_betas_and_an_array_of_one_element_in_a_group(case):
    call = GROUPED[case]
    own = betas(case, 0.5, 0.75)
    group = {"params": "*/bias", "lr": jnp.full(1, 0.5), **own}
    found, _ = trained(call([group]))
    expected, _ = trained(call(betas=(0.5, 0.75), lr=0.5))
    for layer in ("dense", "norm"):
        np.testing.assert_allclose(
            found[layer]["bias"], expected[layer]["bias"], rtol=1e-6
        )
    single, _ = trained(call([{"params": "*/bias", **own}]))
    assert differ(single["norm"]["bias"], trained(call())[0]["norm"]["bias"])


@pytest.mark.parametrize("option", ["amsgrad", "maximize"])
def test_switches_in_a_group_of_torch(option):
    found, _ = trained(torch.AdamW([{"params": "*/bias", option: True}], lr=0.1), 6)
    expected, _ = trained(torch.AdamW(lr=0.1, **{option: True}), 6)
    plain, _ = trained(torch.AdamW(lr=0.1), 6)
    same_trees(found["norm"]["bias"], expected["norm"]["bias"])
    same_trees(found["norm"]["scale"], plain["norm"]["scale"])


@pytest.mark.parametrize("case", GROUPED)
@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ([], ValueError, "empty parameter list"),
        ([{"lr": 0.1}], ValueError, r"params\[0\].*'params'"),
        ([{"params": "*/bias", "moon": 1}], TypeError, r"params\[0\].*'moon'"),
        (
            [{"params": "*/bias", "learning_rate": 1.0}],
            TypeError,
            "learning_rate.*Near",
        ),
        (PARAMS, TypeError, r"tx.init\(params\)"),
        ([jnp.ones(2)], TypeError, r"tx.init\(params\)"),
        (jnp.ones(2), TypeError, r"tx.init\(params\)"),
        ({"a", "b"}, TypeError, "params"),
        (0.1, TypeError, "params"),  # the rate in the place of the parameters
        ([{"params": "*/bias", "lr": -1.0}], ValueError, "bias.*>= 0; got -1.0"),
        ([{"params": "*/bias", "betas": 0.9}], TypeError, "betas"),
    ],
)
def test_bad_param_groups(case, params, error, text):
    with pytest.raises(error, match=text):
        GROUPED[case](params)


@pytest.mark.parametrize("case", GROUPED)
def test_bad_betas_in_a_group(case):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        GROUPED[case]([{"params": "*/bias", **betas(case, 1.5, 0.9)}])


def test_betas_in_a_group_of_optimi_are_refused():
    """optimi accepts them there, and steps with those outside the group."""
    with pytest.raises(TypeError, match=r"params\[0\]` has the option 'betas', which"):
        optimi.AdamW([{"params": "*/bias", "betas": (0.5, 0.75)}], lr=0.1)
    with pytest.raises(TypeError, match="Near it") as error:
        optimi.AdamW([{"params": "*/bias", "beta": 0.5}], lr=0.1)
    assert "'beta1'" in str(error.value) and "'betas'" not in str(error.value)


@pytest.mark.filterwarnings("error")
def test_a_generator_of_parameters():
    """`model.parameters()` of those who come from PyTorch."""
    with pytest.raises(TypeError, match=r"tx.init\(params\)"):
        torch.AdamW(p for p in [jnp.ones(2)])


def test_a_group_of_no_parameters():
    with pytest.raises((TypeError, ValueError), match=r"params\[0\]"):
        torch.AdamW([{"params": [], "lr": 1.0}])


@pytest.mark.parametrize("case", GROUPED)
def test_a_group_without_a_match(case):
    tx = GROUPED[case]([{"params": "*/moon", "lr": 1.0}])
    with pytest.raises(ValueError, match=r"moon.*matches no parameter.*dense"):
        tx.init(PARAMS)


def test_a_group_of_nadamw_has_no_amsgrad():
    with pytest.raises(TypeError, match="amsgrad"):
        timm.NAdamW([{"params": "*/bias", "amsgrad": True}])


@pytest.mark.parametrize("groups", [None, [1], "a", [("*", 1, 2)]])
def test_groups_that_are_no_pairs(groups):
    with pytest.raises(TypeError, match="`groups` must be a mapping"):
        optadamw.param_groups(optadamw.adamw(0.1), groups)
