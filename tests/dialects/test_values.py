"""The peers' transformations print, compare, hash, pickle and compile as values."""

import copy
import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw.dialects import (
    flux,
    keras,
    mlx,
    optimi,
    paper,
    r_keras3,
    tensorflow,
    tensorflow_addons,
    timm,
    torch,
)
from optadamw.dialects import optax as optax_peer
from tests.dialects.documented import MODULES
from tests.dialects.training import PARAMS, gradients, halving, trained
from tests.support.compilations import Compilations


def a_tenth():
    """A callable without arguments."""
    return 0.1


VALUES = {
    "keras": lambda: keras.AdamW(halving, global_clipnorm=1.0, use_ema=True),
    "keras callable": lambda: keras.AdamW(a_tenth),
    "keras scale": lambda: keras.LossScaleOptimizer(keras.AdamW(0.1), 64.0, 3),
    "keras exclude": lambda: keras.exclude_from_weight_decay(
        keras.AdamW(), var_names=["bias"]
    ),
    "keras exclude last": lambda: keras.exclude_from_weight_decay(
        keras.AdamW(), var_names=["bias"], bug_compatible=True
    ),
    "keras micro": lambda: keras.AdamW(
        halving, gradient_accumulation_steps=2, bug_compatible=True
    ),
    "keras every call": lambda: keras.AdamW(
        use_ema=True, gradient_accumulation_steps=2, bug_compatible=True
    ),
    "r": lambda: r_keras3.optimizer_adam_w(0.1, gradient_accumulation_steps=4.0),
    "r scale": lambda: r_keras3.optimizer_loss_scale(r_keras3.optimizer_adam_w(0.1)),
    "torch": lambda: torch.AdamW(lr=3e-4, betas=(0.5, 0.9), clip_grad_norm=1.0),
    "torch groups": lambda: torch.AdamW(
        [{"params": "*/bias", "weight_decay": 0.0}], lr=0.1
    ),
    "torch scaler": lambda: torch.AdamW(grad_scaler=torch.GradScaler(init_scale=4.0)),
    "tensorflow": lambda: tensorflow.AdamW(0.1, use_ema=True),
    "tfa": lambda: tensorflow_addons.AdamW(halving, a_tenth, decay=0.1),
    "tfa list": lambda: tensorflow_addons.AdamW(
        0.1, decay_var_list=["dense/kernel"], exclude_from_weight_decay=["bias"]
    ),
    "flux": lambda: flux.AdamW(3e-4, (0.9, 0.95), 0.1, couple=False),
    "flux old": lambda: flux.old_AdamW(3e-4, (0.9, 0.95), 0.2),
    "mlx": lambda: mlx.AdamW(0.1, betas=[0.5, 0.9], clip_grad_norm=1.0),
    "optax": lambda: optax_peer.adamw(0.1, mask="*/kernel"),
    "optax nadamw": lambda: optax_peer.nadamw(0.1),
    "optax amsgrad": lambda: optax_peer.amsgrad(0.1, bias_correction_nu=False),
    "paper": lambda: paper.adamw(
        0.1,
        lambda_=paper.normalized_weight_decay(
            0.05, restarts=paper.cosine_warm_restarts(5, factor=2.0)
        ),
        eta=paper.cosine_warm_restarts(5, factor=2.0),
    ),
    "paper authors": lambda: paper.authors_adamw(0.1, lambda_=0.2),
    "optimi": lambda: optimi.AdamW(lr=0.1, decouple_lr=True, weight_decay=1e-5),
    "timm": lambda: timm.AdamWLegacy(lr=0.1, caution=True),
    "timm nadamw": lambda: timm.NAdamW([{"params": "*/bias", "lr": 0.5}], lr=0.1),
}

NAMES = MODULES | {
    "cosine_warm_restarts": optadamw.cosine_warm_restarts,
    "normalized_weight_decay": optadamw.normalized_weight_decay,
    "DynamicLossScale": optadamw.DynamicLossScale,
    "halving": halving,
    "a_tenth": a_tenth,
}


def readable(text):
    """A repr with functions by their names."""
    return re.sub(r"<function (?:\S+\.)?(\w+) at 0x\w+>", r"\1", text)


@pytest.mark.parametrize(
    "case",
    VALUES,
)
def test_a_transformation_prints_as_its_call(case):
    tx = VALUES[case]()
    assert eval(readable(repr(tx)), dict(NAMES)) == tx


@pytest.mark.parametrize("case", VALUES)
def test_a_transformation_is_a_value(case):
    first, second = VALUES[case](), VALUES[case]()
    assert first == second
    assert hash(first) == hash(second)
    for other in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert other == first
        assert hash(other) == hash(first)
        assert repr(other) == repr(first)
    others = [make() for name, make in VALUES.items() if name != case]
    assert not any(first == other for other in others)


@pytest.mark.parametrize(
    "case",
    VALUES,
)
def test_equal_ones_share_the_compiled_step(case):
    def stepped():
        tx = VALUES[case]()
        jax.block_until_ready(jax.jit(tx.step)(gradients(), tx.init(PARAMS), PARAMS))

    stepped()
    with Compilations() as compilations:
        stepped()
    assert compilations.count == 0


@pytest.mark.parametrize("case", VALUES)
def test_a_second_call_traces_nothing(case):
    tx, traces = VALUES[case](), 0

    def step(grads, state, params):
        nonlocal traces
        traces += 1
        return tx.step(grads, state, params)

    jitted, params, state = jax.jit(step), PARAMS, tx.init(PARAMS)
    shapes = jax.tree.map(jnp.shape, (params, state))
    for i in range(3):
        params, state = jitted(gradients(i), state, params)
    assert traces == 1
    assert jax.tree.map(jnp.shape, (params, state)) == shapes


@pytest.mark.parametrize("case", VALUES)
def test_a_transformation_works_in_scan_under_vmap_and_in_place(case):
    tx = VALUES[case]()
    expected, last = trained(tx, 3)
    grads = jax.tree.map(lambda *x: jnp.stack(x), *[gradients(i) for i in range(3)])

    def turn(carry, g):
        return tx.step(g, *carry[::-1]), None

    (scanned, state), _ = jax.jit(lambda c: jax.lax.scan(turn, c, grads))(
        (PARAMS, tx.init(PARAMS))
    )
    close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-7)
    jax.tree.map(close, scanned, expected)
    assert jax.tree.structure(state) == jax.tree.structure(last)

    both = jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS)
    state = jax.vmap(tx.init)(both)
    step = jax.jit(jax.vmap(tx.step))
    for i in range(3):
        g = jax.tree.map(lambda x: jnp.stack([x, x]), gradients(i))
        both, state = step(g, state, both)
    jax.tree.map(lambda x, y: close(x[1], y), both, expected)

    in_place = jax.jit(
        lambda p, s, g: tx.step(g, s, p), donate_argnums=(0, 1), keep_unused=True
    )
    params = jax.tree.map(lambda p: jnp.array(p, copy=True), PARAMS)
    state = tx.init(params)
    for i in range(3):
        params, state = in_place(params, state, gradients(i))
    jax.tree.map(close, params, expected)


@pytest.mark.parametrize(
    "call", [keras.AdamW, r_keras3.optimizer_adam_w, tensorflow.AdamW, torch.AdamW]
)
def test_calls_inside_inject_hyperparams(call):
    name = "lr" if call is torch.AdamW else "learning_rate"
    tx, params = optax.inject_hyperparams(call)(**{name: 0.5}), {"w": jnp.ones(2)}
    state = tx.init(params)
    updates, _ = tx.update(params, state, params)
    assert float(updates["w"][0]) == pytest.approx(-0.5, rel=0.02)


def test_addons_inside_inject_hyperparams():
    tx = optax.inject_hyperparams(tensorflow_addons.AdamW)(0.0, learning_rate=0.5)
    params = {"w": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert float(updates["w"][0]) == pytest.approx(-0.5, rel=0.02)
