"""Groups of `tx` that differ, for libraries with one number for all parameters."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import checkpoint, interchange
from optadamw.dialects import timm
from tests.interchange.files import convert

PARAMS = {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)}
NAMES = ["kernel", "bias"]


def trained(**options):
    """The state after three steps of a transformation whose group "bias" differs."""
    tx = optadamw.adamw(1e-3, **options)
    params, state = PARAMS, tx.init(PARAMS)
    step = jax.jit(tx.step)
    for _ in range(3):
        params, state = step(jax.tree.map(jnp.ones_like, params), state, params)
    return tx, state


def test_one_rate_for_all():
    """The rate of the first group had been written for all parameters."""
    tx, state = trained(groups={"bias": {"learning_rate": 5e-3}})
    for to, names in ((interchange.to_keras, NAMES), (interchange.to_mlx, None)):
        with pytest.raises(ValueError, match=r"rate 0.005 for 'bias' and 0.001 for"):
            to(state, PARAMS, tx=tx, names=names)
        to(state, PARAMS, tx=tx, names=names, learning_rate=1e-3)
    tx, state = trained(groups={"bias": {"learning_rate": lambda step: 1e-3}})
    with pytest.raises(ValueError, match="has one rate for all"):
        interchange.to_keras(state, PARAMS, tx=tx, names=NAMES)


@pytest.mark.parametrize(
    "group",
    [{"learning_rate": jnp.float32(1e-3), "b1": 0.5}, {"freeze": True}],
    ids=["own", "frozen"],
)
def test_the_rate_of_all_that_are_trained(group):
    tx, state = trained(groups={"bias": group})
    assert interchange.to_mlx(state, PARAMS, tx=tx)["learning_rate"] == np.float32(1e-3)
    stored = interchange.to_keras(state, PARAMS, tx=tx, names=NAMES)
    assert stored["1"] == np.float32(1e-3)


def test_flux_keeps_the_powers_of_each_parameters_betas():
    tx, state = trained(groups={"bias": {"b1": 0.5}})
    saved = interchange.to_flux(state, PARAMS, tx=tx)
    assert saved["kernel"][2][0] == pytest.approx(0.9**4, rel=1e-6)
    assert saved["bias"][2][0] == pytest.approx(0.5**4, rel=1e-6)
    with pytest.raises(ValueError, match=r"no pair tells the step of all. Pass step="):
        interchange.from_flux(saved, PARAMS, tx=tx)
    assert int(interchange.from_flux(saved, PARAMS, tx=tx, step=3).step) == 3


def test_given_groups_have_the_sign_of_tx():
    tx, state = trained(maximize=True)
    for one in ({"lr": 1e-3}, {"lr": 1e-3, "maximize": False}):
        with pytest.raises(ValueError, match=r"`tx` maximizes by .* Give the group"):
            interchange.to_torch(state, PARAMS, tx=tx, groups=[one])
    groups = [{"lr": 1e-3, "maximize": True}]
    assert interchange.to_torch(state, PARAMS, tx=tx, groups=groups)
    tx, state = trained()
    with pytest.raises(ValueError, match=r"`tx` minimizes by"):
        interchange.to_torch(state, PARAMS, tx=tx, groups=groups)


def test_the_maximum_of_some_parameters(tmp_path, capsys):
    tx, state = trained(groups={"bias": {"amsgrad": "raw"}})
    with pytest.raises(ValueError, match="not for 'kernel', and Keras takes it for al"):
        interchange.to_keras(state, PARAMS, tx=tx, names=NAMES)
    found = interchange.to_torch(state, PARAMS, tx=tx, names=NAMES)
    assert [group["amsgrad"] for group in found["param_groups"]] == [False, True]
    checkpoint.save(tmp_path / "own.npz", tx, state, PARAMS)
    words = ("optadamw", tmp_path / "own.npz", "--to", "tensorflow")
    assert convert(*words, "--out", tmp_path / "out.npz") == 1
    assert "keep different numbers in `nu_max`" in capsys.readouterr().err


MOMENTS = {"exp_avg": np.ones(3, np.float32), "exp_avg_sq": np.ones(3, np.float32)}
WARNED = {
    "clipped there": ({"clipping_threshold": 1.0}, {}, "clip_update_rms=1, where `tx`"),
    "clipped here": (
        {"clipping_threshold": None},
        {"clip_update_rms": 1.0},
        "clip_update_rms=None, where `tx` has 1 ",
    ),
    "peak": (
        {"decouple_lr": True, "max_lr": 0.1},
        {"weight_decay_mode": "schedule", "max_learning_rate": 0.01},
        "max_learning_rate=0.1, where `tx` has 0.01",
    ),
}


@pytest.mark.parametrize(("there", "here", "text"), WARNED.values(), ids=WARNED)
def test_options_of_timm_and_optimi_that_differ(there, here, text):
    group = {"lr": 1e-3, "weight_decay": 1e-4, "params": [0], **there}
    saved = {"state": {0: {"step": 3.0, **MOMENTS}}, "param_groups": [group]}
    tx = optadamw.adamw(1e-3, weight_decay=1e-4, **here)
    with pytest.warns(UserWarning, match="other hyperparameters") as caught:
        timm.from_timm(saved, [jnp.ones(3)], tx=tx)
    assert text in str(caught[0].message)
    same = {"clipping_threshold": here.get("clip_update_rms", 1.0), "max_lr": 0.01}
    group |= {key: value for key, value in same.items() if key in there}
    equal = optadamw.adamw(
        1e-3, weight_decay=1e-4, **(here or {"clip_update_rms": 1.0})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timm.from_timm(saved, [jnp.ones(3)], tx=equal)


def test_mlx_has_empty_dicts_for_modules_that_are_not_trained():
    """MLX makes new moments of zeros for a dict where it has a list."""
    params = {"layers": [{}, {"weight": jnp.ones(2)}, {}, {"weight": jnp.ones(2)}]}
    tx = optadamw.adamw(1e-3)
    saved = interchange.to_mlx(tx.init(params), params, tx=tx)
    assert [list(layer) for layer in saved["layers"]] == [[], ["weight"]] * 2
    assert int(interchange.from_mlx(saved, params, tx=tx).step) == 0
    far = {"layers": {"99999999": jnp.ones(2)}}
    assert list(interchange.to_mlx(tx.init(far), far, tx=tx)["layers"]) == ["99999999"]
