"""Cases of PyTorch's own tests: the rows of AdamW in its optimizer tests."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import torch
from tests.dialects.peer_cases.steps import ONES, START, steps

TORCH = {
    "default": {},
    "non-default lr": {"lr": 0.01},
    "nonzero weight_decay": {"weight_decay": 0.1},
    "maximize": {"weight_decay": 0.1, "maximize": True},
    "amsgrad": {"weight_decay": 0.1, "amsgrad": True},
    "capturable": {"capturable": True},
    "capturable, amsgrad": {"weight_decay": 0.1, "amsgrad": True, "capturable": True},
    "Tensor lr with capturable and amsgrad": {
        "lr": jnp.float32(0.001), "amsgrad": True, "capturable": True,
    },
    "Tensor lr, Tensor betas, with capturable": {
        "lr": jnp.float32(0.001),
        "betas": (jnp.float32(0.9), jnp.float32(0.99)),
        "amsgrad": False,
        "capturable": True,
    },
    "Tensor lr": {"lr": jnp.float32(0.01)},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}  # fmt: skip


@pytest.mark.parametrize("case", TORCH)
def test_torch_goes_the_right_way(case):
    """A layer of a weight and a bias on one input: the loss falls (or rises) for 20."""
    options = TORCH[case]
    tx = torch.AdamW(**options)
    generator = np.random.default_rng(0)
    params = {
        "weight": jnp.asarray(generator.normal(size=(10, 5)), jnp.float32),
        "bias": jnp.asarray(generator.normal(size=10), jnp.float32),
    }
    given = jnp.asarray(generator.normal(size=5), jnp.float32)

    def loss(params):
        return jnp.sum((params["weight"] @ given + params["bias"]) ** 2)

    step, state = jax.jit(tx.step), tx.init(params)
    losses = [float(loss(params))]
    for _ in range(20):
        params, state = step(jax.grad(loss)(params), state, params)
        losses.append(float(loss(params)))
    falls = [a > b for a, b in itertools.pairwise(losses)]
    assert all(falls) or (options.get("maximize") and not any(falls))


def test_torch_array_betas_of_any_shape_with_one_element():
    """Its own rows give betas of shapes (1, 1, 1) and (1, 1)."""
    options = {"lr": jnp.float32(0.001), "amsgrad": True, "capturable": True}
    numbers = torch.AdamW(lr=0.001, betas=(0.9, 0.99), amsgrad=True)
    arrays = torch.AdamW(betas=(jnp.full((1, 1, 1), 0.9), jnp.full((1, 1), 0.99)),
                         **options)  # fmt: skip
    for a, b in zip(
        steps(arrays, START, ONES, 3), steps(numbers, START, ONES, 3), strict=True
    ):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-6)


TORCH_ERRORS = {
    "invalid param type": ({"params": START}, TypeError, "params"),
    "Tensor lr must be 1-element": (
        {"lr": jnp.array([0.001, 0.001])}, ValueError, "must be 1-element"),
    "an option without params": ({"params": [{"lr": 0.01}]}, ValueError, "par"),
    "beta1 should be between 0 and 1": (
        {"lr": 1e-2, "betas": (1.0, 0.0)}, ValueError,
        "Invalid beta parameter at index 0: 1.0.*`betas`.*1.0"),
    "weight_decay should > 0": (
        {"lr": 1e-2, "weight_decay": -1}, ValueError,
        "Invalid weight_decay value: -1.*`weight_decay`.*-1"),
    "betas must be either both floats or both Tensors": (
        {"lr": 1e-2, "betas": (0.9, jnp.float32(0.99))}, ValueError,
        "betas must be either both floats or both Tensors"),
    "betas must be either both Tensors or both floats": (
        {"lr": 1e-2, "betas": (jnp.float32(0.9), 0.99)}, ValueError,
        "betas must be either both floats or both Tensors"),
    "`fused` and `foreach`": (
        {"fused": True, "foreach": True}, RuntimeError,
        "`fused` and `foreach` cannot be `True` together"),
    "`fused` and `differentiable`": (
        {"fused": True, "differentiable": True}, RuntimeError,
        "`fused` does not support `differentiable`"),
    "an empty list": ({"params": []}, ValueError, "got an empty parameter list"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "text"),
    TORCH_ERRORS.values(),
    ids=TORCH_ERRORS,
)
def test_torch_errors(options, error, text):
    with pytest.raises(error, match=text):
        torch.AdamW(**options)


def test_torch_arrays_with_foreach_are_no_error_here():
    """There a limit of an implementation, which XLA does not have."""
    number = steps(torch.AdamW(lr=0.001), START, ONES, 3)[2][0]
    array = steps(torch.AdamW(lr=jnp.float32(0.001), foreach=True), START, ONES, 3)
    np.testing.assert_allclose(array[2][0], number, rtol=1e-6)


def test_torch_parameters_in_two_groups():
    """There an error of the same parameter twice; here of a group that gets none."""
    tx = torch.AdamW([{"params": "weight"}, {"params": "weight", "lr": 0.1}])
    with pytest.raises(ValueError, match="earlier group"):
        tx.init({"weight": START, "bias": START})


@pytest.mark.parametrize("case", ["weight_decay", "lr"])
def test_torch_groups_differ(case):
    """With decay a weight ends smaller; with a rate of 0 it does not move."""
    options = {"weight_decay": {"weight_decay": 0.9}, "lr": {"lr": 0.0}}[case]
    tx = torch.AdamW([{"params": "weight", **options}], lr=0.1, weight_decay=0.0)
    params = {"weight": START, "bias": START}
    zeros = jax.tree.map(jnp.zeros_like, params)
    grads = zeros if case == "weight_decay" else jax.tree.map(jnp.ones_like, params)
    after, _ = steps(tx, params, grads, 5)[-1]
    if case == "lr":
        np.testing.assert_array_equal(after["weight"], START)
        assert (after["bias"] < START).all()
    else:
        np.testing.assert_allclose(after["weight"], START * 0.91**5, rtol=1e-5)
        np.testing.assert_array_equal(after["bias"], START)


@pytest.mark.parametrize("case", ["default", "amsgrad", "maximize"])
def test_torch_complex_is_two_reals(case):
    tx = torch.AdamW(lr=0.001, **TORCH[case])
    start = jnp.array([[3.0 + 1j, 4.0 - 2j], [5.0j, 6.0]], jnp.complex64)
    grads = jnp.array([[1.0 - 1j, 0.5j], [2.0, -1.0 - 3j]], jnp.complex64)
    both = {"r": start.real, "i": start.imag}
    parts = {"r": grads.real, "i": grads.imag}
    for (whole, _), (apart, _) in zip(
        steps(tx, start, grads, 10), steps(tx, both, parts, 10), strict=True
    ):
        np.testing.assert_allclose(whole.real, apart["r"], rtol=1e-6)
        np.testing.assert_allclose(whole.imag, apart["i"], rtol=1e-6)


def test_torch_found_inf_skips_the_step_and_its_count():
    tx = torch.AdamW(lr=0.1, fused=True, grad_scaler=torch.GradScaler(init_scale=4.0))
    state = tx.init(START)
    params, state = tx.step(ONES.at[0, 0].set(jnp.inf), state, START)
    np.testing.assert_array_equal(params, START)
    assert int(state.step) == 0
    assert float(state.loss_scale) == 2.0
