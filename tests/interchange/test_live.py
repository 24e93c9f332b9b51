"""k steps there, moved, k steps here: the trajectory of 2k steps there; and back.

With the real packages, where they are installed. Betas are such that float32 holds
them, so that the peers that take their powers in float32 (Keras, Optax, MLX) take the
same; what is left are a few roundings.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import interchange
from tests.interchange import cases

os.environ.setdefault("KERAS_BACKEND", "jax")

try:
    import torch
except ImportError:
    torch = None

K = 4
CLOSE = 4.0
"""Units in the last place of the largest number of a leaf."""

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")


# --- PyTorch -------------------------------------------------------------------------


def torch_optimizer(made: Any, params: Any, **options: Any) -> Any:
    tensors = [torch.nn.Parameter(torch.tensor(x)) for x in cases.leaves(params)]
    numbers = {"lr": cases.RATE, "betas": (cases.B1, cases.B2)}
    numbers |= {"eps": 2.0**-20, "weight_decay": cases.DECAY}
    return tensors, made(tensors, **(numbers | options))


def torch_steps(tensors: Any, optimizer: Any, params: Any, first: int) -> None:
    for i in range(first, first + K):
        grads = cases.leaves(cases.gradients(params, i))
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(grad)
        optimizer.step()


def tensors_of(saved: Any) -> Any:
    """As the docstring of `to_torch` says."""
    return jax.tree.map(
        lambda x: torch.as_tensor(x) if isinstance(x, np.ndarray) else x, saved
    )


def values(tensors: Any) -> list[np.ndarray]:
    return [tensor.detach().numpy().copy() for tensor in tensors]


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


# --- Keras ---------------------------------------------------------------------------


def keras_optimizer(params: Any, scaled: bool, grows: int = 3, **options: Any) -> Any:
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras is not installed")
    numbers = {"learning_rate": cases.RATE, "beta_1": cases.B1, "beta_2": cases.B2}
    numbers |= {"epsilon": 2.0**-20, "weight_decay": cases.DECAY}
    optimizer = keras.optimizers.AdamW(**(numbers | options))
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=8.0, dynamic_growth_steps=grows
        )
    variables = [
        keras.Variable(x, name=f"v{i}") for i, x in enumerate(cases.leaves(params))
    ]
    optimizer.build(variables)
    return variables, optimizer


def keras_steps(
    variables: Any, optimizer: Any, params: Any, first: int, calls: int, scaled: bool
) -> None:
    for i in range(first, first + calls):
        grads = jax.tree.leaves(cases.gradients(params, i))
        if not scaled:
            optimizer.apply(grads, variables)
            continue
        # `apply` of a LossScaleOptimizer leaks a tracer outside of jit.
        scale = float(next(v for v in optimizer.variables if "dynamic_scale" in v.path))
        new, kept = jax.jit(optimizer.stateless_apply)(
            [v.value for v in optimizer.variables],
            [g * scale for g in grads],
            [v.value for v in variables],
        )
        for variable, value in zip(variables, new, strict=True):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, kept, strict=True):
            variable.assign(value)


SCALE = optadamw.DynamicLossScale(
    initial=8.0, growth_interval=3, minimum=2.0**-20, maximum=2.0**20
)
KERAS = {
    "plain": ({}, {}, 4),
    "amsgrad": ({"amsgrad": True}, {"amsgrad": True}, 4),
    "ema": ({"use_ema": True, "ema_momentum": 0.75}, {"ema_decay": 0.75}, 4),
    "open window": (
        {"gradient_accumulation_steps": 3},
        {"accumulate_steps": 3},
        4,
    ),
    "everything": (
        {"gradient_accumulation_steps": 2, "amsgrad": True, "scaled": True, "grows": 6},
        {"accumulate_steps": 2, "amsgrad": True, "loss_scale": SCALE},
        5,
    ),
    "loss scale": ({"scaled": True}, {"loss_scale": SCALE}, 4),
}


@pytest.mark.parametrize(("there", "here", "calls"), KERAS.values(), ids=KERAS)
@pytest.mark.parametrize("form", ["variables", "store", "arrays"])
def test_keras(there, here, calls, form, record_property):
    params, tx = cases.tree(), cases.adamw(eps_mode="hat", **here)
    there = dict(there)
    scaled = there.pop("scaled", False)
    variables, optimizer = keras_optimizer(params, scaled, **there)
    keras_steps(variables, optimizer, params, 0, calls, scaled)

    # There, then here.
    structure = jax.tree.structure(params)
    moved = jax.tree.unflatten(structure, [jnp.array(v.value) for v in variables])
    saved: Any = optimizer.variables
    names = [f"v{i}" for i in range(len(variables))]
    mapping = dict(zip(paths_of(params), names, strict=True))
    if form == "store":
        saved = {}
        optimizer.save_own_variables(saved)
    elif form == "arrays":
        saved = [np.asarray(v.value) for v in optimizer.variables]
    state = interchange.from_keras(
        saved, params, tx=tx, names=mapping if form == "variables" else None
    )
    after, last = trained_scaled(tx, moved, calls, calls, state, scaled)
    keras_steps(variables, optimizer, params, calls, calls, scaled)
    found = [np.array(v.value) for v in variables]
    distance = cases.ulps(cases.leaves(after), found)
    record_property(f"keras {there} {scaled} -> here", distance)
    assert distance <= CLOSE
    again = interchange.from_keras(optimizer.variables, params, tx=tx, names=mapping)
    for name in ("step", "micro_step", "weight", "loss_scale", "growth"):
        np.testing.assert_array_equal(getattr(last, name), getattr(again, name))
    for name in ("mu", "nu", "nu_max", "ema"):
        if getattr(last, name) is not None:
            pair = cases.leaves(getattr(last, name)), cases.leaves(getattr(again, name))
            assert cases.ulps(*pair) <= CLOSE, name

    # Here, then there.
    begun, state = trained_scaled(tx, params, calls, 0, tx.init(params), scaled)
    variables, optimizer = keras_optimizer(begun, scaled, **there)
    store = interchange.to_keras(state, params, tx=tx)
    optimizer.load_own_variables(store)
    assert len(store) == len(optimizer.variables)
    keras_steps(variables, optimizer, params, calls, calls, scaled)
    whole, _ = trained_scaled(tx, params, 2 * calls, 0, tx.init(params), scaled)
    found = [np.array(v.value) for v in variables]
    distance = cases.ulps(found, cases.leaves(whole))
    record_property(f"here -> keras {there} {scaled}", distance)
    assert distance <= CLOSE


def paths_of(params: Any) -> list[str]:
    found = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]


def trained_scaled(
    tx: Any, params: Any, calls: int, first: int, state: Any, scaled: bool
) -> tuple[Any, Any]:
    """As `cases.trained`, with gradients that carry the loss scale."""
    step = jax.jit(tx.step)
    for i in range(first, first + calls):
        grads = cases.gradients(params, i)
        if scaled:
            grads = jax.tree.map(lambda g, s=state: g * s.loss_scale, grads)
        params, state = step(grads, state, params)
    return params, state


# --- Optax ---------------------------------------------------------------------------


def rate(step: Any) -> Any:
    return cases.RATE / (1 + step)


def amsgradw() -> Any:
    return optax.chain(
        optax.scale_by_amsgrad(cases.B1, cases.B2, eps=2.0**-20),
        optax.add_decayed_weights(cases.DECAY),
        optax.scale_by_learning_rate(cases.RATE),
    )


def scheduled(**options: Any) -> Any:
    return optax.adamw(rate, cases.B1, cases.B2, eps=2.0**-20, weight_decay=cases.DECAY)


def injected() -> Any:
    return optax.inject_hyperparams(optax.adamw)(
        rate, cases.B1, cases.B2, eps=2.0**-20, weight_decay=cases.DECAY
    )


def windowed(every: int) -> Any:
    return optax.MultiSteps(cases.into(), every).gradient_transformation()


def ours(**options: Any) -> Any:
    return optadamw.adamw(
        rate, cases.B1, cases.B2, 2.0**-20, weight_decay=cases.DECAY, **options
    )


OPTAX = {
    "adamw": (cases.into, cases.adamw, 4),
    "schedule": (scheduled, ours, 4),
    "injected": (injected, ours, 4),
    "amsgrad": (amsgradw, lambda: cases.adamw(amsgrad="corrected"), 4),
    "window": (lambda: windowed(2), lambda: cases.adamw(accumulate_steps=2), 4),
    "open window": (lambda: windowed(4), lambda: cases.adamw(accumulate_steps=4), 6),
    "if finite": (lambda: optax.apply_if_finite(cases.into(), 3), cases.adamw, 4),
    "clipped": (
        lambda: optax.chain(optax.clip_by_global_norm(0.5), cases.into()),
        lambda: cases.adamw(clip_global_norm=0.5),
        4,
    ),
}


def optax_steps(tx: Any, params: Any, state: Any, first: int, calls: int) -> Any:
    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for i in range(first, first + calls):
        params, state = step(params, state, cases.gradients(params, i))
    return params, state


@pytest.mark.parametrize(("there", "here", "calls"), OPTAX.values(), ids=OPTAX)
def test_optax(there, here, calls, record_property):
    params, theirs, tx = cases.tree(), there(), here()
    begun, saved = optax_steps(theirs, params, theirs.init(params), 0, calls)
    whole, end = optax_steps(theirs, begun, saved, calls, calls)

    state = interchange.from_optax(saved, params, tx=tx)
    after, _ = cases.trained(tx, begun, calls, calls, state)
    distance = cases.ulps(cases.leaves(after), cases.leaves(whole))
    record_property("optax -> here", distance)
    assert distance <= CLOSE

    begun, state = cases.trained(tx, params, calls)
    moved = interchange.to_optax(state, params, tx=tx, into=theirs)
    assert jax.tree.structure(moved) == jax.tree.structure(end)
    after, _ = optax_steps(theirs, begun, moved, calls, calls)
    whole, _ = cases.trained(tx, params, 2 * calls)
    distance = cases.ulps(cases.leaves(after), cases.leaves(whole))
    record_property("here -> optax", distance)
    assert distance <= CLOSE


# --- Others --------------------------------------------------------------------------


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
