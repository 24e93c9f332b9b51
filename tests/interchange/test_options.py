"""Options of a transformation go into the groups of a state dict, peer by peer."""

import jax.numpy as jnp
import pytest

from optadamw import interchange
from optadamw.dialects import optimi, timm, torch
from optadamw.dialects.files import files
from tests.interchange import cases
from tests.interchange.files import NAMES, convert, prepared

PARAMS = {"w": jnp.ones(2), "bias": jnp.ones(1)}
BIAS = [{"params": "bias", "weight_decay": 0.0}]


def options(peer, tx):
    to = getattr(interchange, f"to_{peer}")
    saved = to(tx.init(PARAMS), PARAMS, tx=tx)
    return saved["param_groups"]


def test_timm_takes_its_own_options():
    tx = timm.AdamWLegacy(
        BIAS, lr=0.1, caution=True, corrected_weight_decay=True, max_lr=0.5
    )
    bias, rest = options("timm", tx)
    assert rest["caution"] and rest["corrected_weight_decay"]
    assert (rest["max_lr_snapshot"], rest["lr"], rest["amsgrad"]) == (0.5, 0.1, False)
    assert (bias["weight_decay"], rest["weight_decay"]) == (0.0, 0.01)
    (group,) = options("timm", timm.NAdamW(lr=0.1))
    assert "amsgrad" not in group and not group["caution"]


def test_optimi_takes_a_decoupled_decay():
    tx = optimi.AdamW(lr=0.1, decouple_lr=True, max_lr=0.4, weight_decay=1e-4)
    (group,) = options("optimi", tx)
    assert (group["decouple_lr"], group["max_lr"]) == (True, 0.4)
    tx = optimi.AdamW(lr=0.25, decouple_lr=True, weight_decay=1e-4)
    assert options("optimi", tx)[0]["max_lr"] == 0.25
    assert not options("optimi", optimi.AdamW(lr=0.1))[0]["decouple_lr"]


def test_optimi_groups_are_made_whole():
    tx = optimi.AdamW(lr=0.1)
    state = tx.init(PARAMS)
    given = [{"lr": 0.3, "beta1": 0.9, "beta2": 0.99}]
    (group,) = interchange.to_optimi(state, PARAMS, groups=given)["param_groups"]
    assert group["setup"] and group["lr"] == 0.3 and group["triton"] is False
    with pytest.raises(ValueError, match="lack 'beta2'"):
        interchange.to_optimi(state, PARAMS, groups=[{"lr": 0.3, "beta1": 0.9}])


@pytest.mark.parametrize(
    ("peer", "tx", "what"),
    [
        ("torch", timm.NAdamW(lr=0.1), "nesterov='current'"),
        ("torch", timm.AdamWLegacy(lr=0.1, caution=True), "caution=True"),
        (
            "torch",
            timm.AdamWLegacy(lr=0.1, corrected_weight_decay=True),
            "weight_decay_mode='corrected'",
        ),
        (
            "timm",
            optimi.AdamW(lr=0.1, decouple_lr=True, weight_decay=1e-4),
            "weight_decay_mode='schedule'",
        ),
        ("optimi", timm.AdamWLegacy(lr=0.1, caution=True), "caution=True"),
    ],
)
def test_what_a_peer_cannot_follow_is_refused(peer, tx, what):
    with pytest.raises(ValueError, match=f"`tx` has {what} .* cannot follow"):
        options(peer, tx)


def test_what_every_peer_follows():
    tx = torch.AdamW(BIAS, lr=0.1, betas=(0.8, 0.9), eps=1e-3, maximize=True)
    for peer in ("torch", "timm"):
        bias, rest = options(peer, tx)
        assert rest["betas"] == (0.8, 0.9) and rest["maximize"] and rest["eps"] == 1e-3
        assert bias["weight_decay"] == 0.0


def test_options_that_groups_would_lose_are_refused(tmp_path, capsys):
    """`load_state_dict` would switch them off; another library has none to lose."""
    _, params, _ = prepared(tmp_path)
    tx = cases.adamw(caution=True)
    saved = interchange.to_timm(tx.init(params), params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    words = ("timm", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors")
    out = ("--out", tmp_path / "out.npz")
    for target in ("timm", "torch"):
        assert convert(*words, "--to", target, *out) == 1
        error = capsys.readouterr().err
        assert "caution=True" in error and f"to_{target}" in error
        assert not (tmp_path / "out.npz").exists()
    assert convert(*words, "--to", "mlx", *out) == 0
    tx = cases.adamw(weight_decay_mode="schedule")
    saved = interchange.to_optimi(tx.init(params), params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    for target in ("optimi", "torch"):
        assert convert("optimi", *words[1:], "--to", target, *out, "--force") == 1
        error = capsys.readouterr().err
        assert "decouple_lr=True" in error and "--weight-decay gives" in error
        given = ("--to", target, *out, "--force", "--weight-decay", 1e-3)
        assert convert("optimi", *words[1:], *given) == 0
    saved["param_groups"][0]["weight_decay"] = 0.0
    files.write(tmp_path / "in.npz", saved)
    assert convert("optimi", *words[1:], "--to", "torch", *out, "--force") == 0
