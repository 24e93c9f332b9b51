"""A saved state and a transformation have to agree, or the state is refused."""

import jax
import numpy as np
import optax
import pytest

import optadamw
from optadamw import interchange
from tests.interchange import cases
from tests.interchange.saving import each_peer, refused, saved_by, torch_state
from tests.support import trees


@pytest.mark.parametrize("name", [n for n, p in cases.PEERS.items() if p.maximum])
def test_maxima_of_the_other_kind(name):
    peer = cases.PEERS[name]
    other = "corrected" if peer.maximum == "raw" else "raw"
    params, tx, state = torch_state(cases.tree(), amsgrad=other)
    refused(ValueError, r"max\(v_t\), does not tell", peer.to, state, params, tx=tx)
    refused(ValueError, "is not known", peer.to, state, params)
    refused(ValueError, "does not tell", peer.to, state, params, amsgrad=other)
    saved, params, right = saved_by(name, amsgrad=peer.maximum)
    refused(ValueError, "does not tell", peer.back, saved, params, tx=tx)
    state = peer.back(saved, params, tx=tx, afresh=("nu_max",))
    assert not np.any(np.asarray(state.nu_max["dense"]["kernel"]))
    plain = cases.adamw()
    refused(
        ValueError,
        "differ in the option `amsgrad`|none of amsgrad|no place|`saved`|2. with|would",
        peer.back,
        saved,
        params,
        tx=plain,
    )
    if name not in ("keras", "tensorflow"):
        state = peer.back(saved, params, tx=plain, drop=("nu_max",))
        assert state.nu_max is None
    assert peer.back(saved, params, tx=right).nu_max is not None
    lacking, params, _ = saved_by(name)
    refused(
        ValueError,
        "amsgrad",
        peer.back,
        lacking,
        params,
        tx=right,
    )


def test_optax_without_a_transformation_asks_what_is_meant():
    saved, params, _ = saved_by("optax", amsgrad="corrected")
    refused(ValueError, "PyTorch, Keras", interchange.from_optax, saved, params)
    refused(ValueError, "PyTorch", interchange.from_optax, saved, params, amsgrad="raw")
    refused(
        ValueError, "`amsgrad` must", interchange.from_optax, saved, params, amsgrad=1
    )
    state = interchange.from_optax(saved, params, amsgrad="corrected")
    assert state.nu_max is not None
    assert interchange.from_optax(saved, params, drop=("nu_max",)).nu_max is None


def test_the_sign_under_maximize():
    saved, params, tx = saved_by("torch", maximize=True)
    assert saved["param_groups"][0]["maximize"] is True
    assert int(interchange.from_torch(saved, params, tx=tx).step) == 2
    plain = cases.adamw()
    refused(
        ValueError, "with maximize", interchange.from_torch, saved, params, tx=plain
    )
    there, _, _ = saved_by("torch")
    refused(
        ValueError, "without maximize", interchange.from_torch, there, params, tx=tx
    )
    state = interchange.from_torch(saved, params, tx=tx)
    for name in cases.PEERS:
        if name not in ("torch", "timm"):
            refused(ValueError, "maximizes", cases.PEERS[name].to, state, params, tx=tx)


@pytest.mark.parametrize("name", ["torch", "timm"])
def test_groups_of_which_some_maximize(name):
    to = getattr(interchange, f"to_{name}")
    up = cases.adamw(maximize=True)
    tx = optadamw.param_groups(cases.adamw(), {"scale": up, "dense/*": up})
    params, state = cases.trained(tx, cases.tree(), 2)
    saved = to(state, params, tx=tx)
    assert [g["maximize"] for g in saved["param_groups"]] == [True, False]
    names = ["dense/bias", "dense/kernel", "scale", "out/bias", "out/kernel", "void"]
    found = interchange.from_torch(saved, params, tx=tx, names=names)
    trees.assert_same_bits(found, state)
    trees.assert_same_bits(
        interchange.from_torch(saved, params, names=names).mu, state.mu
    )
    for other, text in (
        (cases.adamw(), "Leaf 'dense/bias': it was saved with maximize"),
        (cases.adamw(maximize=True), "Leaf 'out/bias': it was saved without maximize"),
    ):
        refused(
            ValueError,
            text,
            interchange.from_torch,
            saved,
            params,
            tx=other,
            names=names,
        )
    refused(ValueError, "maximizes", interchange.to_keras, state, params, tx=tx)


def test_adam_with_l2_is_another_optimizer():
    saved, params, tx = saved_by("torch")
    group = saved["param_groups"][0]
    group["decoupled_weight_decay"] = False
    refused(
        ValueError, "It is Adam with L2", interchange.from_torch, saved, params, tx=tx
    )
    refused(ValueError, "moments", interchange.from_torch, saved, params)
    group["weight_decay"] = 0.0
    assert int(interchange.from_torch(saved, params, tx=tx).step) == 2


def test_where_an_error_is_has_no_quotes_in_quotes():
    saved, params, _ = saved_by("torch")
    saved["state"][0]["exp_avg"] = np.zeros(3, int)
    text = "^Leaf 'dense/bias: exp_avg of parameter 0': it must be floating"
    refused(TypeError, text, interchange.from_torch, saved, params)
    saved["state"][0]["step"] = 0.5
    text = "^Leaf 'step of parameter 0': it must be whole"
    refused(ValueError, text, interchange.from_torch, saved, params)


def test_tensors_without_numbers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    saved, params, _ = saved_by("torch")
    where = "Leaf 'dense/bias: exp_avg of parameter 0'"
    for tensor, text in (
        (torch.zeros(3, device="meta"), "it is a meta tensor"),
        (torch.zeros(3).to_sparse(), "it is a torch.sparse_coo tensor"),
    ):
        saved["state"][0]["exp_avg"] = tensor
        refused(
            (TypeError, ValueError),
            f"{where}: {text}",
            interchange.from_torch,
            saved,
            params,
        )


@each_peer
def test_an_average_that_would_be_lost(name):
    peer = cases.PEERS[name]
    params, tx, state = torch_state(cases.tree(), ema_decay=0.5)
    if "ema" in peer.holds:
        peer.to(state, params, tx=tx)
        return
    refused(ValueError, "holds `ema`, for which", peer.to, state, params, tx=tx)
    saved = peer.to(state, params, tx=tx, drop=("ema",))
    refused(ValueError, "option `ema_decay`", peer.back, saved, params, tx=tx)
    found = peer.back(saved, params, tx=tx, afresh=("ema",))
    trees.assert_same_bits(found.ema, tx.init(params).ema)
    shapes = jax.eval_shape(lambda: params)
    refused(
        ValueError, "given as a shape", peer.back, saved, shapes, tx=tx, afresh=("ema",)
    )


def test_an_average_that_is_not_wanted():
    saved, params, _ = saved_by("keras", ema_decay=0.5)
    plain = cases.adamw()
    call = interchange.from_keras
    refused(ValueError, "the three options", call, saved, params, tx=plain)
    refused(ValueError, "`ema_decay`", call, saved, params, tx=plain, use_ema=True)
    found = call(saved, params, tx=plain, use_ema=True, drop=("ema",))
    assert found.ema is None


@each_peer
def test_an_open_window_that_would_be_lost(name):
    peer = cases.PEERS[name]
    tx = cases.adamw(accumulate_steps=3)
    params, state = cases.trained(tx, cases.tree(), 4)
    if name == "keras":
        return
    if name == "optax":
        into = cases.into()
        refused(ValueError, "`into` does not", peer.to, state, params, into=into)
    else:
        refused(ValueError, "an open window of 1", peer.to, state, params, tx=tx)
    saved = peer.to(state, params, tx=tx, drop=("accumulator",))
    found = peer.back(saved, params, tx=tx)
    assert int(found.micro_step) == 0 and int(found.step) == 1


def test_windows_that_differ():
    tx = cases.adamw(accumulate_steps=3)
    params, state = cases.trained(tx, cases.tree(), 5)
    saved = interchange.to_keras(state, params, tx=tx)
    call = interchange.from_keras
    every = {"gradient_accumulation_steps": 3}
    short, plain = cases.adamw(accumulate_steps=2), cases.adamw()
    refused(
        ValueError, "a window of `tx` holds 2", call, saved, params, tx=short, **every
    )
    refused(ValueError, "does not accumulate", call, saved, params, tx=plain, **every)
    sums = optadamw.multi_steps(cases.adamw(), 3, use_grad_mean=False)
    refused(ValueError, "`tx` sums them", call, saved, params, tx=sums, **every)
    found = call(saved, params, tx=plain, drop=("accumulator",), **every)
    assert found.accumulator is None and int(found.step) == 1
    found = call(saved, params, tx=short, drop=("accumulator",), **every)
    assert int(found.micro_step) == 0
    bare = call(saved, params, **every)
    assert int(bare.micro_step) == 2 and float(bare.weight) == 2
    refused(
        ValueError, "whole number", call, saved, params, gradient_accumulation_steps=0
    )
    refused(
        TypeError, "whole number", call, saved, params, gradient_accumulation_steps=2.5
    )
    refused(ValueError, "is not known", interchange.to_keras, state, params)
    scheduled = cases.adamw(accumulate_steps=lambda step: 3 + step)
    refused(
        ValueError, "changed their length", interchange.to_keras, state, params,
        tx=scheduled,
    )  # fmt: skip


def test_weighted_windows():
    tx = cases.adamw(accumulate_steps=3)
    params = cases.tree()
    _, state = tx.step(cases.gradients(params, 0), tx.init(params), params, weight=2.0)
    for call in (interchange.to_keras, interchange.to_optax):
        into = optax.MultiSteps(cases.into(), 3).gradient_transformation()
        options = {"into": into} if call is interchange.to_optax else {}
        refused(ValueError, "that weigh 2.0", call, state, params, tx=tx, **options)
        saved = call(state, params, tx=tx, drop=("accumulator",), **options)
        assert saved is not None


def test_loss_scales_that_differ():
    scale = optadamw.DynamicLossScale(initial=2.0**10)
    params, tx, state = torch_state(cases.tree(), loss_scale=scale)
    saved = interchange.to_keras(state, params, tx=tx)
    call = interchange.from_keras
    refused(ValueError, "option `loss_scale`", call, saved, params, tx=cases.adamw())
    static = cases.adamw(loss_scale=4.0)
    refused(ValueError, "option `loss_scale`", call, saved, params, tx=static)
    found = call(saved, params, tx=static, drop=("loss_scale",))
    assert float(found.loss_scale) == 4.0
    plain, params, _ = saved_by("keras")
    refused(ValueError, "does not hold one", call, plain, params, tx=tx)
    for bare in (plain, saved):
        found = call(bare, params, tx=tx, afresh=("loss_scale",))
        assert float(found.loss_scale) == 2.0**10
    narrow = optadamw.DynamicLossScale(initial=4.0, maximum=8.0)
    tight = cases.adamw(loss_scale=narrow)
    refused(ValueError, r"stays in \[", call, saved, params, tx=tight)
    refused(
        ValueError, "a dynamic loss scale", interchange.to_torch, state, params, tx=tx
    )
    saved = interchange.to_torch(state, params, tx=tx, drop=("loss_scale",))
    found = interchange.from_torch(saved, params, tx=tx)
    assert float(found.loss_scale) == 2.0**10


def test_moments_that_tx_does_not_keep():
    saved, params, _ = saved_by("torch")
    rate = optadamw.scale_by_learning_rate(1.0)
    refused(
        ValueError, "`scale_by_adam`", interchange.from_torch, saved, params, tx=rate
    )
    state = rate.init(params)
    refused(ValueError, "holds no `mu`", interchange.to_mlx, state, params, tx=rate)


def test_patterns_of_tx_are_checked_too():
    saved, params, _ = saved_by("torch")
    tx = cases.adamw(mask="*/weights")
    refused(ValueError, "mask", interchange.from_torch, saved, params, tx=tx)


def test_a_state_inside_another():
    params, tx = cases.tree(), cases.adamw()
    chained = optax.chain(tx, optax.identity())
    saved = interchange.to_torch(chained.init(params), params, tx=tx)
    assert float(saved["state"][0]["step"]) == 0
    both = (tx.init(params), tx.init(params))
    refused(ValueError, "It holds 2", interchange.to_torch, both, params, tx=tx)
