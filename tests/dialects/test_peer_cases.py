"""R5: the peers' own cases, their inputs and expected numbers taken as facts.

Hyperparameter rows, error rows and golden values of the tests of Keras, PyTorch, Optax,
MLX, TensorFlow Addons, timm and optimi, asked of our doors to them.
"""

import functools
import itertools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw.dialects import (
    keras,
    mlx,
    optimi,
    r_keras3,
    tensorflow,
    tensorflow_addons,
    timm,
    torch,
)
from optadamw.dialects import optax as optax_door


def steps(tx, params, grads, count=1):
    """The parameters and states after each of so many steps with these gradients."""
    step, state, found = jax.jit(tx.step), tx.init(params), []
    for _ in range(count):
        params, state = step(grads, state, params)
        found.append((params, state))
    return found


# --- Keras: adamw_test.py, optimizer_test.py, loss_scale_optimizer_test.py -----------

KERAS = [keras.AdamW, r_keras3.optimizer_adam_w, tensorflow.AdamW]


@pytest.mark.parametrize("door", KERAS)
def test_keras_single_step(door):
    params, grads = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 6.0, 7.0, 2.0])
    ((after, _),) = steps(door(learning_rate=0.5), params, grads)
    np.testing.assert_allclose(
        after, [0.4980, 1.4960, 2.494, 3.492], rtol=1e-4, atol=1e-4
    )


GOLDEN = [
    [0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998, 0.4998],
    [0.2486, 0.2475, 0.2463, 0.2451, 0.244, 0.2428, 0.2417, 0.2405, 0.2394, 0.2382],
    [0.1223, 0.1198, 0.1174, 0.1149, 0.1124, 0.11, 0.1075, 0.1051, 0.1027, 0.1003],
    [0.0586, 0.0549, 0.0512, 0.0475, 0.0439, 0.0402, 0.0366, 0.033, 0.0294, 0.0258],
    [0.0263, 0.0215, 0.0167, 0.012, 0.0073, 0.0026, -0.0021, -0.0067, -0.0113, -0.0159],
]


@pytest.mark.parametrize("door", KERAS)
def test_keras_golden(door):
    tx = door(learning_rate=1.0, weight_decay=0.5, epsilon=2)
    params, state = jnp.ones(10), tx.init(jnp.ones(10))
    grads = [jnp.full(10, 0.01), *[jnp.arange(1, 11) / 10] * 4]
    for given, expected in zip(grads, GOLDEN, strict=True):
        params, state = tx.step(given, state, params)
        np.testing.assert_allclose(params, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("module", [keras, tensorflow])
def test_keras_weight_decay(module):
    params = {"plain": jnp.array(2.0), "exclude": jnp.array(2.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = module.AdamW(learning_rate=1.0, weight_decay=0.004)
    for choice in ({"var_names": ["exclude"]}, {"var_list": ["exclude"]}):
        excluding = module.exclude_from_weight_decay(tx, **choice)
        found = steps(excluding, params, zeros, 3)
        assert float(found[2][0]["plain"]) == pytest.approx(1.9760959, abs=1e-6)
        assert float(found[2][0]["exclude"]) == 2.0


@pytest.mark.parametrize("door", KERAS)
def test_keras_weight_decay_none(door):
    with pytest.raises((TypeError, ValueError), match=r"weight_decay.*must be a float"):
        door(learning_rate=1.0, weight_decay=None)


@pytest.mark.parametrize(
    ("clip", "given", "expected"),
    [
        ({"clipnorm": 1.0}, [100.0, 100.0], [2**0.5 / 2, 2**0.5 / 2]),
        ({"clipvalue": 1.0}, [100.0, 100.0], [1.0, 1.0]),
        ({"global_clipnorm": 1.0}, [50.0, 100.0], [1 / 5**0.5, 2 / 5**0.5]),
    ],
)
@pytest.mark.parametrize("door", KERAS)
def test_keras_clips(door, clip, given, expected):
    """The clipped gradient is ten times the first moment of the first step."""
    tx = door(**clip)
    ((_, state),) = steps(tx, jnp.ones(2), jnp.array(given))
    np.testing.assert_allclose(state.mu / 0.1, expected, rtol=1e-6)


@pytest.mark.parametrize("other", ["clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("door", KERAS)
def test_keras_two_clips(door, other):
    text = "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can"
    with pytest.raises(ValueError, match=text):
        door(learning_rate=1.0, clipnorm=0.1, **{other: 0.1})


START = jnp.array([[3.0, 4.0], [5.0, 6.0]])
ONES = jnp.ones((2, 2))
# Gradients of ones move AdamW without decay by the rate, as the SGD of Keras's tests.
AS_SGD = {"learning_rate": 1.0, "weight_decay": 0.0, "epsilon": 1e-9}


def test_keras_average():
    tx = keras.AdamW(
        **AS_SGD, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
    )
    found = steps(tx, START, ONES, 3)
    for (_, state), moved in zip(found, (1.0, 1.1, 1.29), strict=True):
        average = optadamw.ema_of(state)
        np.testing.assert_allclose(average, START - moved, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][0], [[2.0, 3.0], [4.0, 5.0]], rtol=1e-4)
    np.testing.assert_allclose(found[1][0], [[1.0, 2.0], [3.0, 4.0]], rtol=1e-4)
    written = [[1.71, 2.71], [3.71, 4.71]]
    np.testing.assert_allclose(found[2][0], written, rtol=1e-4)
    np.testing.assert_allclose(optadamw.ema_of(found[2][1]), written, rtol=1e-4)


@pytest.mark.parametrize("door", KERAS[:2])
def test_keras_accumulation(door):
    start = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    tx = door(**AS_SGD, gradient_accumulation_steps=3)
    found = steps(tx, start, ONES, 4)
    after = [[0.0, 1.0], [2.0, 3.0]]
    for i, expected in enumerate((start, start, after, after)):
        np.testing.assert_allclose(found[i][0], expected, atol=1e-5)
    # What is left in the accumulator when a window ends is not part of the next one.
    for i, expected in ((0, 1.0), (1, 2.0), (3, 1.0)):
        np.testing.assert_allclose(found[i][1].accumulator, expected * ONES, atol=1e-6)
    # Keras counts calls, 1 to 4; here they are steps and what is left of a window.
    assert [3 * int(s.step) + int(s.micro_step) for _, s in found] == [1, 2, 3, 4]


@pytest.mark.parametrize("door", KERAS)
def test_keras_callable_rate(door):
    start = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    options = AS_SGD | {"learning_rate": lambda: 0.1}
    ((after, state),) = steps(door(**options), start, ONES)
    np.testing.assert_allclose(after, [[0.9, 1.9], [2.9, 3.9]], rtol=1e-5)
    assert int(state.step) == 1


def test_keras_static_loss_scale():
    tx = keras.AdamW(**AS_SGD, loss_scale_factor=1024.0)
    start = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    ((after, state),) = steps(tx, start, ONES * 1024.0)
    np.testing.assert_allclose(after, start - 1, atol=1e-5)
    assert float(optadamw.scale_loss(tx.init(start), jnp.float32(1.0))) == 1024.0
    np.testing.assert_allclose(state.mu, 0.1 * ONES, rtol=1e-6)


def test_keras_counts_its_steps():
    found = steps(keras.AdamW(learning_rate=1.0), START, ONES, 2)
    assert [int(state.step) for _, state in found] == [1, 2]


def test_keras_gradients_that_are_missing():
    params = {"a": START, "b": START}
    tx = keras.AdamW(**AS_SGD)
    ((after, _),) = steps(tx, params, {"a": None, "b": ONES})
    np.testing.assert_array_equal(after["a"], START)
    np.testing.assert_allclose(after["b"], START - 1, rtol=1e-5)


@pytest.mark.parametrize("door", KERAS)
def test_keras_pickles(door):
    tx = door(0.5, 0.008, 0.5, 0.67, 1e-5, True)
    assert pickle.loads(pickle.dumps(tx)) == tx


def test_keras_loss_scale_optimizer():
    start, grads = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 6.0, 7.0, 2.0])
    inner = keras.AdamW(learning_rate=0.5)
    tx = keras.LossScaleOptimizer(inner)
    state = tx.init(start)
    assert float(state.loss_scale) == 2.0**15
    after, state = tx.step(grads * state.loss_scale, state, start)
    np.testing.assert_allclose(
        after, [0.4980, 1.4960, 2.494, 3.492], rtol=1e-4, atol=1e-4
    )
    same, state = tx.step(grads.at[0].set(jnp.inf), state, after)
    np.testing.assert_array_equal(same, after)
    assert float(state.loss_scale) == 2.0**14


def test_keras_loss_scale_grows():
    tx = keras.LossScaleOptimizer(
        keras.AdamW(), initial_scale=400.0, dynamic_growth_steps=2
    )
    found = [float(s.loss_scale) for _, s in steps(tx, START, ONES, 4)]
    assert found == [400.0, 800.0, 800.0, 1600.0]


# --- PyTorch: the rows of AdamW in its optimizer tests -------------------------------

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
        {"lr": 1e-2, "betas": (1.0, 0.0)}, ValueError, "`betas`.*1.0"),
    "weight_decay should > 0": (
        {"lr": 1e-2, "weight_decay": -1}, ValueError, "`weight_decay`.*-1"),
    "betas must be either both floats or both Tensors": (
        {"lr": 1e-2, "betas": (0.9, jnp.float32(0.99))}, ValueError, "either both"),
    "betas must be either both Tensors or both floats": (
        {"lr": 1e-2, "betas": (jnp.float32(0.9), 0.99)}, ValueError, "either both"),
    "`fused` and `foreach`": (
        {"fused": True, "foreach": True}, (ValueError, RuntimeError),
        "`fused` and `foreach` cannot be `True` together"),
    "`fused` and `differentiable`": (
        {"fused": True, "differentiable": True}, (ValueError, RuntimeError),
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


# --- Optax: alias_test.py ------------------------------------------------------------

OPTAX = {
    "adamw": functools.partial(optax_door.adamw, learning_rate=1e-1),
    "nadamw": functools.partial(optax_door.nadamw, learning_rate=1e-2),
    "amsgrad": functools.partial(optax_door.amsgrad, learning_rate=1e-1),
}


def parabola(dtype):
    final = jnp.array([1.0, -1.0, 1.0], dtype)
    if jnp.iscomplexobj(final):
        final = final * (1 + 1j)
    return (
        jnp.array([-1.0, 10.0, 1.0], dtype),
        final,
        lambda x: jnp.sum(jnp.abs(x - final) ** 2),
    )


def rosenbrock(dtype):
    a = 1.0 * (1 + 1j) if jnp.iscomplexobj(jnp.zeros((), dtype)) else 1.0
    final = jnp.array([a, a**2], dtype)
    return (
        jnp.zeros(2, dtype),
        final,
        lambda x: jnp.abs(a - x[0]) ** 2 + 100 * jnp.abs(x[1] - x[0] ** 2) ** 2,
    )


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("target", [parabola, rosenbrock])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_finds_the_minimum(case, target, dtype):
    tx = OPTAX[case]()
    start, final, objective = target(dtype)

    def turn(carry, _):
        params, state = carry
        # A gradient of a function of complex numbers is conjugated to descend.
        grads = jnp.conj(jax.grad(objective)(params))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(turn, carry, None, length=10000)[0])
    # `abs` has no gradient at 0: a hair beside it.
    params, _ = run((start + jnp.asarray(1e-6, dtype), tx.init(start)))
    np.testing.assert_allclose(params, final, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("case", OPTAX)
def test_optax_extra_arguments_are_taken(case):
    tx, start = OPTAX[case](), jnp.zeros(2)
    tx.update(jnp.ones(2), tx.init(start), start, unexpected=1)


@pytest.mark.parametrize("case", OPTAX)
def test_optax_inject_hyperparams(case):
    door = OPTAX[case]
    plain, injected = door(), optax.inject_hyperparams(door.func)(**door.keywords)
    params = [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))]
    grads = [jnp.ones((2, 3)), -jnp.ones((2, 5, 2))]
    a, state = plain.update(grads, plain.init(params), params)
    b, inside = jax.jit(injected.update)(grads, injected.init(params), params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    jax.tree.map(close, a, b)
    jax.tree.map(close, state, inside.inner_state)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float32", None])
@pytest.mark.parametrize("params_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_mu_dtype(case, params_dtype, state_dtype):
    """Differs where none is given: float32, and not the parameters' 16 bits."""
    tx = OPTAX[case](mu_dtype=state_dtype)
    state = tx.init(jnp.zeros(2, params_dtype))
    assert state.mu.dtype == jnp.dtype(state_dtype or "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_dtypes_are_preserved(case, dtype):
    tx, start = OPTAX[case](), jnp.array([1.0, 2.0], dtype)
    state = tx.init(start)
    updates, after = jax.jit(tx.update)(2 * start, state, start)
    assert updates.dtype == start.dtype
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), (state, after))
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", OPTAX)
def test_optax_inside_multi_steps(case, dtype):
    tx = optax.MultiSteps(OPTAX[case](), every_k_schedule=4)
    start = jnp.array([1.0, 2.0], dtype)
    updates, _ = jax.jit(tx.update)(2 * start, tx.init(start), start)
    np.testing.assert_array_equal(updates, jnp.zeros_like(start))


def test_optax_needs_the_parameters():
    tx = optax_door.adamw(0.1)
    with pytest.raises((TypeError, ValueError), match="param"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_optax_schedules_see_0_first():
    seen = optax_door.adamw(lambda step: 0.5 * (step == 0), weight_decay=0.0)
    found = [float(p[0, 0]) for p, _ in steps(seen, START, ONES, 3)]
    np.testing.assert_allclose(found, [2.5, 2.5, 2.5], rtol=1e-5)


# --- MLX: test_optimizers.py ---------------------------------------------------------


@pytest.mark.parametrize("bias_correction", [False, True])
def test_mlx_shapes_are_kept(bias_correction):
    params = {"first": [jnp.zeros(10), jnp.zeros(1)], "second": jnp.zeros(1)}
    tx = mlx.AdamW(0.1, bias_correction=bias_correction)
    grads = jax.tree.map(jnp.ones_like, params)
    ((after, state),) = steps(tx, params, grads)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)
    for value in jax.tree.leaves(state.mu):
        np.testing.assert_allclose(value, 0.1, rtol=1e-6)
    for value in jax.tree.leaves(state.nu):
        np.testing.assert_allclose(value, 0.001, rtol=1e-6)


def test_mlx_is_pytorchs_adamw_with_the_correction():
    """Its own test: from zeros, with gradients of ones; equal in every bit."""
    start = {"a": jnp.zeros(10), "b": jnp.zeros((3, 4))}
    grads = jax.tree.map(jnp.ones_like, start)
    ours = mlx.AdamW(
        learning_rate=3e-4, betas=[0.9, 0.99], eps=1e-8, weight_decay=0.05,
        bias_correction=True,
    )  # fmt: skip
    theirs = torch.AdamW(lr=3e-4, betas=(0.9, 0.99), weight_decay=0.05)
    for a, b in zip(
        steps(ours, start, grads, 10), steps(theirs, start, grads, 10), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, a[0], b[0])


def test_mlx_clip_grad_norm():
    """Small gradients are as they were; large ones have the norm of the limit."""
    grads = {"w1": jnp.array([1.0, 2.0]), "w2": jnp.array(3.0)}
    small = jax.tree.map(lambda g: g * 0.1, grads)
    large = jax.tree.map(lambda g: g * 10, grads)
    tx = mlx.AdamW(0.1, clip_grad_norm=1.0)
    zeros = jax.tree.map(jnp.zeros_like, grads)
    for given, norm in ((small, 0.1 * 14**0.5), (large, 1.0)):
        ((_, state),) = steps(tx, zeros, given)
        found = math.sqrt(sum(jnp.sum((m / 0.1) ** 2) for m in state.mu.values()))
        assert found == pytest.approx(norm, rel=1e-5)


# --- TensorFlow Addons: weight_decay_optimizers_test.py ------------------------------


def addons(param, grad, count, rate=0.001, b1=0.9, b2=0.999, eps=1e-8, decay=0.01):
    """The formula by which Addons tests, in doubles."""
    m = v = np.zeros_like(param)
    for t in range(1, count + 1):
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
        step = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        param = param * (1 - decay) - step * m / (np.sqrt(v) + eps)
    return param


ADDONS = {
    "basic": {},
    "callable": {
        "learning_rate": lambda: 0.001, "beta_1": lambda: 0.9, "beta_2": lambda: 0.999,
        "weight_decay": lambda: 0.01,
    },
    "decay_var_list": {"decay_var_list": ["var0", "var1"]},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("case", ADDONS)
def test_addons_golden(case, dtype):
    options = {"weight_decay": 0.01, "epsilon": 1e-8} | ADDONS[case]
    tx = tensorflow_addons.AdamW(**options)
    starts = {"var0": [1.0, 2.0], "var1": [3.0, 4.0]}
    slopes = {"var0": 0.1, "var1": 0.01}
    # Its tolerances by dtype; float64 is that of a JAX without it.
    dtype, rtol = {
        "float16": ("float16", 1e-3), "float32": ("float32", 1e-6),
        "float64": ("float32", 1e-6),
    }[dtype]  # fmt: skip
    params = {name: jnp.array(start, dtype) for name, start in starts.items()}
    grads = {name: jnp.full(2, slope, dtype) for name, slope in slopes.items()}
    for t, (after, _) in enumerate(steps(tx, params, grads, 3), start=1):
        for name, start in starts.items():
            expected = addons(np.array(start), np.full(2, slopes[name]), t)
            np.testing.assert_allclose(
                np.asarray(after[name], np.float64), expected, rtol=rtol
            )


# --- timm and optimi -----------------------------------------------------------------

LIKE_TORCH = {
    "timm adamw": timm.AdamWLegacy,
    "timm nadamw": timm.NAdamW,
    "timm cautious": functools.partial(timm.AdamWLegacy, caution=True),
    "timm nadamw cautious": functools.partial(timm.NAdamW, caution=True),
    "optimi": optimi.AdamW,
    "optimi decoupled": functools.partial(
        optimi.AdamW, decouple_lr=True, weight_decay=1e-5
    ),
}


@pytest.mark.parametrize("rate", [1e-3, jnp.float32(1e-3)])
@pytest.mark.parametrize("case", LIKE_TORCH)
def test_timm_and_optimi_basic_cases(case, rate):
    """A weight of (10, 5), a bias of 10, one input: 200 steps make the loss smaller."""
    tx = LIKE_TORCH[case](lr=rate)
    generator = np.random.default_rng(1)
    params = {
        "weight": jnp.asarray(generator.normal(size=(10, 5)), jnp.float32),
        "bias": jnp.asarray(generator.normal(size=10), jnp.float32),
    }
    given = jnp.asarray(generator.normal(size=5), jnp.float32)

    def loss(params):
        return jnp.sum((params["weight"] @ given + params["bias"]) ** 2)

    step, state = jax.jit(tx.step), tx.init(params)
    first = float(loss(params))
    for _ in range(200):
        params, state = step(jax.grad(loss)(params), state, params)
    assert float(loss(params)) < first


@pytest.mark.parametrize("case", LIKE_TORCH)
def test_timm_and_optimi_rosenbrock(case):
    """From (1.5, 1.5), 2000 steps do not end further from (1, 1)."""
    tx = LIKE_TORCH[case](lr=5e-3)

    def objective(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    def turn(carry, _):
        params, state = carry
        return tx.step(jax.grad(objective)(params), state, params), None

    start = jnp.array([1.5, 1.5])
    (last, _), _ = jax.jit(lambda c: jax.lax.scan(turn, c, None, length=2000))(
        (start, tx.init(start))
    )
    assert float(jnp.linalg.norm(last - 1)) <= math.sqrt(0.5)


@pytest.mark.parametrize("case", ["timm adamw", "timm nadamw", "optimi"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "-1.0"),
        ({"eps": -1.0}, "`eps`"),
        ({"betas": (1.0, 0.9)}, "1.0"),
        ({"betas": (0.9, 1.0)}, "1.0"),
        ({"betas": (-0.1, 0.9)}, "-0.1"),
        ({"weight_decay": -1.0}, "`weight_decay`"),
    ],
)
def test_timm_and_optimi_errors(case, options, text):
    with pytest.raises(ValueError, match=text):
        LIKE_TORCH[case](**({"lr": 1e-3} | options))


def decoupled(param, grad, count, rate, peak, decay, b1=0.9, b2=0.99, eps=1e-6):
    """Composer's DecoupledAdamW, by which optimi tests: decay by the rate's share."""
    m = v = np.zeros_like(param)
    for t in range(1, count + 1):
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
        param = param * (1 - rate(t - 1) / peak * decay)
        corrected = m / (1 - b1**t), v / (1 - b2**t)
        param = param - rate(t - 1) * corrected[0] / (np.sqrt(corrected[1]) + eps)
    return param


@pytest.mark.parametrize("peak", [None, 0.5])
def test_optimi_decay_is_decoupled_from_the_rate(peak):
    start, grads = np.array([1.0, -2.0, 0.5]), np.array([0.1, -0.3, 2.0])
    tx = optimi.AdamW(lr=0.1, decouple_lr=True, weight_decay=9e-4, max_lr=peak)
    found, _ = steps(tx, jnp.asarray(start, jnp.float32), jnp.asarray(grads), 8)[-1]
    expected = decoupled(start, grads, 8, lambda t: 0.1, peak or 0.1, 9e-4)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    falling = optimi.AdamW(
        lr=lambda t: 0.1 * 0.5**t, decouple_lr=True, weight_decay=9e-4, max_lr=0.1
    )
    found, _ = steps(falling, jnp.asarray(start, jnp.float32), jnp.asarray(grads), 8)[
        -1
    ]
    expected = decoupled(start, grads, 8, lambda t: 0.1 * 0.5**t, 0.1, 9e-4)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
