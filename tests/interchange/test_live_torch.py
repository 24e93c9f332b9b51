"""A run of PyTorch goes on here, and a run of ours there, where it is installed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import interchange
from tests.interchange import cases
from tests.interchange.live import (
    CLOSE,
    K,
    needs_torch,
    tensors_of,
    torch,
    torch_optimizer,
    torch_steps,
    values,
)

TORCH = {
    "plain": ({}, {}),
    "amsgrad": ({"amsgrad": True}, {"amsgrad": True}),
    "maximize": ({"maximize": True}, {"maximize": True}),
    "no decay": ({"weight_decay": 0.0}, {"weight_decay": 0.0}),
    "foreach": ({"foreach": True}, {}),
    "fused": ({"fused": True}, {}),
}


@needs_torch
@pytest.mark.parametrize(("there", "here"), TORCH.values(), ids=TORCH)
def test_torch(there, here, record_property):
    params, tx = cases.tree(), cases.adamw(**here)
    tensors, optimizer = torch_optimizer(torch.optim.AdamW, params, **there)
    torch_steps(tensors, optimizer, params, 0)
    saved = optimizer.state_dict()

    # There, then here.
    moved = jax.tree.unflatten(
        jax.tree.structure(params), map(jnp.asarray, values(tensors))
    )
    state = interchange.from_torch(saved, params, tx=tx)
    assert int(state.step) == K
    after, last = cases.trained(tx, moved, K, K, state)
    torch_steps(tensors, optimizer, params, K)
    distance = cases.ulps(cases.leaves(after), values(tensors))
    record_property(f"torch {there} -> here", distance)
    assert distance <= CLOSE
    again = interchange.from_torch(optimizer.state_dict(), params, tx=tx)
    assert cases.ulps(cases.leaves(last.mu), cases.leaves(again.mu)) <= CLOSE
    assert cases.ulps(cases.leaves(last.nu), cases.leaves(again.nu)) <= CLOSE

    # Here, then there.
    begun, state = cases.trained(tx, params, K)
    tensors, optimizer = torch_optimizer(torch.optim.AdamW, begun, lr=9.0)
    optimizer.load_state_dict(tensors_of(interchange.to_torch(state, params, tx=tx)))
    if there.get("fused") or there.get("foreach"):
        optimizer.param_groups[0].update(there)
    torch_steps(tensors, optimizer, params, K)
    distance = cases.ulps(
        values(tensors), cases.leaves(cases.trained(tx, params, 2 * K)[0])
    )
    record_property(f"here -> torch {there}", distance)
    assert distance <= CLOSE


@needs_torch
def test_torch_keeps_what_we_wrote_bit_for_bit():
    params, tx = cases.tree(), cases.adamw(amsgrad=True)
    params, state = cases.trained(tx, params, 3)
    saved = interchange.to_torch(state, params, tx=tx)
    _, optimizer = torch_optimizer(torch.optim.AdamW, params)
    optimizer.load_state_dict(tensors_of(saved))
    back = interchange.from_torch(optimizer.state_dict(), params, tx=tx)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    group = optimizer.param_groups[0]
    assert group["lr"] == cases.RATE and group["betas"] == (cases.B1, cases.B2)
    assert group["amsgrad"] is True and group["weight_decay"] == cases.DECAY


@needs_torch
def test_torch_names_groups_and_layout_of_a_model():
    """A linear layer is transposed there, named there, and not decayed in part."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 3))
    named = dict(model.named_parameters())
    decayed = [(n, p) for n, p in named.items() if n.endswith("weight")]
    plain = [(n, p) for n, p in named.items() if n.endswith("bias")]
    numbers = {"lr": cases.RATE, "betas": (cases.B1, cases.B2), "eps": 2.0**-20}
    groups = [
        {"params": decayed, "weight_decay": cases.DECAY},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, **numbers)
    names = {"first/kernel": "0.weight", "first/bias": "0.bias"}
    names |= {"second/kernel": "1.weight", "second/bias": "1.bias"}

    def layout(path: str, x: Any) -> Any:
        return x.T if path.endswith("kernel") else x

    def here() -> Any:
        made: dict[str, Any] = {"first": {}, "second": {}}
        for path, name in names.items():
            layer, leaf = path.split("/")
            made[layer][leaf] = jnp.asarray(layout(path, named[name].detach().numpy()))
        return made

    def steps(first: int) -> None:
        for i in range(first, first + K):
            grads = cases.gradients(here(), i)
            for path, name in names.items():
                layer, leaf = path.split("/")
                grad = np.array(layout(path, np.asarray(grads[layer][leaf])))
                named[name].grad = torch.tensor(grad)
            optimizer.step()

    tx = cases.adamw(mask="*/kernel")
    steps(0)
    moved = here()
    state = interchange.from_torch(
        optimizer.state_dict(), moved, tx=tx, names=names, layout=layout
    )
    after, state = cases.trained(tx, moved, K, K, state)
    steps(K)
    assert cases.ulps(cases.leaves(after), cases.leaves(here())) <= CLOSE

    order = {path: names[path] for path in (*list(names)[::2], *list(names)[1::2])}
    saved = interchange.to_torch(state, after, tx=tx, names=order, layout=layout)
    assert [g["param_names"] for g in saved["param_groups"]] == [
        ["0.weight", "1.weight"],
        ["0.bias", "1.bias"],
    ]
    assert [g["weight_decay"] for g in saved["param_groups"]] == [cases.DECAY, 0.0]
    optimizer.load_state_dict(tensors_of(saved))
    back = interchange.from_torch(
        optimizer.state_dict(), after, tx=tx, names=names, layout=layout
    )
    jax.tree.map(np.testing.assert_array_equal, back, state)


@needs_torch
def test_torch_bfloat16_and_frozen_parameters():
    tensors = [torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in "ab"]
    optimizer = torch.optim.AdamW(tensors)
    tensors[0].grad = torch.full((3,), 0.3, dtype=torch.bfloat16)
    optimizer.step()
    params = [jnp.ones(3, jnp.bfloat16)] * 2
    with pytest.raises(ValueError, match="never had a gradient"):
        interchange.from_torch(optimizer.state_dict(), params)
    state = interchange.from_torch(optimizer.state_dict(), params, missing="zeros")
    assert state.mu[0].dtype == jnp.float32
    moment = optimizer.state_dict()["state"][0]["exp_avg"].float().numpy()
    np.testing.assert_array_equal(state.mu[0], moment)
    np.testing.assert_array_equal(state.mu[1], np.zeros(3))
    first = interchange.from_torch(
        optimizer.state_dict(), params[:1], names=["0", None]
    )
    assert int(first.step) == 1 and len(first.mu) == 1


@needs_torch
def test_torch_complex_and_double():
    params = {"z": cases.normal((2, 3), jnp.complex64, 0)}
    tx = cases.adamw()
    tensors, optimizer = torch_optimizer(torch.optim.AdamW, params)
    torch_steps(tensors, optimizer, params, 0)
    moved = {"z": jnp.asarray(values(tensors)[0])}
    state = interchange.from_torch(optimizer.state_dict(), moved, tx=tx)
    after, _ = cases.trained(tx, moved, K, K, state)
    torch_steps(tensors, optimizer, params, K)
    pairs = zip(cases.leaves(after), values(tensors), strict=True)
    for a, e in pairs:
        assert cases.ulps([a.real, a.imag], [e.real, e.imag]) <= CLOSE
    with jax.enable_x64(True):
        params = {"w": cases.normal((4, 3), jnp.float64, 0)}
        tx = cases.adamw()
        tensors, optimizer = torch_optimizer(torch.optim.AdamW, params)
        torch_steps(tensors, optimizer, params, 0)
        moved = {"w": jnp.asarray(values(tensors)[0])}
        state = interchange.from_torch(optimizer.state_dict(), moved, tx=tx)
        assert state.mu["w"].dtype == jnp.float64
        after, _ = cases.trained(tx, moved, K, K, state)
        torch_steps(tensors, optimizer, params, K)
        assert cases.ulps(cases.leaves(after), values(tensors)) <= 64
