"""Parameter groups and moments of PyTorch's saved states."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import interchange
from tests.interchange import cases
from tests.interchange.saving import PAIR, STATE_DICTS, refused, torch_state
from tests.support import trees


def test_groups_follow_mask_and_schedule():
    params = cases.tree()
    tx = optadamw.adamw(lambda t: 1.0 / (1 + t), weight_decay=0.5, mask="*/kernel")
    params, state = cases.trained(tx, params, 3)
    saved = interchange.to_torch(state, params, tx=tx)
    first, second = saved["param_groups"]
    assert (first["weight_decay"], second["weight_decay"]) == (0.0, 0.5)
    assert first["lr"] == second["lr"] == 0.25
    assert first["params"] == [0, 1, 2, 3] and second["params"] == [4, 5]
    names = ["dense/bias", "out/bias", "scale", "void", "dense/kernel", "out/kernel"]
    found = interchange.from_torch(saved, params, tx=tx, names=names)
    trees.assert_same_bits(found, state)


def test_groups_as_the_caller_has_them():
    params, _, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    groups = [{"lr": 1.0, "params": ["b"]}, {"lr": 2.0, "params": ["a"]}]
    saved = interchange.to_torch(state, params, groups=groups)
    assert saved["param_groups"] == [
        {"lr": 1.0, "params": [0]},
        {"lr": 2.0, "params": [1]},
    ]
    np.testing.assert_array_equal(saved["state"][0]["exp_avg"], state.mu["b"])
    saved = interchange.to_torch(state, params, groups=[{"lr": 3.0}])
    assert saved["param_groups"] == [{"lr": 3.0, "params": [0, 1]}]
    call = interchange.to_torch
    refused(ValueError, "are not known", call, state, params)
    refused(TypeError, "`groups` must be", call, state, params, groups="a")
    refused(TypeError, "a list of paths", call, state, params, groups=[{}, {}])
    refused(ValueError, "lack 'b'", call, state, params, groups=[{"params": ["a"]}])
    twice = [{"params": ["a", "a", "b"]}]
    refused(ValueError, "each in one group", call, state, params, groups=twice)


PECULIAR = {
    "eps_mode": {"eps_mode": "hat"},
    "nesterov": {"nesterov": True},
    "eps_root": {"eps_root": 1e-6},
    "bias_correction": {"bias_correction": False},
    "caution": {"caution": True},
    "weight_decay_mode": {"weight_decay_mode": "independent"},
}


@pytest.mark.parametrize(("what", "options"), PECULIAR.items(), ids=PECULIAR)
@pytest.mark.parametrize("name", STATE_DICTS)
def test_numbers_that_pytorch_would_use_otherwise(what, options, name):
    params, tx, state = torch_state(cases.tree(), **options)
    call = cases.PEERS[name].to
    refused(ValueError, f"`tx` has {what}", call, state, params, tx=tx)
    call(state, params, tx=tx, groups=[{"lr": 1.0, "beta1": 0.9, "beta2": 0.99}])


def test_groups_of_tx_with_numbers_of_their_own():
    params, tx, state = torch_state(
        cases.tree(), groups={"*/bias": {"learning_rate": 0.5, "weight_decay": 0.0}}
    )
    saved = interchange.to_torch(state, params, tx=tx)
    assert [g["lr"] for g in saved["param_groups"]] == [0.5, cases.RATE]
    names = ["dense/bias", "out/bias", "dense/kernel", "out/kernel", "scale", "void"]
    found = interchange.from_torch(saved, params, tx=tx, names=names)
    trees.assert_same_bits(found, state)


def test_moments_in_float16_are_taken_without_a_warning():
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    saved = interchange.to_torch(state, params, tx=tx)
    for entries in saved["state"].values():
        entries |= {
            key: entries[key].astype(np.float16) for key in ("exp_avg", "exp_avg_sq")
        }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = interchange.from_torch(saved, params, tx=tx)
    expected = np.asarray(state.mu["a"]).astype(np.float16)
    np.testing.assert_array_equal(found.mu["a"], expected)


def test_torch_refuses_radam():
    """Its entries are those of Adam; its groups have other options."""
    params, tx, state = torch_state(cases.normal(PAIR, jnp.float32, 0))
    saved = interchange.to_torch(state, params, tx=tx, names=["a", "b"])
    interchange.from_torch(saved, params, tx=tx)
    for group in saved["param_groups"]:
        group |= {"decoupled_weight_decay": True}
        group.pop("amsgrad", None)
    refused(ValueError, "torch.optim.RAdam", interchange.from_torch, saved, params)
    for entries in saved["state"].values():
        entries["mu_product"] = 1.0
    refused(ValueError, "torch.optim.NAdam", interchange.from_torch, saved, params)
