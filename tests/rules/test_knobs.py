"""Every option away from its default, five steps each against the oracle."""

import contextlib
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.rules.runs import BF16, SHAPES, trees
from tests.support import comparison, floats, oracle


class LookUp:
    """The library's schedule over the float32 values of an `oracle.Table`."""

    def __init__(self, *values: float) -> None:
        self.values = tuple(np.asarray(values, np.float32).tolist())
        self.table = oracle.Table(self.values)

    def __call__(self, step: jax.Array) -> jax.Array:
        values = jnp.asarray(self.values, jnp.float32)
        return values[jnp.minimum(step, len(self.values) - 1)]


def is_matrix(path: str, array: Any) -> bool:
    return array.ndim == 2


def optax_mask(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim == 1, params)


RATES = LookUp(0.03, 0.05, 0.02, 0.01, 0.04)
DECAY = {"weight_decay": 0.3}
EMA = {"ema_decay": 0.8}
W, WS = frozenset({"w"}), frozenset({"w", "s"})


def grouped(*groups: str) -> dict[str, Any]:
    """The parameters of each group, in the order of the groups."""
    return {"groups": [frozenset(names) for names in groups]}


# What is given to the library; the oracle gets the same, with a schedule's table for
# the schedule, except for what the last column says.
KNOBS = [
    ("learning_rate", {"learning_rate": 0.5}, {}),
    ("learning_rate", {"learning_rate": RATES}, {}),
    ("learning_rate", {"learning_rate": np.float32(0.25)}, {}),
    ("learning_rate", {"learning_rate": jnp.asarray(0.25)}, {"learning_rate": 0.25}),
    ("b1", {"b1": 0.7}, {}),
    ("b1", {"b1": 0.0}, {}),
    ("b1", {"b1": LookUp(0.7, 0.8, 0.6, 0.9, 0.5)}, {}),
    ("b2", {"b2": 0.9}, {}),
    ("b2", {"b2": 0.0}, {}),
    ("b2", {"b2": LookUp(0.97, 0.99, 0.95, 0.9, 0.98)}, {}),
    ("eps", {"eps": 0.3}, {}),
    ("eps", {"eps": LookUp(0.3, 0.1, 0.4, 0.2, 0.5)}, {}),
    ("eps_root", {"eps_root": 0.3}, {}),
    ("eps_root", {"eps_root": LookUp(0.3, 0.1, 0.4, 0.2, 0.5)}, {}),
    ("eps_root", {"eps_root": 0.3, "eps_mode": "hat"}, {}),
    ("mu_dtype", {"mu_dtype": jnp.bfloat16}, {"mu_dtype": BF16}),
    ("mu_dtype", {"mu_dtype": "float16"}, {"mu_dtype": np.float16}),
    ("weight_decay", {"weight_decay": 0.3}, {}),
    ("weight_decay", {"weight_decay": 0.0}, {}),
    ("weight_decay", {**DECAY, "mask": True}, {}),
    ("weight_decay", {"weight_decay": LookUp(0.3, 0.1, 0.4, 0.2, 0.5)}, {}),
    ("mask", {**DECAY, "mask": "w"}, {"decayed": W}),
    ("mask", {**DECAY, "mask": "[ws]"}, {"decayed": WS}),
    ("mask", {**DECAY, "mask": re.compile("w|s")}, {"decayed": WS}),
    ("mask", {**DECAY, "mask": ["w", "s"]}, {"decayed": WS}),
    ("mask", {**DECAY, "mask": ("!b",)}, {"decayed": WS}),
    ("mask", {**DECAY, "mask": is_matrix}, {"decayed": W}),
    ("mask", {**DECAY, "mask": optax_mask}, {"decayed": frozenset({"b"})}),
    ("mask", {**DECAY, "mask": {"w": True, "b": False, "s": True}}, {"decayed": WS}),
    ("mask", {**DECAY, "mask": False}, {"decayed": frozenset()}),
    ("nesterov", {"nesterov": True}, {}),
    ("nesterov", {"nesterov": True, "eps_mode": "hat", "eps": 0.1}, {}),
    ("nesterov", {"nesterov": "current"}, {}),
    ("nesterov", {"nesterov": "current", "bias_correction": "nu"}, {}),
    ("amsgrad", {"amsgrad": True, "b2": 0.5}, {"amsgrad": "raw"}),
    ("amsgrad", {"amsgrad": "raw", "b2": 0.5}, {}),
    ("amsgrad", {"amsgrad": "corrected", "b2": 0.5}, {}),
    ("bias_correction", {"bias_correction": False}, {}),
    ("bias_correction", {"bias_correction": False, "nesterov": True}, {}),
    ("bias_correction", {"bias_correction": "mu", "nesterov": True}, {}),
    ("bias_correction", {"bias_correction": "nu", "nesterov": True}, {}),
    ("bias_correction", {"bias_correction": "nu", "amsgrad": "corrected"}, {}),
    ("eps_mode", {"eps_mode": "hat", "eps": 0.1}, {}),
    ("clip_value", {"clip_value": 0.4}, {}),
    ("clip_value", {"clip_value": LookUp(0.4, 0.2, 0.6, 0.3, 0.1)}, {}),
    ("clip_norm", {"clip_norm": 0.4}, {}),
    ("clip_norm", {"clip_norm": LookUp(0.4, 0.2, 0.6, 0.3, 0.1)}, {}),
    ("clip_global_norm", {"clip_global_norm": 0.9}, {}),
    ("clip_global_norm", {"clip_global_norm": LookUp(0.9, 0.5, 0.7, 0.8, 0.3)}, {}),
    (
        "clip_global_norm",
        {"clip_value": 0.5, "clip_norm": 0.8, "clip_global_norm": 0.9},
        {},
    ),
    ("clip_eps", {"clip_global_norm": 0.9, "clip_eps": 0.5}, {}),
    ("clip_eps", {"clip_global_norm": 0.9, "clip_eps": 1e-3}, {}),
    ("ema_decay", {"ema_decay": 0.8}, {}),
    ("ema_decay", {"ema_decay": LookUp(0.8, 0.7, 0.9, 0.6, 0.5)}, {}),
    ("ema_overwrite_every", {**EMA, "ema_overwrite_every": 2}, {}),
    ("ema_overwrite_every", {**EMA, "ema_overwrite_every": 2, "ema_debias": True}, {}),
    ("ema_overwrite_every", {**EMA, "ema_overwrite_every": LookUp(0, 2, 2, 4, -1)}, {}),
    ("ema_debias", {**EMA, "ema_debias": True}, {}),
    ("ema_debias", {"ema_decay": 1.0, "ema_debias": True}, {}),
    ("ema_warmup", {**EMA, "ema_warmup": True}, {}),
    ("ema_warmup", {"ema_decay": 0.3, "ema_warmup": True}, {}),
    ("weight_decay_mode", {**DECAY, "weight_decay_mode": "independent"}, {}),
    ("weight_decay_mode", {**DECAY, "weight_decay_mode": "schedule"}, {}),
    ("cautious_weight_decay", {**DECAY, "cautious_weight_decay": True}, {}),
    (
        "cautious_weight_decay",
        {
            **DECAY,
            "cautious_weight_decay": True,
            "caution": True,
            "nesterov": True,
            "weight_decay_mode": "independent",
        },
        {},
    ),
    ("b3", {"b3": 0.9}, {}),
    ("b3", {"b3": 0.0, "slow_alpha": 1.0}, {}),
    ("b3", {"b3": LookUp(0.7, 0.8, 0.6, 0.9, 0.5), "nesterov": True}, {}),
    ("slow_alpha", {"b3": 0.9, "slow_alpha": 2.0}, {}),
    (
        "slow_alpha",
        {
            **DECAY,
            "b3": 0.9,
            "slow_alpha": LookUp(3.0, 0.0, 2.0, 5.0, 8.0),
            "amsgrad": "corrected",
            "caution": True,
            "clip_update_rms": 0.5,
            "eps": 0.2,
            "eps_root": 0.1,
            "bias_correction": "nu",
            "maximize": True,
        },
        {},
    ),
    ("clip_update_rms", {**DECAY, "clip_update_rms": 0.3}, {}),
    (
        "clip_update_keeps_decay",
        {**DECAY, "clip_update_rms": 0.3, "clip_update_keeps_decay": True},
        {},
    ),
    ("clip_update_rms", {"clip_update_rms": LookUp(0.3, 0.1, 4.0, 0.2, 0.5)}, {}),
    (
        "clip_update_rms",
        {
            **DECAY,
            "clip_update_rms": 0.4,
            "amsgrad": "corrected",
            "nesterov": True,
            "caution": True,
            "cautious_weight_decay": True,
            "eps": 0.2,
            "eps_root": 0.1,
            "bias_correction": "mu",
        },
        {},
    ),
    (
        "weight_decay_mode",
        {
            **DECAY,
            "learning_rate": RATES,
            "weight_decay_mode": "corrected",
            "max_learning_rate": 0.05,
        },
        {},
    ),
    (
        "max_learning_rate",
        {**DECAY, "weight_decay_mode": "schedule", "max_learning_rate": 0.9},
        {},
    ),
    (
        "max_learning_rate",
        {**DECAY, "weight_decay_mode": "corrected", "max_learning_rate": 0.9},
        {},
    ),
    ("maximize", {"maximize": True}, {}),
    ("caution", {"caution": True}, {}),
    ("caution", {"caution": True, "nesterov": True, "clip_norm": 0.4}, {}),
    ("groups", {"groups": {"w": {"learning_rate": RATES, "b1": 0.5}}}, grouped("w")),
    (
        "groups",
        {
            **DECAY,
            "clip_global_norm": 0.9,
            "groups": {
                "[ws]": {"weight_decay": 0.0, "amsgrad": True, "b2": 0.5},
                "b": {"maximize": True, "clip_value": 0.4, "nesterov": True},
            },
        },
        grouped("ws", "b"),
    ),
    (
        "groups",
        {
            **EMA,
            "amsgrad": True,
            "caution": True,
            "weight_decay_mode": "independent",
            "groups": [
                (("w", "b"), {"amsgrad": False, "caution": False, "eps": 0.2}),
            ],
        },
        grouped("wb"),
    ),
]


def oracle_of(options: dict[str, Any], theirs: dict[str, Any]) -> oracle.AdamW:
    """Return the oracle with the library's options, except what `theirs` says."""
    same = {
        name: _oracle_value(name, value)
        for name, value in options.items()
        if name not in ("mask", *theirs)
    }
    if "groups" in options:
        own = dict(options["groups"]).values()
        same["groups"] = tuple(
            (names, {k: _oracle_value(k, v) for k, v in numbers.items()})
            for names, numbers in zip(theirs["groups"], own, strict=True)
        )
        theirs = {name: value for name, value in theirs.items() if name != "groups"}
    return oracle.AdamW(**({"learning_rate": 0.1} | same | theirs))


def _oracle_value(name: str, value: Any) -> Any:
    if name == "amsgrad" and isinstance(value, bool):
        return "raw" if value else None
    return value.table if isinstance(value, LookUp) else value


@pytest.mark.parametrize(("knob", "options", "theirs"), KNOBS)
def test_a_knob_away_from_its_default(knob, options, theirs):
    tx = optadamw.adamw(**({"learning_rate": 0.1} | options))
    params, gradients = trees()
    comparison.follow(lambda: tx, oracle_of(options, theirs), params, gradients)


AROUND = {
    *("accumulate_steps", "accumulator_dtype", "loss_scale", "stats"),
    *("skip_nonfinite", "skip_spikes", "on_bad_micro_step", "max_consecutive"),
    *("commit", "residual_bits", "seed", "nu_dtype", "ema_dtype", "precision"),
    *("zero1", "zero1_layout", "offload", "reproducible_norms", "kernel"),
}
"""Options around the rules, of the numbers' forms, of layouts and of kernels: the
folders `control`, `commit`, `store`, `sharding` and `native` have rows."""


def test_every_knob_has_a_row():
    knobs = set(inspect.signature(optadamw.adamw).parameters)
    # `update_dtype` changes what `update` returns, not the step: see below.
    assert knobs - AROUND - {"update_dtype"} == {knob for knob, _, _ in KNOBS}


@pytest.mark.parametrize(("knob", "options", "theirs"), KNOBS)
def test_a_row_differs_from_the_same_without_its_knob(knob, options, theirs):
    # A row whose knob changes nothing would pass with the knob unconnected.
    without = {name: value for name, value in options.items() if name != knob}
    spelled = {"mask": "decayed"}.get(knob, knob)
    rest = {name: value for name, value in theirs.items() if name != spelled}
    params, gradients = trees()
    here, state = oracle_of(options, theirs).run(gradients, params)
    there, other = oracle_of(without, rest).run(gradients, params)
    pairs = [(here, there), (state.mu, other.mu)]
    if state.ema is not None:
        if other.ema is None:
            return
        pairs.append((state.ema, other.ema))
    assert any(
        np.max(np.abs(a[name] - b[name])) > 1e-5 * np.max(np.abs(a[name]))
        for a, b in pairs
        for name in a
    )


@pytest.mark.parametrize("route", ["step", "update"])
@pytest.mark.parametrize("dtype", [BF16, np.float16, np.float64, np.complex64])
def test_other_dtypes_with_everything_on(dtype, route):
    options = {
        "b1": 0.8,
        "b2": 0.97,
        "eps": 1e-3,
        "weight_decay": 0.2,
        "nesterov": True,
        "amsgrad": "raw",
        "clip_value": 2.0,
        "clip_norm": 0.8,
        "clip_global_norm": 0.9,
        "ema_decay": 0.8,
        "ema_overwrite_every": 3,
        "ema_debias": True,
        "maximize": True,
        "caution": True,
    }
    with jax.enable_x64(True) if dtype is np.float64 else contextlib.nullcontext():
        tx = optadamw.adamw(0.1, **options)
        params, gradients = trees(dtype)
        adamw = oracle.AdamW(0.1, **options)
        comparison.follow(lambda: tx, adamw, params, gradients, route=route)


@pytest.mark.parametrize("correction", [False, "mu"])
def test_both_places_of_eps_are_equal_if_the_second_moment_is_not_corrected(correction):
    params, gradients = trees()
    steps = [
        optadamw.adamw(0.1, bias_correction=correction, eps=0.1, eps_mode=mode)
        for mode in ("outside", "hat")
    ]
    one, other = (tx.step(gradients[0], tx.init(params), params)[0] for tx in steps)
    for name in SHAPES:
        assert np.array_equal(one[name], other[name])


@pytest.mark.parametrize("route", ["step", "update"])
def test_a_missing_gradient_touches_nothing(route):
    options = {
        "weight_decay": 0.2,
        "amsgrad": "raw",
        "clip_global_norm": 0.5,
        "ema_decay": 0.8,
        "ema_overwrite_every": 1,
    }
    params, gradients = trees()
    for grads in gradients:
        grads["b"] = None
    tx, adamw = optadamw.adamw(0.1, **options), oracle.AdamW(0.1, **options)
    comparison.follow(lambda: tx, adamw, params, gradients, route=route)


def test_float32_updates_of_16_bit_parameters_land_on_what_step_writes():
    params, gradients = trees(BF16)
    tx = optadamw.adamw(0.1, update_dtype=jnp.float32)
    state = tx.init(params)
    for grads in gradients:
        stepped, _ = jax.jit(tx.step)(grads, state, params)
        updates, state = jax.jit(tx.update)(grads, state, params)
        assert all(u.dtype == jnp.float32 for u in updates.values())
        params = optax.apply_updates(params, updates)
        for name in SHAPES:
            assert params[name].dtype == BF16
            np.testing.assert_array_equal(params[name], stepped[name])


def test_a_precomputed_norm_is_used():
    params, gradients = trees()
    tx = optadamw.adamw(0.1, eps=0.1, clip_global_norm=0.5)
    state = tx.init(params)
    given, _ = tx.step(gradients[0], state, params, grad_norm=jnp.float32(100.0))
    adamw = oracle.AdamW(0.1, eps=0.1)
    scaled = {name: g * (0.5 / 100.0) for name, g in gradients[0].items()}
    expected = adamw.step(scaled, adamw.init(params), params)
    for name in SHAPES:
        # 12 ULP of the parameter: the update is far smaller than it.
        error = floats.ulps(given[name], expected.target[name], np.float32)
        assert np.max(error) <= 12
