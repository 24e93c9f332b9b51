"""The doors from their specification: names, order, defaults, values, what they refuse.

Numbers against the real packages are in `test_dialects_recorded.py` and
`test_dialects_live.py`; here is what a peer's documentation promises, in tables of our
own and not in those of the doors.
"""

import copy
import functools
import inspect
import itertools
import math
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import cli
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
from optadamw.dialects import optax as optax_door
from optadamw.dialects.catalogue import DOORS
from tests.support.compilations import Compilations

PAGE = Path(__file__).parents[2] / "docs" / "dialects.md"

MODULES = {
    "keras": keras,
    "r_keras3": r_keras3,
    "torch": torch,
    "tensorflow": tensorflow,
    "tensorflow_addons": tensorflow_addons,
    "flux": flux,
    "mlx": mlx,
    "optax": optax_door,
    "paper": paper,
    "optimi": optimi,
    "timm": timm,
}

# What the peers document. `params` is required there and None here: it is given to
# `init`. For the same reason optimi's `lr` has a default here that is refused.
_keras = (
    "learning_rate=0.001, weight_decay=0.004, beta_1=0.9, beta_2=0.999, epsilon=1e-7, "
    "amsgrad=False, clipnorm=None, clipvalue=None, global_clipnorm=None, "
    "use_ema=False, ema_momentum=0.99, ema_overwrite_frequency=None"
)
_torch = (
    "params=None, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, "
    "amsgrad=False"
)
_timm = "maximize=False, foreach=None, capturable=False, clipping_threshold=None"
_optax = "learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None"
_scale = "inner_optimizer, initial_scale=32768.0, dynamic_growth_steps=2000"
PEERS = {
    "keras.AdamW": (
        f"{_keras}, loss_scale_factor=None, gradient_accumulation_steps=None, name=None"
    ),
    "keras.LossScaleOptimizer": f"{_scale}, name=None",
    "r_keras3.optimizer_adam_w": (
        f"{_keras}, name='adamw', *, loss_scale_factor=None, "
        "gradient_accumulation_steps=None"
    ),
    "r_keras3.optimizer_loss_scale": f"{_scale}, *, name=None",
    "tensorflow.AdamW": f"{_keras}, jit_compile=True, name='AdamW'",
    "tensorflow_addons.AdamW": (
        "weight_decay, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, "
        "amsgrad=False, name='AdamW'"
    ),
    "torch.AdamW": (
        f"{_torch}, *, maximize=False, foreach=None, capturable=False, "
        "differentiable=False, fused=None"
    ),
    "torch.GradScaler": (
        "device='cuda', init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, "
        "growth_interval=2000, enabled=True"
    ),
    "flux.AdamW": (
        "eta=0.001, beta=(0.9, 0.999), lambda_=0.0, epsilon=1e-8, *, couple=True"
    ),
    "flux.old_AdamW": "eta=0.001, beta=(0.9, 0.999), decay=0.0",
    "mlx.AdamW": (
        "learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, "
        "bias_correction=False"
    ),
    "optax.adamw": f"{_optax}, weight_decay=1e-4, mask=None, *, nesterov=False",
    "optax.nadamw": f"{_optax}, weight_decay=1e-4, mask=None, *, nesterov=True",
    "optax.amsgrad": f"{_optax}, bias_correction_mu=True, bias_correction_nu=True",
    "paper.adamw": (
        "alpha=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8, lambda_=0.0, eta=None"
    ),
    "optimi.AdamW": (
        "params=None, lr=None, betas=(0.9, 0.99), weight_decay=1e-2, eps=1e-6, "
        "decouple_lr=False, max_lr=None, kahan_sum=None, foreach=None, triton=None, "
        "gradient_release=False"
    ),
    "timm.AdamWLegacy": (
        f"{_torch}, caution=False, corrected_weight_decay=False, {_timm}"
    ),
    "timm.NAdamW": (
        f"{_torch.removesuffix(', amsgrad=False')}, caution=False, "
        f"corrected_weight_decay=False, {_timm}"
    ),
}
ALIASES = {
    # Keywords that the peer takes through **kwargs or sets outside the call.
    "tensorflow_addons.AdamW": {
        "exclude_from_weight_decay", "decay_var_list", "clipnorm", "clipvalue",
        "global_clipnorm", "decay", "lr",
    },
}  # fmt: skip
OURS = {
    "keras.AdamW": {"bug_compatible"},
    "r_keras3.optimizer_adam_w": {"bug_compatible"},
    "tensorflow_addons.AdamW": {"bug_compatible"},
    "torch.AdamW": {"clip_grad_norm", "clip_grad_value", "grad_scaler"},
    "mlx.AdamW": {"clip_grad_norm"},
    "timm.AdamWLegacy": {"max_lr", "clip_grad_norm"},
    "timm.NAdamW": {"max_lr", "clip_grad_norm"},
    "optimi.AdamW": {"clip_grad_norm"},
}


def door_of(spelling):
    module, _, name = spelling.partition(".")
    return getattr(MODULES[module], name)


def documented(arguments):
    return inspect.signature(eval(f"lambda {arguments}: None")).parameters


@pytest.mark.parametrize("spelling", PEERS)
def test_a_door_has_the_arguments_order_and_defaults_of_its_peer(spelling):
    peer = documented(PEERS[spelling])
    here = dict(inspect.signature(door_of(spelling)).parameters)
    ours = OURS.get(spelling, set()) | ALIASES.get(spelling, set())
    assert ours <= set(here)
    for name in ours:
        assert here[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert here.pop(name).default in (None, False)
    here = [p for p in here.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    assert [p.name for p in here] == list(peer)
    for parameter in here:
        assert parameter.default == peer[parameter.name].default, parameter
        assert type(parameter.default) is type(peer[parameter.name].default)
        assert parameter.kind == peer[parameter.name].kind


@pytest.mark.parametrize("name", DOORS)
def test_a_door_says_of_every_argument_what_it_is_here(name):
    door = DOORS[name]
    parameters = inspect.signature(door.function).parameters
    known = [
        p.name
        for p in parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    assert sorted(known) == sorted([*door.arguments, *door.ours])
    assert [n for n in known if n in door.arguments] == [
        n for n in known if n not in door.ours
    ]
    for function in (door.function, *door.others):
        text = inspect.getdoc(function)
        for parameter in inspect.signature(function).parameters:
            assert re.search(rf"^  \**{parameter}: ", text, re.M), parameter


def test_the_doors_are_the_peers_of_the_issue():
    assert list(DOORS) == list(MODULES)
    for name, door in DOORS.items():
        assert door.function is door_of(f"{name}.{door.function.__name__}")


# --- the page and the command --------------------------------------------------------


def test_the_page_is_what_the_command_prints(capsys):
    assert cli.main(["dialects", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


def test_the_command_prints_every_door(capsys):
    assert cli.main(["dialects"]) == 0
    out = capsys.readouterr().out
    for door in DOORS.values():
        assert f"{door.peer} ({door.studied})" in out
        assert door.formula in out


@pytest.mark.parametrize("name", DOORS)
def test_the_command_prints_one_door(name, capsys):
    assert cli.main(["dialects", name]) == 0
    out = capsys.readouterr().out
    door = DOORS[name]
    assert out.startswith(f"{door.peer} (")
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    for argument in (*door.arguments, *door.ours):
        assert argument in lines
    others = [d for d in DOORS.values() if d.peer not in door.peer]
    assert not any(f"{d.peer} (" in out for d in others)


@pytest.mark.parametrize("name", ["pytorch", "Keras", "", "moon"])
def test_the_command_refuses_an_unknown_name(name, capsys):
    assert cli.main(["dialects", name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"got {name!r}. Near it: '" in printed.err
    assert printed.err.count("\n") == 1


def test_the_command_names_the_door_that_was_meant(capsys):
    cli.main(["dialects", "pytorch"])
    assert "Near it: 'torch'" in capsys.readouterr().err


# --- what each call is here ----------------------------------------------------------


def halving(step):
    """A schedule by name, so that what uses it pickles."""
    return 0.1 * 0.5**step


def a_tenth():
    """A callable without arguments."""
    return 0.1


_hat = {"eps_mode": "hat"}
_keras_defaults = {"eps": 1e-7, "weight_decay": 0.004, "eps_mode": "hat"}
_keras_defaults |= {"amsgrad": False}
adamw = functools.partial(optadamw.adamw)
MEANS = {
    "keras": (keras.AdamW(), adamw(0.001, **_keras_defaults)),
    "keras positions": (
        keras.AdamW(0.1, 0.2, 0.5, 0.6, 1e-3, True, 1.5),
        adamw(
            0.1, 0.5, 0.6, 1e-3, weight_decay=0.2, amsgrad=True, clip_norm=1.5, **_hat
        ),
    ),
    "keras clipvalue": (
        keras.AdamW(clipvalue=0.5), adamw(0.001, clip_value=0.5, **_keras_defaults),
    ),
    "keras global_clipnorm": (
        keras.AdamW(global_clipnorm=0.5),
        adamw(0.001, clip_global_norm=0.5, **_keras_defaults),
    ),
    "keras accumulation": (
        keras.AdamW(gradient_accumulation_steps=3),
        adamw(0.001, accumulate_steps=3, **_keras_defaults),
    ),
    "keras loss scale": (
        keras.AdamW(loss_scale_factor=64.0),
        adamw(0.001, loss_scale=64.0, **_keras_defaults),
    ),
    "keras schedule": (keras.AdamW(halving), adamw(halving, **_keras_defaults)),
    "r": (r_keras3.optimizer_adam_w(), keras.AdamW()),
    "r accumulation": (
        r_keras3.optimizer_adam_w(gradient_accumulation_steps=2.0),
        keras.AdamW(gradient_accumulation_steps=2),
    ),
    "r average": (
        r_keras3.optimizer_adam_w(use_ema=True, ema_overwrite_frequency=5.0),
        keras.AdamW(use_ema=True, ema_overwrite_frequency=5),
    ),
    "r loss scale": (
        r_keras3.optimizer_loss_scale(r_keras3.optimizer_adam_w(), 1024, 5.0),
        keras.LossScaleOptimizer(keras.AdamW(), 1024.0, 5),
    ),
    "tensorflow": (tensorflow.AdamW(), keras.AdamW()),
    "tensorflow average": (
        tensorflow.AdamW(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=4),
        adamw(0.001, ema_decay=0.9, ema_overwrite_every=4, **_keras_defaults),
    ),
    "tfa": (
        tensorflow_addons.AdamW(0.01),
        adamw(
            0.001, eps=1e-7, weight_decay=0.01, weight_decay_mode="independent",
            amsgrad=False, **_hat,
        ),
    ),
    "tfa clips": (
        tensorflow_addons.AdamW(0.01, 0.1, clipvalue=0.5, global_clipnorm=2.0),
        adamw(
            0.1, eps=1e-7, weight_decay=0.01, weight_decay_mode="independent",
            amsgrad=False, clip_value=0.5, clip_global_norm=2.0, **_hat,
        ),
    ),
    "tfa lr": (
        tensorflow_addons.AdamW(0.01, lr=0.5), tensorflow_addons.AdamW(0.01, 0.5),
    ),
    "tfa epsilon": (
        tensorflow_addons.AdamW(0.01, epsilon=0, bug_compatible=True),
        tensorflow_addons.AdamW(0.01),
    ),
    "torch": (torch.AdamW(), adamw(0.001, weight_decay=0.01)),
    "torch positions": (
        torch.AdamW(None, 0.1, (0.5, 0.6), 1e-3, 0.2, True, maximize=True),
        adamw(0.1, 0.5, 0.6, 1e-3, weight_decay=0.2, amsgrad=True, maximize=True),
    ),
    "torch clips": (
        torch.AdamW(clip_grad_norm=1.0, clip_grad_value=2.0),
        adamw(
            0.001, weight_decay=0.01, clip_global_norm=1.0, clip_eps=1e-6,
            clip_value=2.0,
        ),
    ),
    "torch flags": (
        torch.AdamW(foreach=True, capturable=True, differentiable=True, fused=False),
        torch.AdamW(),
    ),
    "torch no scaler": (
        torch.AdamW(grad_scaler=torch.GradScaler(enabled=False)), torch.AdamW(),
    ),
    "torch groups": (
        torch.AdamW([{"params": "*/bias", "weight_decay": 0.0, "betas": (0.5, 0.6)}]),
        adamw(
            0.001, weight_decay=0.01,
            groups=[("*/bias", {"weight_decay": 0.0, "b1": 0.5, "b2": 0.6})],
        ),
    ),
    "torch star": (torch.AdamW("*"), torch.AdamW()),
    "flux": (flux.AdamW(), adamw(0.001, weight_decay=0.0)),
    "flux uncoupled": (
        flux.AdamW(0.1, (0.5, 0.6), 0.2, 1e-3, couple=False),
        adamw(0.1, 0.5, 0.6, 1e-3, weight_decay=0.2, weight_decay_mode="independent"),
    ),
    "flux old": (
        flux.old_AdamW(0.1, (0.5, 0.6), 0.2),
        flux.AdamW(0.1, (0.5, 0.6), 0.2, couple=False),
    ),
    "mlx": (
        mlx.AdamW(0.001), adamw(0.001, weight_decay=0.01, bias_correction=False),
    ),
    "mlx corrected": (
        mlx.AdamW(0.1, [0.5, 0.6], 1e-3, 0.2, True),
        adamw(0.1, 0.5, 0.6, 1e-3, weight_decay=0.2),
    ),
    "mlx clip": (
        mlx.AdamW(0.1, clip_grad_norm=2.0),
        adamw(
            0.1, weight_decay=0.01, bias_correction=False, clip_global_norm=2.0,
            clip_eps=1e-6,
        ),
    ),
    "optax": (optax_door.adamw(0.1), adamw(0.1)),
    "optax positions": (
        optax_door.adamw(0.1, 0.5, 0.6, 1e-3, 1e-4, "bfloat16", 0.2, "*/kernel"),
        adamw(0.1, 0.5, 0.6, 1e-3, 1e-4, "bfloat16", 0.2, "*/kernel"),
    ),
    "optax nadamw": (optax_door.nadamw(0.1), adamw(0.1, nesterov=True)),
    "optax nadamw off": (optax_door.nadamw(0.1, nesterov=False), adamw(0.1)),
    "paper": (
        paper.adamw(0.1, lambda_=0.2),
        adamw(
            0.1, weight_decay=0.2, weight_decay_mode="schedule", max_learning_rate=0.1
        ),
    ),
    "paper authors": (
        paper.authors_adamw(0.1, lambda_=0.2),
        adamw(
            0.1, weight_decay=0.2, weight_decay_mode="schedule", max_learning_rate=0.1,
            **_hat,
        ),
    ),
    "optimi": (optimi.AdamW(lr=0.1), adamw(0.1, 0.9, 0.99, 1e-6, weight_decay=0.01)),
    "optimi decoupled": (
        optimi.AdamW(lr=0.1, weight_decay=1e-5, decouple_lr=True),
        adamw(
            0.1, 0.9, 0.99, 1e-6, weight_decay=1e-5, weight_decay_mode="schedule",
            max_learning_rate=0.1,
        ),
    ),
    "optimi max_lr": (
        optimi.AdamW(lr=halving, weight_decay=1e-5, decouple_lr=True, max_lr=0.5),
        adamw(
            halving, 0.9, 0.99, 1e-6, weight_decay=1e-5, weight_decay_mode="schedule",
            max_learning_rate=0.5,
        ),
    ),
    "timm": (timm.AdamWLegacy(), torch.AdamW()),
    "timm caution": (
        timm.AdamWLegacy(lr=0.1, caution=True, corrected_weight_decay=True),
        adamw(
            0.1, weight_decay=0.01, caution=True, weight_decay_mode="corrected",
            max_learning_rate=0.1,
        ),
    ),
    "timm nadamw": (timm.NAdamW(), adamw(0.001, weight_decay=0.01, nesterov="current")),
}  # fmt: skip

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]]), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([-1.0, 1.0])},
}


def gradients(i=0, like=None):
    """Gradients unlike at every call."""
    like = PARAMS if like is None else like
    return jax.tree.map(
        lambda p: jnp.cos(i + 1.0 + jnp.arange(p.size, dtype=jnp.float32)).reshape(
            p.shape
        ),
        like,
    )


def trained(tx, calls=4, params=None, grads=gradients):
    """Parameters and state after some calls of the jitted step."""
    params = PARAMS if params is None else params
    step, state = jax.jit(tx.step), tx.init(params)
    for i in range(calls):
        params, state = step(grads(i), state, params)
    return params, state


def same_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return not all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("case", MEANS)
def test_a_call_is_the_call_of_adamw_that_it_claims(case):
    here, claimed = MEANS[case]
    same_trees(trained(here)[0], trained(claimed)[0])


@pytest.mark.parametrize("case", MEANS)
def test_a_call_has_the_rules_of_the_call_of_adamw(case):
    here, claimed = MEANS[case]
    assert here.recipe.composition == claimed.recipe.composition
    assert here == claimed
    assert hash(here) == hash(claimed)


# --- doors are values ----------------------------------------------------------------

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
    "optax": lambda: optax_door.adamw(0.1, mask="*/kernel"),
    "optax nadamw": lambda: optax_door.nadamw(0.1),
    "optax amsgrad": lambda: optax_door.amsgrad(0.1, bias_correction_nu=False),
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
    "CosineWarmRestarts": optadamw.schedules.CosineWarmRestarts,
    "NormalizedWeightDecay": optadamw.schedules.NormalizedWeightDecay,
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
def test_a_door_prints_as_its_call(case):
    tx = VALUES[case]()
    assert eval(readable(repr(tx)), dict(NAMES)) == tx


@pytest.mark.parametrize("case", VALUES)
def test_a_door_is_a_value(case):
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
def test_a_door_works_in_scan_under_vmap_and_in_place(case):
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


# --- callables without arguments -----------------------------------------------------


class Asked:
    """A callable that counts how often it is asked, and answers differently."""

    def __init__(self, *answers):
        self.answers = answers
        self.count = 0

    def __call__(self):
        self.count += 1
        return self.answers[min(self.count, len(self.answers)) - 1]


ASKING = {
    "keras learning_rate": lambda f: keras.AdamW(f, weight_decay=0.0),
    "keras accumulation": lambda f: keras.AdamW(
        f, weight_decay=0.0, loss_scale_factor=1.0
    ),
    "r learning_rate": lambda f: r_keras3.optimizer_adam_w(f, weight_decay=0.0),
    "tensorflow learning_rate": lambda f: tensorflow.AdamW(f, weight_decay=0.0),
    "tfa learning_rate": lambda f: tensorflow_addons.AdamW(0.0, f),
    "tfa lr": lambda f: tensorflow_addons.AdamW(0.0, lr=f),
}


def moved(before, after):
    return float(before["w"][0] - after["w"][0])


@pytest.mark.parametrize("case", ASKING)
def test_a_callable_rate_is_asked_at_every_step_under_jit(case):
    asked = Asked(0.5, 0.25, 2.0)
    tx = ASKING[case](asked)
    params = {"w": jnp.array([8.0])}
    state, step, found = tx.init(params), jax.jit(tx.step), []
    before = asked.count
    for _ in range(3):
        new, state = step({"w": jnp.ones(1)}, state, params)
        jax.block_until_ready(new)
        found.append(moved(params, new))
        params = new
    np.testing.assert_allclose(found, [0.5, 0.25, 2.0], rtol=1e-5)
    assert asked.count - before == 3


def test_a_callable_rate_is_asked_at_every_turn_of_a_scan():
    asked = Asked(0.5, 0.25, 2.0, 1.0)
    tx = keras.AdamW(asked, weight_decay=0.0)
    params = {"w": jnp.array([8.0])}

    @jax.jit
    def run(carry):
        def turn(carry, _):
            after = tx.step({"w": jnp.ones(1)}, *carry[::-1])
            return after, carry[0]["w"][0] - after[0]["w"][0]

        return jax.lax.scan(turn, carry, None, length=4)[1]

    found = run((params, tx.init(params)))
    np.testing.assert_allclose(found, [0.5, 0.25, 2.0, 1.0], rtol=1e-5)
    assert asked.count == 4


def test_a_callable_rate_is_asked_at_every_step_under_vmap():
    asked = Asked(0.5, 0.5, 2.0, 2.0)
    tx = keras.AdamW(asked, weight_decay=0.0)
    params = {"w": jnp.full((2, 1), 8.0)}
    state, step = jax.vmap(tx.init)(params), jax.jit(jax.vmap(tx.step))
    first, state = step({"w": jnp.ones((2, 1))}, state, params)
    second, state = step({"w": jnp.ones((2, 1))}, state, first)
    np.testing.assert_allclose(params["w"] - first["w"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(first["w"] - second["w"], 2.0, rtol=1e-5)


def test_every_hyperparameter_of_addons_may_be_a_callable():
    numbers = {
        "weight_decay": 0.25, "learning_rate": 0.5, "beta_1": 0.5, "beta_2": 0.75,
        "epsilon": 1e-3,
    }  # fmt: skip
    asked = {name: Asked(number) for name, number in numbers.items()}
    found, _ = trained(tensorflow_addons.AdamW(**asked))
    expected, _ = trained(tensorflow_addons.AdamW(**numbers))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-6), found, expected
    )
    assert {name: f.count for name, f in asked.items()} == dict.fromkeys(asked, 4)


def test_every_hyperparameter_of_addons_may_be_a_schedule():
    numbers = {
        "weight_decay": 0.25, "learning_rate": 0.5, "beta_1": 0.5, "beta_2": 0.75,
        "epsilon": 1e-3,
    }  # fmt: skip
    schedules = {
        name: (lambda step, number=number: number + 0.0 * step)
        for name, number in numbers.items()
    }
    expected, _ = trained(tensorflow_addons.AdamW(**numbers))
    found, _ = trained(tensorflow_addons.AdamW(**schedules))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-6), found, expected
    )


def test_a_callable_of_defaults_alone_that_takes_a_step_is_a_schedule():
    tx = keras.AdamW(optax.constant_schedule(0.5), weight_decay=0.0)
    params = {"w": jnp.array([8.0])}
    after, _ = tx.step({"w": jnp.ones(1)}, tx.init(params), params)
    assert moved(params, after) == pytest.approx(0.5, rel=1e-5)


def test_what_a_callable_raises_is_not_hidden():
    def broken():
        raise RuntimeError("the moon is away")

    tx = keras.AdamW(broken)
    with pytest.raises(Exception, match="the moon is away"):
        jax.block_until_ready(jax.jit(tx.step)(gradients(), tx.init(PARAMS), PARAMS))


# --- what a schedule and an average count --------------------------------------------


def rates(tx, calls, k):
    """How far each call of constant gradients moves a parameter."""
    params = {"w": jnp.array([100.0])}
    state, step, found = tx.init(params), jax.jit(tx.step), []
    for _ in range(calls):
        new, state = step({"w": jnp.ones(1)}, state, params)
        found.append(moved(params, new))
        params = new
    assert all(found[i] == 0 for i in range(calls) if (i + 1) % k)
    return found[k - 1 :: k]


def counting(step):
    """A rate that says which step it was asked for."""
    return 1.0 + step


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("door", [keras.AdamW, r_keras3.optimizer_adam_w])
def test_schedules_count_steps_or_gradient_calls(door, k):
    options = {"weight_decay": 0.0, "gradient_accumulation_steps": k}
    sane = rates(door(counting, **options), 3 * k, k)
    np.testing.assert_allclose(sane, [1, 2, 3], rtol=1e-4)
    # Keras asks its schedule for `_iterations`, which counts calls.
    as_keras = rates(door(counting, bug_compatible=True, **options), 3 * k, k)
    np.testing.assert_allclose(as_keras, [k, 2 * k, 3 * k], rtol=1e-4)


def test_bug_compatible_changes_nothing_without_accumulation():
    for options in ({}, {"learning_rate": halving}, {"use_ema": True}):
        a = keras.AdamW(**options, bug_compatible=True)
        assert a == keras.AdamW(**options)


def averaged(params, momentum, start):
    """The average of semantics.md 2.4, of parameters after each step."""
    for x in params:
        start = momentum * start + (1 - momentum) * x
    return start


def trail(tx, calls, params=None):
    params = PARAMS if params is None else params
    step, state, found = jax.jit(tx.step), tx.init(params), []
    for i in range(calls):
        params, state = step(gradients(i, params), state, params)
        found.append((params, state))
    return found


def test_the_average_of_keras_3_begins_as_a_copy_and_that_of_keras_2_as_the_start():
    options = {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.75}
    for tx, start in (
        (keras.AdamW(**options), None),
        (tensorflow.AdamW(**options), np.asarray(PARAMS["norm"]["scale"], np.float64)),
    ):
        seen = trail(tx, 3)
        values = [np.asarray(p["norm"]["scale"], np.float64) for p, _ in seen]
        first = values[0] if start is None else 0.75 * start + 0.25 * values[0]
        expected = [first]
        for value in values[1:]:
            expected.append(0.75 * expected[-1] + 0.25 * value)
        for (_, state), average in zip(seen, expected, strict=True):
            found = optadamw.ema_of(state)["norm"]["scale"]
            np.testing.assert_allclose(found, average, rtol=3e-7)


@pytest.mark.parametrize("k", [2, 3])
def test_keras_moves_its_average_at_every_call(k):
    """semantics.md 2.4: with accumulation the first k calls copy, then k per step."""
    options = {
        "learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.75,
        "gradient_accumulation_steps": k,
    }  # fmt: skip
    for compatible in (False, True):
        tx = keras.AdamW(**options, bug_compatible=compatible)
        average = np.asarray(PARAMS["norm"]["scale"], np.float64)
        steps = 0
        for call, (params, state) in enumerate(trail(tx, 4 * k)):
            value = np.asarray(params["norm"]["scale"], np.float64)
            is_step = (call + 1) % k == 0
            finished = call // k
            if compatible:
                momentum = 0.75 if finished else 0.0
                average = momentum * average + (1 - momentum) * value
            elif is_step:
                momentum = 0.75 if steps else 0.0
                average = momentum * average + (1 - momentum) * value
                steps += 1
            found = optadamw.ema_of(state)["norm"]["scale"]
            np.testing.assert_allclose(found, average, rtol=1e-6)


def test_keras_overwrites_at_every_call_of_a_window():
    options = {
        "learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.75,
        "ema_overwrite_frequency": 2, "gradient_accumulation_steps": 3,
    }  # fmt: skip
    for compatible, written in ((True, {9, 10, 11}), (False, {11})):
        tx = keras.AdamW(**options, bug_compatible=compatible)
        for call, (params, state) in enumerate(trail(tx, 12)):
            average = optadamw.ema_of(state)["norm"]["scale"]
            is_equal = np.array_equal(params["norm"]["scale"], average)
            # Until the third step the average is a copy, or was written and waits.
            assert is_equal == (call < 8 or call in written), call


def test_finalize_gives_the_average_and_refuses_before_the_first_step():
    for door, module in ((keras.AdamW, keras), (tensorflow.AdamW, tensorflow)):
        tx = door(0.1, use_ema=True, ema_momentum=0.5)
        with pytest.raises(ValueError, match="no step was taken"):
            module.finalize_variable_values(tx.init(PARAMS), PARAMS)
        params, state = trained(tx)
        final = module.finalize_variable_values(state, params)
        same_trees(final, optadamw.ema_of(state))
        assert differ(final, params)
        plain = door(0.1)
        with pytest.raises(ValueError, match="average"):
            module.finalize_variable_values(plain.init(PARAMS), PARAMS)


def test_finalize_of_the_pair_of_states():
    tx = keras.AdamW(
        0.1, use_ema=True, gradient_accumulation_steps=2, bug_compatible=True
    )
    with pytest.raises(ValueError, match="no step was taken"):
        keras.finalize_variable_values(tx.init(PARAMS), PARAMS)
    params, state = trained(tx)
    same_trees(keras.finalize_variable_values(state, params), optadamw.ema_of(state))


# --- which parameters decay ----------------------------------------------------------


def undecayed(tx):
    """Paths of the parameters that zero gradients leave alone."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    after, _ = tx.step(zeros, tx.init(PARAMS), PARAMS)
    found = jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: bool((a == b).all()), after, PARAMS)
    )
    return {"/".join(key.key for key in path) for path, kept in found if kept}


BIASES = {"dense/bias", "norm/bias"}
EXCLUDING = (
    (keras.AdamW, keras.exclude_from_weight_decay),
    (tensorflow.AdamW, tensorflow.exclude_from_weight_decay),
)


@pytest.mark.parametrize(("door", "exclude"), EXCLUDING)
def test_exclude_from_weight_decay(door, exclude):
    tx = door(0.1, 0.5)
    assert undecayed(tx) == set()
    assert undecayed(exclude(tx, var_names=["bias"])) == BIASES
    assert undecayed(exclude(tx, var_names=["^norm", "kernel$"])) == {
        "norm/scale", "norm/bias", "dense/kernel",
    }  # fmt: skip
    assert undecayed(exclude(tx, var_list=["dense/bias"])) == {"dense/bias"}
    assert undecayed(exclude(tx, ["dense/bias"], ["scale"])) == {
        "dense/bias",
        "norm/scale",
    }
    assert undecayed(tx) == set()  # a value: the first is as it was


@pytest.mark.parametrize(("door", "exclude"), EXCLUDING)
def test_a_list_is_of_exact_paths(door, exclude):
    tx = exclude(door(0.1, 0.5), var_list=["dense/bia."])
    with pytest.raises(ValueError, match="dense/bias"):
        tx.init(PARAMS)


@pytest.mark.parametrize(("door", "exclude"), EXCLUDING)
def test_a_second_exclusion_replaces_the_first(door, exclude):
    first = exclude(door(0.1, 0.5), var_names=["bias"])
    assert undecayed(exclude(first, var_names=["scale"])) == {"norm/scale"}


@pytest.mark.parametrize(("door", "exclude"), EXCLUDING)
@pytest.mark.parametrize("choice", [{"var_names": ["moon"]}, {"var_list": ["bias"]}])
def test_an_exclusion_without_a_match_names_near_paths(door, exclude, choice):
    tx = exclude(door(0.1, 0.5), **choice)
    with pytest.raises(ValueError, match=r"matches no parameter. Paths near.*/"):
        tx.init(PARAMS)


@pytest.mark.parametrize("last", [["bias"], ["^bias$"], ["ias", "nothing"]])
def test_keras_searches_the_last_name_alone(last):
    excluded = functools.partial(
        keras.exclude_from_weight_decay, keras.AdamW(0.1, 0.5), bug_compatible=True
    )
    assert undecayed(excluded(var_names=last)) == BIASES
    assert undecayed(excluded(var_names=["dense"])) == set()
    assert undecayed(excluded(var_names=["dense/bias"])) == set()


@pytest.mark.parametrize(("door", "exclude"), EXCLUDING)
@pytest.mark.parametrize(
    ("choice", "error", "text"),
    [
        ({}, ValueError, "var_list.*var_names"),
        ({"var_names": "bias"}, TypeError, "list of strings"),
        ({"var_list": "dense/bias"}, TypeError, "list of strings"),
        ({"var_names": []}, (TypeError, ValueError), "var_names"),
        ({"var_names": ["("]}, ValueError, "regular expressions"),
        ({"var_names": [None]}, TypeError, "var_names"),
        ({"var_list": [jnp.ones(2)]}, TypeError, "no identity"),
    ],
)
def test_a_bad_exclusion(door, exclude, choice, error, text):
    with pytest.raises(error, match=text):
        exclude(door(0.1, 0.5), **choice)


def test_an_exclusion_from_what_is_no_optimizer():
    with pytest.raises(TypeError, match="optimizer"):
        keras.exclude_from_weight_decay(optax.adamw(0.1), var_names=["bias"])
    with pytest.raises(ValueError, match="no weight decay"):
        keras.exclude_from_weight_decay(optax_door.amsgrad(0.1), var_names=["bias"])


def test_an_exclusion_inside_a_loss_scale_and_around_an_accumulation():
    inner = keras.exclude_from_weight_decay(keras.AdamW(0.1, 0.5), var_names=["bias"])
    assert undecayed(keras.LossScaleOptimizer(inner)) == BIASES
    outer = keras.LossScaleOptimizer(keras.AdamW(0.1, 0.5))
    assert (
        undecayed(keras.exclude_from_weight_decay(outer, var_names=["bias"])) == BIASES
    )
    every = keras.AdamW(
        0.1, 0.5, use_ema=True, gradient_accumulation_steps=2, bug_compatible=True
    )
    every = keras.exclude_from_weight_decay(every, var_names=["bias"])
    params, _ = trained(every, 2, grads=lambda i: jax.tree.map(jnp.zeros_like, PARAMS))
    same_trees(params["norm"]["bias"], PARAMS["norm"]["bias"])
    assert differ(params["norm"]["scale"], PARAMS["norm"]["scale"])


def test_the_list_of_addons_goes_before_its_exclusion():
    door = functools.partial(tensorflow_addons.AdamW, 0.5)
    kernel, everything = "dense/kernel", BIASES | {"dense/kernel", "norm/scale"}
    assert undecayed(door()) == set()
    assert undecayed(door(exclude_from_weight_decay=["bias"])) == BIASES
    assert undecayed(door(decay_var_list=[kernel])) == everything - {kernel}
    both = door(decay_var_list=[kernel], exclude_from_weight_decay=["kernel"])
    assert undecayed(both) == everything - {kernel}
    with pytest.raises((TypeError, ValueError), match="decay_var_list"):
        door(decay_var_list=[])
    for choice in (
        {"decay_var_list": ["moon"]},
        {"exclude_from_weight_decay": ["moon"]},
    ):
        with pytest.raises(ValueError, match="matches no parameter"):
            door(**choice).init(PARAMS)


def test_the_decay_of_addons_is_not_times_the_rate():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for rate in (1e-3, 7.0):
        tx = tensorflow_addons.AdamW(0.5, rate)
        after, _ = tx.step(zeros, tx.init(PARAMS), PARAMS)
        same_trees(after, jax.tree.map(lambda p: 0.5 * p, PARAMS))


def test_the_decay_argument_of_addons_divides_the_rate():
    tx = tensorflow_addons.AdamW(0.0, 1.0, decay=0.5)
    found = rates(tx, 4, 1)
    np.testing.assert_allclose(found, [1 / (1 + 0.5 * i) for i in range(4)], rtol=1e-4)


# --- param groups --------------------------------------------------------------------

GROUPED = {
    "torch": torch.AdamW,
    "timm": timm.AdamWLegacy,
    "timm nadamw": timm.NAdamW,
    "optimi": functools.partial(optimi.AdamW, lr=0.1),
}


@pytest.mark.parametrize("case", GROUPED)
def test_param_groups(case):
    door = functools.partial(GROUPED[case], lr=0.1)
    groups = [
        {"params": "*/bias", "weight_decay": 0.0},
        {"params": "norm/*", "lr": 0.5, "eps": 0.25},
        {"params": "*/*", "lr": 0.75},  # the first that matches counts
    ]
    found, _ = trained(door(groups))
    plain, _ = trained(door(lr=0.75))
    bias, _ = trained(door(weight_decay=0.0))
    norm, _ = trained(door(lr=0.5, eps=0.25))
    same_trees(found["dense"]["kernel"], plain["dense"]["kernel"])
    same_trees(found["dense"]["bias"], bias["dense"]["bias"])
    same_trees(found["norm"]["bias"], bias["norm"]["bias"])
    same_trees(found["norm"]["scale"], norm["norm"]["scale"])
    assert differ(found["norm"]["bias"], plain["norm"]["bias"])


@pytest.mark.parametrize("case", GROUPED)
def test_betas_and_an_array_of_one_element_in_a_group(case):
    door = GROUPED[case]
    group = {"params": "*/bias", "betas": (0.5, 0.75), "lr": jnp.full(1, 0.5)}
    found, _ = trained(door([group]))
    expected, _ = trained(door(betas=(0.5, 0.75), lr=0.5))
    for layer in ("dense", "norm"):
        np.testing.assert_allclose(
            found[layer]["bias"], expected[layer]["bias"], rtol=1e-6
        )
    single, _ = trained(door([{"params": "*/bias", "betas": (0.5, 0.75)}]))
    assert differ(single["norm"]["bias"], trained(door())[0]["norm"]["bias"])


@pytest.mark.parametrize("option", ["amsgrad", "maximize"])
def test_switches_in_a_group_of_torch(option):
    found, _ = trained(torch.AdamW([{"params": "*/bias", option: True}], lr=0.1), 6)
    expected, _ = trained(torch.AdamW(lr=0.1, **{option: True}), 6)
    plain, _ = trained(torch.AdamW(lr=0.1), 6)
    same_trees(found["norm"]["bias"], expected["norm"]["bias"])
    same_trees(found["norm"]["scale"], plain["norm"]["scale"])


@pytest.mark.parametrize("case", GROUPED)
@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ([], ValueError, "empty parameter list"),
        ([{"lr": 0.1}], ValueError, r"params\[0\].*'params'"),
        ([{"params": "*/bias", "moon": 1}], TypeError, r"params\[0\].*'moon'"),
        (
            [{"params": "*/bias", "learning_rate": 1.0}],
            TypeError,
            "learning_rate.*Near",
        ),
        (PARAMS, TypeError, r"tx.init\(params\)"),
        ([jnp.ones(2)], TypeError, r"tx.init\(params\)"),
        (jnp.ones(2), TypeError, r"tx.init\(params\)"),
        ({"a", "b"}, TypeError, "params"),
        (0.1, TypeError, "params"),  # the rate in the place of the parameters
        ([{"params": "*/bias", "lr": -1.0}], ValueError, "bias.*>= 0; got -1.0"),
        ([{"params": "*/bias", "betas": 0.9}], TypeError, "betas"),
        ([{"params": "*/bias", "betas": (1.5, 0.9)}], ValueError, r"\[0, 1\)"),
    ],
)
def test_bad_param_groups(case, params, error, text):
    with pytest.raises(error, match=text):
        GROUPED[case](params)


@pytest.mark.filterwarnings("error")
def test_a_generator_of_parameters():
    """`model.parameters()` of those who come from PyTorch."""
    with pytest.raises(TypeError, match=r"tx.init\(params\)"):
        torch.AdamW(p for p in [jnp.ones(2)])


def test_a_group_of_no_parameters():
    with pytest.raises((TypeError, ValueError), match=r"params\[0\]"):
        torch.AdamW([{"params": [], "lr": 1.0}])


@pytest.mark.parametrize("case", GROUPED)
def test_a_group_without_a_match(case):
    tx = GROUPED[case]([{"params": "*/moon", "lr": 1.0}])
    with pytest.raises(ValueError, match=r"moon.*matches no parameter.*dense"):
        tx.init(PARAMS)


def test_a_group_of_nadamw_has_no_amsgrad():
    with pytest.raises(TypeError, match="amsgrad"):
        timm.NAdamW([{"params": "*/bias", "amsgrad": True}])


# --- arrays and complex numbers ------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("kind", [np.float32, jnp.float32])
def test_a_rate_of_torch_may_be_an_array_of_one_element(shape, kind):
    whole = kind(np.full(shape, 0.125)) if shape else kind(0.125)
    for door in (torch.AdamW, timm.AdamWLegacy, timm.NAdamW, optimi.AdamW):
        found, _ = trained(door(lr=jnp.asarray(whole)))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6),
            found,
            trained(door(lr=0.125))[0],
        )


def test_a_rate_of_torch_may_be_traced():
    @jax.jit
    def step(rate, beta):
        tx = torch.AdamW(lr=rate, betas=(beta, jnp.float32(0.75)))
        return tx.step(gradients(), tx.init(PARAMS), PARAMS)[0]

    expected = torch.AdamW(lr=0.125, betas=(0.5, 0.75))
    expected, _ = expected.step(gradients(), expected.init(PARAMS), PARAMS)
    for shape in ((), (1,)):
        found = step(jnp.full(shape, 0.125), jnp.full(shape, 0.5))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected
        )


@pytest.mark.parametrize(
    "door",
    [torch.AdamW, timm.AdamWLegacy, functools.partial(optimi.AdamW)],
    ids=["torch", "timm", "optimi"],
)
def test_an_array_of_more_elements_is_no_rate(door):
    for shape in ((2,), (0,), (2, 1)):
        with pytest.raises(ValueError, match="1-element"):
            door(lr=jnp.ones(shape))


def test_an_array_of_one_element_and_two_axes():
    torch.AdamW(lr=jnp.full((1, 1), 0.125))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_complex_parameters_of_torch_are_two_reals(amsgrad):
    params = {"w": jnp.array([1 + 2j, -3 + 0.5j, 0.25 - 1j], jnp.complex64)}
    tx = torch.AdamW(lr=0.1, betas=(0.9, 0.5), amsgrad=amsgrad, weight_decay=0.25)
    grads = [
        {"w": jnp.array([2 - 1j, 0.1 + 5j, -1j], jnp.complex64) * (1 + 0.5j) ** i}
        for i in range(6)
    ]
    real = {"r": params["w"].real, "i": params["w"].imag}
    state, apart = tx.init(params), tx.init(real)
    for g in grads:
        params, state = jax.jit(tx.step)(g, state, params)
        parts = {"r": g["w"].real, "i": g["w"].imag}
        real, apart = jax.jit(tx.step)(parts, apart, real)
    np.testing.assert_allclose(params["w"].real, real["r"], rtol=1e-6)
    np.testing.assert_allclose(params["w"].imag, real["i"], rtol=1e-6)


# --- loss scales ---------------------------------------------------------------------


def scales(tx, finite):
    """The scale after every call, finite or not; and the parameters."""
    params = {"w": jnp.array([1.0, 2.0])}
    state, step, found = tx.init(params), jax.jit(tx.step), []
    for is_finite in finite:
        good = jnp.ones(2) * state.loss_scale
        given = good if is_finite else good.at[0].set(jnp.inf)
        before = params
        params, state = step({"w": given}, state, params)
        if not is_finite:
            same_trees(params, before)
        found.append(float(state.loss_scale))
    return found, state


def as_keras(initial, growth, finite):
    """semantics.md 2.7."""
    scale, counter, found = initial, 0, []
    for is_finite in finite:
        if not is_finite:
            counter, scale = 0, scale * 0.5
        elif counter == growth - 1:
            counter, scale = 0, scale * 2
        else:
            counter += 1
        found.append(scale)
    return found


def as_torch(initial, growth, factor, backoff, finite):
    """`torch._amp_update_scale_`."""
    scale, counter, found = initial, 0, []
    for is_finite in finite:
        if not is_finite:
            counter, scale = 0, scale * backoff
        else:
            counter += 1
            if counter == growth:
                counter, scale = 0, scale * factor
        found.append(scale)
    return found


SEQUENCES = [
    [True] * 9,
    [False] * 5,
    [True, True, False, True, True, True, True, False, False, True] * 3,
    [bool(x) for x in np.random.default_rng(5).uniform(size=40) < 0.8],
]


@pytest.mark.parametrize("finite", SEQUENCES)
@pytest.mark.parametrize("growth", [1, 2, 5])
def test_the_scales_of_keras(finite, growth):
    expected = as_keras(1024.0, growth, finite)
    for tx in (
        keras.LossScaleOptimizer(keras.AdamW(0.1), 1024.0, growth),
        r_keras3.optimizer_loss_scale(
            r_keras3.optimizer_adam_w(0.1), 1024.0, float(growth)
        ),
    ):
        found, state = scales(tx, finite)
        assert found == expected
        assert int(state.step) == sum(finite)


@pytest.mark.parametrize("finite", SEQUENCES)
@pytest.mark.parametrize(("growth", "factor", "back"), [(1, 4.0, 0.25), (3, 2.0, 0.5)])
def test_the_scales_of_torch(finite, growth, factor, back):
    scaler = torch.GradScaler(
        "cpu", 512.0, growth_factor=factor, backoff_factor=back, growth_interval=growth
    )
    found, state = scales(torch.AdamW(lr=0.1, grad_scaler=scaler), finite)
    assert found == as_torch(512.0, growth, factor, back, finite)
    assert int(state.step) == sum(finite)


def test_the_first_scales():
    assert float(
        keras.LossScaleOptimizer(keras.AdamW()).init(PARAMS).loss_scale
    ) == float(2**15)
    tx = torch.AdamW(grad_scaler=torch.GradScaler())
    assert float(tx.init(PARAMS).loss_scale) == float(2**16)


def test_a_scaled_loss_is_unscaled_before_the_clip():
    plain, _ = trained(keras.AdamW(0.1, clipvalue=0.25))
    scaled, _ = trained(
        keras.AdamW(0.1, clipvalue=0.25, loss_scale_factor=8.0),
        grads=lambda i: jax.tree.map(lambda g: g * 8, gradients(i)),
    )
    same_trees(plain, scaled)


def test_a_bad_micro_batch_leaves_its_window_waiting():
    """semantics.md 2.7: it is dropped and the inner counter waits."""
    inner = keras.AdamW(0.1, gradient_accumulation_steps=2)
    tx = keras.LossScaleOptimizer(inner, 8.0, 100)
    params, state = {"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)})
    moves = []
    for value in (1.0, np.inf, 1.0, 1.0, np.nan, np.inf, 1.0):
        given = {"w": jnp.full(1, value) * state.loss_scale}
        new, state = jax.jit(tx.step)(given, state, params)
        moves.append(bool(new["w"][0] != params["w"][0]))
        params = new
    assert moves == [False, False, True, False, False, False, True]
    assert float(state.loss_scale) == 1.0


# --- warm restarts and the decay that goes with them ---------------------------------


def exact(step, steps, factor, low=0.0, high=1.0, ahead=False):
    """Multiplier and period in float64, walking from restart to restart."""
    start, i = 0, 0
    while True:
        length = round(steps * factor**i)
        if step < start + length:
            break
        start, i = start + length, i + 1
        if factor == 1:
            start = step - step % steps
    # semantics.md 9: the count ahead is undone at each restart.
    fraction = (step - start + (ahead and start == 0)) / length
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * fraction)), length


RESTARTS = [
    (1, 1.0), (1, 2.0), (7, 1.0), (10, 2.0), (5, 1.5), (100, 1.1), (3, 3.0),
    (1000, 1.25), (2**20, 1.0), (2**31 - 1, 1.0), (2**30, 2.0), (997, 7.0),
]  # fmt: skip


def around(steps, factor):
    """Steps at and beside restarts, and the last that an int32 counts."""
    edges, length, start = {0, 1, 2}, 0, 0
    for i in itertools.count():
        length = round(steps * factor**i)
        start += length
        if start >= 2**31 or i > 40:
            break
        edges |= {start - 1, start, start + 1, start + length // 2}
    top = 2**31 - 1
    edges |= {top, top - 1, top // 2, top // steps * steps, top // steps * steps - 1}
    return np.array(sorted(e for e in edges if 0 <= e <= top), np.int32)


@pytest.mark.parametrize(("steps", "factor"), RESTARTS)
@pytest.mark.parametrize("ahead", [False, True])
def test_warm_restarts_are_the_formula(steps, factor, ahead):
    eta = paper.cosine_warm_restarts(
        steps, factor=factor, low=0.25, high=2.0, ahead=ahead
    )
    decay = paper.normalized_weight_decay(0.05, restarts=eta)
    where = around(steps, factor)
    found = jax.jit(jax.vmap(lambda step: (eta(step), decay(step))))(where)
    for i, step in enumerate(where):
        expected, length = exact(int(step), steps, factor, 0.25, 2.0, ahead)
        assert found[0][i] == pytest.approx(expected, abs=2e-6), step
        assert found[1][i] == pytest.approx(0.05 / math.sqrt(length), rel=1e-6), step
        eager = eta(int(step)) if step % 3 else eta(jnp.int32(step))
        assert float(eager) == pytest.approx(expected, abs=2e-6), step


def test_restarts_start_where_the_period_before_has_ended():
    """No two roundings of the same number: a period is as long as its restarts say."""
    wrong = []
    for steps in (3, 10, 50):
        for factor in (k / 10 for k in range(11, 40)):
            eta = paper.cosine_warm_restarts(steps, factor=factor)
            start = 0
            for _ in range(5):
                length = round(float(eta.period(start)))
                end = float(eta.period(start + length - 1)), float(eta(start + length))
                if end != (length, 1.0):
                    wrong.append((steps, factor, start, length))
                    break
                start += length
    assert not wrong


def test_the_restarts_of_the_authors_code():
    """semantics.md 9: at a restart T_cur is 0 for that same batch, without the count.

    So the first period has 1/n, ..., n/n and the later ones 0, 1/n, ..., (n - 1)/n.
    """
    eta = paper.cosine_warm_restarts(4, factor=2.0, ahead=True)
    fractions = [1 / 4, 2 / 4, 3 / 4, 1.0, *(i / 8 for i in range(8)), 0.0, 1 / 16]
    expected = [0.5 * (1 + math.cos(math.pi * f)) for f in fractions]
    np.testing.assert_allclose([float(eta(i)) for i in range(14)], expected, atol=1e-6)


def test_normalized_decay_is_that_of_the_appendix():
    batch, points, epochs = 128, 50_000, 100
    steps = points * epochs // batch
    found = paper.normalized_weight_decay(0.05, steps=steps)
    assert found == pytest.approx(0.05 * math.sqrt(batch / (points * epochs)), rel=1e-5)


def test_the_multiplier_of_the_paper_is_on_both_terms():
    eta = paper.cosine_warm_restarts(4, factor=2.0)
    tx = paper.adamw(0.5, 0.9, 0.999, 1e-8, 0.25, eta)
    params, state, x = {"w": jnp.array([8.0])}, None, 8.0
    state, m, v = tx.init(params), 0.0, 0.0
    for i in range(14):
        g = math.cos(i)
        params, state = jax.jit(tx.step)({"w": jnp.array([g])}, state, params)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        corrected = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
        step = 0.5 * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
        x -= exact(i, 4, 2.0)[0] * (step + 0.25 * x)
        assert float(params["w"][0]) == pytest.approx(x, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": 0}, ValueError),
        ({"steps": -3}, ValueError),
        ({"steps": 2.0}, TypeError),
        ({"steps": True}, TypeError),
        ({"steps": 2**31}, ValueError),
        ({"steps": 5, "factor": 0.5}, ValueError),
        ({"steps": 5, "factor": math.inf}, ValueError),
        ({"steps": 5, "factor": math.nan}, ValueError),
        ({"steps": 5, "factor": "2"}, TypeError),
        ({"steps": 5, "low": -1.0}, ValueError),
        ({"steps": 5, "low": 2.0}, ValueError),
        ({"steps": 5, "high": math.inf}, ValueError),
        ({"steps": 5, "ahead": 1}, TypeError),
    ],
)
def test_bad_restarts(options, error):
    with pytest.raises(error, match="must be"):
        paper.cosine_warm_restarts(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": -1.0, "steps": 5}, {"norm": math.nan, "steps": 5}, {"norm": 0.05},
        {"norm": 0.05, "steps": 5, "restarts": paper.cosine_warm_restarts(5)},
        {"norm": 0.05, "steps": 0}, {"norm": 0.05, "steps": 2.5},
        {"norm": 0.05, "restarts": halving}, {"norm": "a", "steps": 5},
    ],
)  # fmt: skip
def test_bad_normalized_decay(options):
    with pytest.raises((TypeError, ValueError)):
        paper.normalized_weight_decay(**options)


# --- what is refused -----------------------------------------------------------------


def refused(call, error, text):
    return pytest.param(call, error, text)


K, R, T, A = (
    keras.AdamW,
    r_keras3.optimizer_adam_w,
    torch.AdamW,
    tensorflow_addons.AdamW,
)
TF, F, M, L = tensorflow.AdamW, flux.AdamW, mlx.AdamW, keras.LossScaleOptimizer
O = optimi.AdamW  # noqa: E741
W = timm.AdamWLegacy

REFUSED = {
    # semantics.md 2.9: Keras 3
    "keras weight_decay": refused(
        lambda: K(weight_decay=None), TypeError, "weight_decay.*must be a float"
    ),
    "keras rate int": refused(
        lambda: K(1), TypeError, "learning_rate.*a float, a schedule.*callable"
    ),
    "keras rate none": refused(lambda: K(None), TypeError, "learning_rate"),
    "keras rate text": refused(lambda: K("fast"), TypeError, "learning_rate"),
    "keras rate bool": refused(lambda: K(True), TypeError, "learning_rate"),
    "keras rate type": refused(lambda: K(float), TypeError, "learning_rate"),
    "keras rate < 0": refused(lambda: K(-0.1), ValueError, "learning_rate.*-0.1"),
    "keras two clips": refused(
        lambda: K(clipnorm=1.0, clipvalue=1.0), ValueError, "Only one of"
    ),
    "keras other clips": refused(
        lambda: K(clipvalue=1.0, global_clipnorm=1.0), ValueError, "Only one of"
    ),
    "keras a clip of 0 counts": refused(
        lambda: K(clipnorm=0.0, global_clipnorm=1.0), ValueError, "Only one of"
    ),
    "keras clip 0": refused(lambda: K(clipnorm=0.0), ValueError, "clipnorm.*> 0"),
    "keras clip < 0": refused(
        lambda: K(global_clipnorm=-1.0), ValueError, "global_clipnorm.*> 0"
    ),
    "keras clip nan": refused(
        lambda: K(clipvalue=math.nan), ValueError, "clipvalue.*> 0"
    ),
    "keras clip text": refused(
        lambda: K(clipnorm="a"), TypeError, "`clipnorm`"
    ),
    "keras momentum": refused(
        lambda: K(use_ema=True, ema_momentum=1.5), ValueError, r"in the range \[0, 1\]"
    ),
    "keras momentum < 0": refused(
        lambda: K(use_ema=True, ema_momentum=-0.5), ValueError, "ema_momentum"
    ),
    "keras frequency": refused(
        lambda: K(use_ema=True, ema_overwrite_frequency=2.5),
        (TypeError, ValueError),
        "must be an integer >= 1 or None",
    ),
    "keras frequency < 0": refused(
        lambda: K(use_ema=True, ema_overwrite_frequency=-1),
        ValueError,
        "must be an integer >= 1 or None",
    ),
    "keras frequency 0": refused(
        lambda: K(use_ema=True, ema_overwrite_frequency=0),
        ValueError,
        "must be an integer >= 1 or None",
    ),
    "keras frequency alone": refused(
        lambda: K(ema_overwrite_frequency=2), ValueError, "use_ema"
    ),
    "keras accumulation 1": refused(
        lambda: K(gradient_accumulation_steps=1), ValueError, "must be an integer >= 2"
    ),
    "keras accumulation 0": refused(
        lambda: K(gradient_accumulation_steps=0), ValueError, "must be an integer >= 2"
    ),
    "keras accumulation 2.5": refused(
        lambda: K(gradient_accumulation_steps=2.5),
        ValueError,
        "must be an integer >= 2",
    ),
    "keras unknown": refused(
        lambda: K(momentum=0.9), TypeError, r"Argument\(s\) not recognized.*momentum"
    ),
    "keras unknown decay": refused(
        lambda: K(decay=0.9), TypeError, "not recognized.*'weight_decay'"
    ),
    "keras name": refused(lambda: K(name="a/b"), ValueError, "name.*'/'"),
    "keras beta": refused(lambda: K(beta_1=1.0), ValueError, "`beta_1`"),
    "keras beta 2": refused(lambda: K(beta_2=-0.5), ValueError, "`beta_2`"),
    "keras epsilon": refused(lambda: K(epsilon=-1.0), ValueError, "`epsilon`"),
    "keras decay < 0": refused(
        lambda: K(weight_decay=-1.0), ValueError, "`weight_decay`.*>= 0"
    ),
    "keras loss_scale_factor": refused(
        lambda: K(loss_scale_factor=0.0), ValueError, "`loss_scale_factor`"
    ),
    "keras amsgrad": refused(lambda: K(amsgrad="yes"), (TypeError, ValueError), "amsg"),
    "keras use_ema": refused(lambda: K(use_ema=1), TypeError, "use_ema"),
    "keras bug_compatible": refused(
        lambda: K(bug_compatible=1), TypeError, "bug_compatible"
    ),
    # semantics.md 2.7
    "scale clipnorm": refused(
        lambda: L(K(), clipnorm=1.0),
        ValueError,
        "does not support `clipnorm`. Instead, set `clipnorm` on the `inner_optimizer`",
    ),
    "scale use_ema": refused(lambda: L(K(), use_ema=True), ValueError, "use_ema"),
    "scale dynamic": refused(lambda: L(K(), dynamic=False), ValueError, "dynamic"),
    "scale growth 0": refused(
        lambda: L(K(), dynamic_growth_steps=0), ValueError, "dynamic_growth_steps"
    ),
    "scale growth none": refused(
        lambda: L(K(), dynamic_growth_steps=None), TypeError, "dynamic_growth_steps"
    ),
    "scale 0": refused(
        lambda: L(K(), initial_scale=0.0), ValueError, "`initial_scale`"
    ),
    "scale inner": refused(lambda: L(optax.adamw(0.1)), TypeError, "inner_optimizer"),
    "scale twice": refused(lambda: L(L(K())), ValueError, "scale"),
    "scale of a scaled": refused(
        lambda: L(K(loss_scale_factor=2.0)), ValueError, "loss_scale"
    ),
    # semantics.md 3
    "r integer rate": refused(lambda: R(1), TypeError, "learning_rate"),
    "r 2.5": refused(
        lambda: R(gradient_accumulation_steps=2.5), ValueError, "a whole number"
    ),
    "r frequency 2.5": refused(
        lambda: R(use_ema=True, ema_overwrite_frequency=2.5),
        ValueError,
        "ema_overwrite_frequency.*a whole number",
    ),
    "r 1": refused(lambda: R(gradient_accumulation_steps=1.0), ValueError, ">= 2"),
    "r nan": refused(
        lambda: R(gradient_accumulation_steps=math.nan),
        ValueError,
        "`gradient_accumulation_steps`",
    ),
    "r inf": refused(
        lambda: R(use_ema=True, ema_overwrite_frequency=math.inf),
        ValueError,
        "`ema_overwrite_frequency`",
    ),
    "r unknown": refused(lambda: R(momentum=0.9), TypeError, "not recognized"),
    "r unknown's door": refused(
        lambda: R(momentum=0.9),
        TypeError,
        "r_keras3.optimizer_adam_w",
    ),
    "r growth 2.5": refused(
        lambda: r_keras3.optimizer_loss_scale(R(), dynamic_growth_steps=2.5),
        ValueError,
        "dynamic_growth_steps.*a whole number",
    ),
    # semantics.md 4.4: PyTorch
    "torch lr": refused(lambda: T(lr=-1.0), ValueError, "`lr`"),
    "torch lr nan": refused(lambda: T(lr=math.nan), ValueError, "`lr`"),
    "torch eps": refused(lambda: T(eps=-1.0), ValueError, "`eps`.*>= 0"),
    "torch eps nan": refused(lambda: T(eps=math.nan), ValueError, "`eps`.*>= 0"),
    "torch betas 0": refused(
        lambda: T(betas=(1.0, 0.9)), ValueError, "`betas`.*1.0"
    ),
    "torch betas 1": refused(
        lambda: T(betas=(0.9, -0.5)), ValueError, "`betas`.*-0.5"
    ),
    "torch decay": refused(
        lambda: T(weight_decay=-1.0), ValueError, "`weight_decay`.*>= 0"
    ),
    "torch lr of two": refused(
        lambda: T(lr=jnp.ones(2)), ValueError, "`lr` must be 1-element"
    ),
    "torch beta of two": refused(
        lambda: T(betas=(jnp.ones(2), jnp.ones(2))), ValueError, "1-element"
    ),
    "torch mixed betas": refused(
        lambda: T(betas=(jnp.float32(0.9), 0.9)),
        ValueError,
        "either both floats or both",
    ),
    "torch integer beta": refused(
        lambda: T(betas=(0, 0.9)), ValueError, "either both floats or both"
    ),
    "torch one beta": refused(lambda: T(betas=0.9), TypeError, "betas.*pair"),
    "torch three betas": refused(
        lambda: T(betas=(0.9, 0.9, 0.9)), TypeError, "betas.*pair"
    ),
    "torch fused and foreach": refused(
        lambda: T(fused=True, foreach=True), ValueError, "cannot be `True` together"
    ),
    "torch fused and differentiable": refused(
        lambda: T(fused=True, differentiable=True),
        ValueError,
        "`fused` does not support `differentiable`",
    ),
    "torch flag": refused(lambda: T(foreach="yes"), TypeError, "foreach"),
    "torch capturable": refused(lambda: T(capturable=None), TypeError, "capturable"),
    "torch unknown": refused(lambda: T(momentum=0.9), TypeError, "momentum"),
    "torch maximize by position": refused(
        lambda: T(None, 0.1, (0.9, 0.9), 1e-8, 0.1, False, True), TypeError, "position"
    ),
    "torch clip": refused(
        lambda: T(clip_grad_norm=-1.0), ValueError, "`clip_grad_norm`"
    ),
    "torch clip value": refused(
        lambda: T(clip_grad_value=-1.0), ValueError, "`clip_grad_value`"
    ),
    "torch scaler": refused(lambda: T(grad_scaler=2.0), TypeError, "grad_scaler"),
    "scaler scale": refused(
        lambda: torch.GradScaler(init_scale=-1.0), ValueError, "`init_scale`"
    ),
    "scaler growth": refused(
        lambda: torch.GradScaler(growth_factor=1.0), ValueError, "growth_factor.*> 1"
    ),
    "scaler backoff": refused(
        lambda: torch.GradScaler(backoff_factor=1.0), ValueError, "backoff_factor"
    ),
    "scaler interval": refused(
        lambda: torch.GradScaler(growth_interval=0), ValueError, "growth_interval"
    ),
    "scaler first": refused(lambda: torch.GradScaler(1024.0), TypeError, "device"),
    "scaler enabled": refused(
        lambda: torch.GradScaler(enabled=None), TypeError, "enabled"
    ),
    # semantics.md 5: TensorFlow Addons, and tf.keras
    "tfa none": refused(lambda: A(None), TypeError, "weight_decay"),
    "tfa missing": refused(lambda: A(), TypeError, "weight_decay"),
    "tfa both norms": refused(
        lambda: A(0.1, clipnorm=1.0, global_clipnorm=1.0),
        ValueError,
        "Cannot accept both",
    ),
    "tfa clip < 0": refused(
        lambda: A(0.1, clipnorm=-1.0), ValueError, "`clipnorm`"
    ),
    "tfa clip 0": refused(
        lambda: A(0.1, clipvalue=0.0), ValueError, "`clipvalue`"
    ),
    "tfa unknown": refused(lambda: A(0.1, momentum=0.9), TypeError, "momentum"),
    "tfa epsilon": refused(lambda: A(0.1, epsilon=0), ValueError, "epsilon.*1e-7"),
    "tfa decay < 0": refused(lambda: A(0.1, decay=-1.0), ValueError, "decay.*>= 0"),
    "tfa decay inf": refused(
        lambda: A(0.1, decay=math.inf),
        ValueError,
        "decay",
    ),
    "tfa beta": refused(lambda: A(0.1, beta_1=1.5), ValueError, "`beta_1`"),
    "tf weight_decay": refused(lambda: TF(weight_decay=None), TypeError, "must be a"),
    "tf two clips": refused(
        lambda: TF(clipnorm=1.0, clipvalue=1.0), ValueError, "Only one of"
    ),
    "tf accumulation": refused(
        lambda: TF(gradient_accumulation_steps=2), TypeError, "not recognized"
    ),
    "tf jit": refused(lambda: TF(jit_compile=None), TypeError, "jit_compile"),
    # semantics.md 6: MLX
    "mlx missing": refused(lambda: M(), TypeError, "learning_rate"),
    "mlx beta": refused(
        lambda: M(0.1, betas=[1.0, 0.9]), ValueError, "`betas`"
    ),
    "mlx eps": refused(lambda: M(0.1, eps=-1.0), ValueError, "`eps`"),
    "mlx amsgrad": refused(lambda: M(0.1, amsgrad=True), TypeError, "amsgrad"),
    "mlx lr < 0": refused(lambda: M(-0.1), ValueError, "`learning_rate`"),
    "mlx clip < 0": refused(
        lambda: M(0.1, clip_grad_norm=-1.0), ValueError, "`clip_grad_norm`"
    ),
    "mlx correction": refused(
        lambda: M(0.1, bias_correction=1), TypeError, "bias_correction"
    ),
    # semantics.md 7: Flux
    "flux eta": refused(lambda: F(-1.0), ValueError, "`eta`"),
    "flux beta": refused(
        lambda: F(0.001, 0.01), TypeError, "beta.*pair.*got 0.01"
    ),
    "flux old beta": refused(
        lambda: flux.old_AdamW(0.001, 0.01), TypeError, "beta.*pair"
    ),
    "flux lambda": refused(lambda: F(lambda_=-1.0), ValueError, "`lambda_`"),
    "flux epsilon": refused(lambda: F(epsilon=-1.0), ValueError, "`epsilon`"),
    "flux couple": refused(lambda: F(couple=1), TypeError, "couple"),
    "flux old decay": refused(
        lambda: flux.old_AdamW(decay=-1.0), ValueError, "`decay`"
    ),
    # semantics.md 8: Optax accepts all of these in silence
    "optax none": refused(lambda: optax_door.adamw(None), TypeError, "learning_rate"),
    "optax decay none": refused(
        lambda: optax_door.adamw(0.1, weight_decay=None), TypeError, "weight_decay"
    ),
    "optax b1": refused(lambda: optax_door.adamw(0.1, b1=1.5), ValueError, "`b1`"),
    "optax eps": refused(lambda: optax_door.nadamw(0.1, eps=-1.0), ValueError, "`eps`"),
    "optax rate": refused(
        lambda: optax_door.amsgrad(-0.1), ValueError, "`learning_rate`"
    ),
    "optax mu_dtype": refused(
        lambda: optax_door.adamw(0.1, mu_dtype="moon"), (TypeError, ValueError), "moon"
    ),
    "optax correction": refused(
        lambda: optax_door.amsgrad(0.1, bias_correction_mu="yes"),
        TypeError,
        "`bias_correction_mu`",
    ),
    "optax no correction": refused(
        lambda: optax_door.amsgrad(0.1, bias_correction_nu=None),
        TypeError,
        "`bias_correction_nu`",
    ),
    "optax decay of amsgrad": refused(
        lambda: optax_door.amsgrad(0.1, weight_decay=0.1), TypeError, "weight_decay"
    ),
    # semantics.md 9: the paper
    "paper alpha": refused(lambda: paper.adamw(-1.0), ValueError, "`alpha`"),
    "paper schedule": refused(lambda: paper.adamw(halving), TypeError, "alpha.*eta"),
    "paper eta": refused(lambda: paper.adamw(eta=0.5), TypeError, "eta"),
    "paper lambda": refused(
        lambda: paper.adamw(lambda_=-1.0), ValueError, "`lambda_`"
    ),
    # semantics.md 10: optimi
    "optimi missing": refused(lambda: O(), TypeError, "lr"),
    "optimi lr": refused(lambda: O(lr=-1.0), ValueError, "`lr`"),
    "optimi decay": refused(
        lambda: O(lr=0.1, weight_decay=-1.0), ValueError, "`weight_decay`"
    ),
    "optimi eps": refused(lambda: O(lr=0.1, eps=-1.0), ValueError, "`eps`"),
    "optimi betas": refused(
        lambda: O(lr=0.1, betas=(1.0, 0.9)), ValueError, "`betas`"
    ),
    "optimi max_lr": refused(
        lambda: O(lr=0.1, decouple_lr=True, weight_decay=1e-5, max_lr=-1.0),
        ValueError,
        "`max_lr`",
    ),
    "optimi max_lr alone": refused(
        lambda: O(lr=0.1, max_lr=1.0), ValueError, "max_lr.*decouple_lr"
    ),
    "optimi rate 0": refused(
        lambda: O(lr=0.0, decouple_lr=True, weight_decay=1e-5),
        ValueError,
        "`(max_)?lr`",
    ),
    "optimi scheduled": refused(
        lambda: O(lr=halving, decouple_lr=True, weight_decay=1e-5),
        ValueError,
        "`max_lr`",
    ),
    "optimi kahan": refused(lambda: O(lr=0.1, kahan_sum=1), TypeError, "kahan_sum"),
    "optimi release": refused(
        lambda: O(lr=0.1, gradient_release=True), ValueError, "gradient_release"
    ),
    "optimi triton": refused(lambda: O(lr=0.1, triton=1), TypeError, "triton"),
    # semantics.md 13: timm
    "timm lr": refused(lambda: W(lr=-1.0), ValueError, "`lr`"),
    "timm eps": refused(lambda: W(eps=-1.0), ValueError, "`eps`"),
    "timm betas": refused(lambda: W(betas=(0.9, 1.0)), ValueError, "`betas`"),
    "timm decay": refused(lambda: W(weight_decay=-1.0), ValueError, "`weight_decay`"),
    "timm caution": refused(lambda: W(caution=1), TypeError, "caution"),
    "timm max_lr alone": refused(
        lambda: W(max_lr=1.0), ValueError, "max_lr.*corrected_weight_decay"
    ),
    "timm scheduled": refused(
        lambda: W(lr=halving, corrected_weight_decay=True),
        ValueError,
        "`max_lr`",
    ),
    "timm nadamw amsgrad": refused(
        lambda: timm.NAdamW(amsgrad=True), TypeError, "amsgrad"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(call, error, text):
    with pytest.raises(error, match=f"(?s){text}") as caught:
        call()
    message = str(caught.value)
    assert "Traceback" not in message
    assert "\n" not in message


def test_optimi_warns_of_a_large_decoupled_decay():
    with pytest.warns(UserWarning, match="1e-5 is a usual value") as caught:
        optimi.AdamW(lr=0.1, decouple_lr=True)
    assert caught[0].filename == __file__


# --- traps: the sane thing -----------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["keras", "tensorflow", "torch", "mlx", "optax", "tfa"]
)
def test_bfloat16_parameters_train(case):
    doors = {
        "keras": keras.AdamW(0.1), "tensorflow": tensorflow.AdamW(0.1),
        "torch": torch.AdamW(lr=0.1), "mlx": mlx.AdamW(0.1),
        "optax": optax_door.adamw(0.1), "tfa": tensorflow_addons.AdamW(0.01, 0.1),
    }  # fmt: skip
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    tx = doors[case]
    after, state = jax.jit(tx.step)({"w": jnp.ones(4)}, tx.init(params), params)
    assert after["w"].dtype == jnp.bfloat16
    assert float(after["w"][0]) < 0.95
    assert state.mu["w"].dtype == jnp.float32


def test_float16_does_not_divide_by_zero():
    params = {"w": jnp.ones(4, jnp.float16)}
    for tx in (torch.AdamW(lr=0.1), flux.AdamW(0.1)):
        grads = {"w": jnp.full(4, 1e-3, jnp.float16)}
        after, _ = tx.step(grads, tx.init(params), params)
        assert np.isfinite(after["w"]).all()


def test_a_parameter_without_a_gradient_is_left_alone_and_a_zero_decays():
    tx = torch.AdamW(lr=0.1, weight_decay=0.5)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    grads = {"a": None, "b": jnp.zeros(2)}
    after, _ = tx.step(grads, tx.init(params), params)
    np.testing.assert_array_equal(after["a"], params["a"])
    np.testing.assert_allclose(after["b"], 0.95, rtol=1e-6)


def test_a_gradient_that_is_not_finite_leaves_other_parameters_alone():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    grads = {"a": jnp.array([jnp.inf, 1.0]), "b": jnp.ones(2)}
    for tx in (keras.AdamW(0.1, global_clipnorm=1.0), tensorflow.AdamW(0.1)):
        after, _ = tx.step(grads, tx.init(params), params)
        assert np.isfinite(after["b"]).all()


def test_the_first_step_of_mlx_has_no_correction():
    tx = mlx.AdamW(0.1, weight_decay=0.0)
    params = {"w": jnp.array([8.0])}
    after, _ = tx.step({"w": jnp.ones(1)}, tx.init(params), params)
    assert moved(params, after) == pytest.approx(0.1 * 0.1 / math.sqrt(0.001), rel=1e-5)


def test_the_epsilon_of_keras_is_epsilon_hat():
    params = {"w": jnp.zeros(1)}
    for tx, root in (
        (keras.AdamW(0.1, 0.0, epsilon=0.5), math.sqrt(0.001)),
        (torch.AdamW(lr=0.1, weight_decay=0.0, eps=0.5), 1.0),
    ):
        after, _ = tx.step({"w": jnp.ones(1)}, tx.init(params), params)
        assert moved(params, after) == pytest.approx(
            0.1 * root / (root + 0.5), rel=1e-5
        )


def test_the_decay_of_flux_is_none_unless_asked_for():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    tx = flux.AdamW(0.5)
    same_trees(tx.step(zeros, tx.init(PARAMS), PARAMS)[0], PARAMS)
    for couple, left in ((True, 0.875), (False, 0.75)):
        tx = flux.AdamW(0.5, lambda_=0.25, couple=couple)
        after, _ = tx.step(zeros, tx.init(PARAMS), PARAMS)
        same_trees(after, jax.tree.map(lambda p, x=left: x * p, PARAMS))


# --- what a review found -------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [None, -0.1, math.nan, math.inf, "0.1", [0.1, 0.2], 1j, True and None]
)
def test_a_callable_that_answers_nonsense(answer):
    tx, params = keras.AdamW(lambda: answer), {"w": jnp.ones(2)}
    with pytest.raises(Exception, match="must return a finite number >= 0"):
        jax.block_until_ready(jax.jit(tx.step)(params, tx.init(params), params))


def test_a_callable_in_double_precision():
    with jax.enable_x64(True):
        params = {"w": jnp.ones(1, jnp.float64)}
        options = {"weight_decay": 0.0, "epsilon": 1e-12}
        found, expected = (
            tx.step(params, tx.init(params), params)[0]["w"]
            for tx in (keras.AdamW(lambda: 0.1, **options), keras.AdamW(0.1, **options))
        )
        assert abs(found[0] - expected[0]) < 1e-15


@pytest.mark.parametrize(
    "door", [keras.AdamW, r_keras3.optimizer_adam_w, tensorflow.AdamW, torch.AdamW]
)
def test_doors_inside_inject_hyperparams(door):
    name = "lr" if door is torch.AdamW else "learning_rate"
    tx, params = optax.inject_hyperparams(door)(**{name: 0.5}), {"w": jnp.ones(2)}
    state = tx.init(params)
    updates, _ = tx.update(params, state, params)
    assert float(updates["w"][0]) == pytest.approx(-0.5, rel=0.02)


def test_addons_inside_inject_hyperparams():
    tx = optax.inject_hyperparams(tensorflow_addons.AdamW)(0.0, learning_rate=0.5)
    params = {"w": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert float(updates["w"][0]) == pytest.approx(-0.5, rel=0.02)


def test_two_names_for_one_rate():
    with pytest.raises(ValueError, match="`lr` is another name of `learning_rate`"):
        tensorflow_addons.AdamW(1e-4, lr=0.1, learning_rate=0.2)


def test_schedules_under_strict_promotion():
    tx = tensorflow_addons.AdamW(0.1, lambda: 0.1, decay=0.1)
    eta = paper.cosine_warm_restarts(4, factor=2.0, ahead=True)
    params = {"w": jnp.ones(2)}
    with jax.numpy_dtype_promotion("strict"):
        for made in (tx, paper.adamw(eta=eta)):
            jax.jit(made.step)(params, made.init(params), params)


@pytest.mark.parametrize("groups", [None, [1], "a", [("*", 1, 2)]])
def test_groups_that_are_no_pairs(groups):
    with pytest.raises(TypeError, match="`groups` must be a mapping"):
        optadamw.param_groups(optadamw.adamw(0.1), groups)
