"""Runs of MLX, optimi, bitsandbytes and torchao go on here, and runs of ours there."""

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


def of(package: str, title: str) -> Any:
    return pytest.importorskip(package, reason=f"{title} is not installed")


def test_mlx(record_property):
    mx = of("mlx.core", "MLX")
    optimizers = of("mlx.optimizers", "MLX")
    utils = of("mlx.utils", "MLX")
    params = {"layers": [cases.normal({"weight": (4, 3)}, jnp.float32, 0)] * 2}
    params["bias"] = cases.normal((3,), jnp.float32, 1)
    tx = cases.adamw()

    def there(params: Any) -> Any:
        return utils.tree_map(lambda x: mx.array(np.array(x)), params)

    def steps(optimizer: Any, params: Any, first: int) -> Any:
        mine = there(params)
        for i in range(first, first + K):
            grads = there(cases.gradients(params, i))
            mine = optimizer.apply_gradients(grads, mine)
        return utils.tree_map(lambda x: jnp.asarray(np.array(x)), mine)

    def made() -> Any:
        return optimizers.AdamW(
            cases.RATE,
            [cases.B1, cases.B2],
            2.0**-20,
            weight_decay=cases.DECAY,
            bias_correction=True,
        )

    optimizer = made()
    begun = steps(optimizer, params, 0)
    for saved in (optimizer.state, dict(utils.tree_flatten(optimizer.state))):
        state = interchange.from_mlx(saved, begun, tx=tx)
        after, _ = cases.trained(tx, begun, K, K, state)
    distance = cases.ulps(cases.leaves(after), cases.leaves(steps(optimizer, begun, K)))
    record_property("mlx -> here", distance)
    assert distance <= CLOSE

    begun, state = cases.trained(tx, params, K)
    optimizer = made()
    saved = interchange.to_mlx(state, params, tx=tx)
    optimizer.state = utils.tree_map(mx.array, saved)
    after = steps(optimizer, begun, K)
    whole, _ = cases.trained(tx, params, 2 * K)
    distance = cases.ulps(cases.leaves(after), cases.leaves(whole))
    record_property("here -> mlx", distance)
    assert distance <= CLOSE

    wide = utils.tree_map(lambda x: mx.array(x).astype(mx.bfloat16), saved)
    state = interchange.from_mlx({**wide, "step": mx.array(4)}, params)
    expected = np.array(saved["bias"]["m"]).astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(state.mu["bias"], expected)


@needs_torch
def test_optimi(record_property):
    optimi = of("optimi", "optimi")
    params, tx = cases.tree(), cases.adamw()
    tensors, optimizer = torch_optimizer(optimi.AdamW, params)
    torch_steps(tensors, optimizer, params, 0)
    structure = jax.tree.structure(params)
    moved = jax.tree.unflatten(structure, [jnp.asarray(x) for x in values(tensors)])
    state = interchange.from_optimi(optimizer.state_dict(), params, tx=tx)
    after, _ = cases.trained(tx, moved, K, K, state)
    torch_steps(tensors, optimizer, params, K)
    distance = cases.ulps(cases.leaves(after), values(tensors))
    record_property("optimi -> here", distance)
    assert distance <= CLOSE

    begun, state = cases.trained(tx, params, K)
    tensors, optimizer = torch_optimizer(optimi.AdamW, begun)
    optimizer.load_state_dict(tensors_of(interchange.to_optimi(state, params, tx=tx)))
    torch_steps(tensors, optimizer, params, K)
    whole, _ = cases.trained(tx, params, 2 * K)
    distance = cases.ulps(values(tensors), cases.leaves(whole))
    record_property("here -> optimi", distance)
    assert distance <= CLOSE


@needs_torch
def test_optimi_in_bfloat16_keeps_low_bits_apart():
    optimi = of("optimi", "optimi")
    params = [jnp.ones(3, jnp.bfloat16)]
    tensors = [torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    optimizer = optimi.AdamW(tensors, lr=1e-4)
    tensors[0].grad = torch.ones(3, dtype=torch.bfloat16)
    optimizer.step()
    with pytest.raises(ValueError, match="kahan_comp"):
        interchange.from_optimi(optimizer.state_dict(), params)
    state = interchange.from_optimi(
        optimizer.state_dict(), params, drop=("kahan_comp",)
    )
    assert int(state.step) == 1


@needs_torch
@pytest.mark.parametrize("bits", [32, 8])
def test_bitsandbytes(bits, record_property):
    bnb = of("bitsandbytes", "bitsandbytes")
    shapes = {"big": (64, 80), "rest": (4100,), "small": (3,)}
    params, tx = cases.normal(shapes, jnp.float32, 0), cases.adamw()

    def made(tensors: Any, **options: Any) -> Any:
        return bnb.optim.AdamW(tensors, optim_bits=bits, **options)

    tensors, optimizer = torch_optimizer(made, params)
    torch_steps(tensors, optimizer, params, 0)
    structure = jax.tree.structure(params)
    moved = jax.tree.unflatten(structure, [jnp.asarray(x) for x in values(tensors)])
    state = interchange.from_bitsandbytes(optimizer.state_dict(), params, tx=tx)
    for tensor, mu, nu in zip(
        tensors, cases.leaves(state.mu), cases.leaves(state.nu), strict=True
    ):
        kept = optimizer.state[tensor]
        for number, ours in ((1, mu), (2, nu)):
            codes = kept[f"state{number}"]
            if codes.dtype == torch.uint8:
                table = kept[f"qmap{number}"]
                scales = kept[f"absmax{number}"].repeat_interleave(256)
                flat = table[codes.flatten().long()] * scales[: codes.numel()]
                codes = flat.reshape(codes.shape)
            np.testing.assert_array_equal(codes.numpy(), ours)
    after, _ = cases.trained(tx, moved, 1, K, state)
    before = [tensor.grad for tensor in tensors]
    assert all(grad is not None for grad in before)
    grads = cases.leaves(cases.gradients(params, K))
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    optimizer.step()  # the step itself is in full precision, from the decoded moments
    distance = cases.ulps(cases.leaves(after), values(tensors))
    record_property(f"bitsandbytes {bits} -> here", distance)
    assert distance <= CLOSE
    if bits == 32:
        begun, state = cases.trained(tx, params, K)
        tensors, optimizer = torch_optimizer(made, begun)
        saved = interchange.to_bitsandbytes(state, params, tx=tx)
        optimizer.load_state_dict(tensors_of(saved))
        torch_steps(tensors, optimizer, params, K)
        whole, _ = cases.trained(tx, params, 2 * K)
        distance = cases.ulps(values(tensors), cases.leaves(whole))
        record_property("here -> bitsandbytes", distance)
        assert distance <= CLOSE


@needs_torch
@pytest.mark.parametrize("name", ["AdamW8bit", "AdamW4bit", "AdamWFp8"])
def test_torchao(name, record_property):
    """Its tensors, as they decode themselves; one step there is compiled by it."""
    ao = of("torchao.optim", "torchao")
    shapes = {"big": (64, 80), "small": (3,)}
    params, tx = cases.normal(shapes, jnp.float32, 0), cases.adamw()
    tensors, optimizer = torch_optimizer(getattr(ao, name), params)
    grads = cases.leaves(cases.gradients(params, 0))
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    optimizer.step()
    saved = optimizer.state_dict()
    state = interchange.from_torchao(saved, params, tx=tx)
    assert int(state.step) == 1
    for i, (mu, nu) in enumerate(
        zip(cases.leaves(state.mu), cases.leaves(state.nu), strict=True)
    ):
        for key, ours in (("exp_avg", mu), ("exp_avg_sq", nu)):
            moment = saved["state"][i][key]
            if hasattr(moment, "dequantize") and hasattr(moment, "codes"):
                moment = moment.dequantize()
            np.testing.assert_array_equal(moment.numpy(), ours)
    structure = jax.tree.structure(params)
    moved = jax.tree.unflatten(structure, [jnp.asarray(x) for x in values(tensors)])
    after, _ = cases.trained(tx, moved, 1, 1, state)
    grads = cases.leaves(cases.gradients(params, 1))
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    optimizer.step()
    distance = cases.ulps(cases.leaves(after), values(tensors))
    record_property(f"torchao {name} -> here", distance)
    assert distance <= CLOSE

    begun, state = cases.trained(tx, params, 2)
    tensors, optimizer = torch_optimizer(getattr(ao, name), begun)
    optimizer.load_state_dict(tensors_of(interchange.to_torchao(state, params, tx=tx)))
    torch_steps(tensors, optimizer, params, 2)
    whole, _ = cases.trained(tx, params, 2 + K)
    distance = cases.ulps(values(tensors), cases.leaves(whole))
    record_property(f"here -> torchao {name}", distance)
    assert distance <= CLOSE
