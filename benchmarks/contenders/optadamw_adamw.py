"""optadamw, by `step` and by `update` followed by `optax.apply_updates`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

import optadamw
from benchmarks.contenders.contender import Contender, Program
from benchmarks.contenders.on_jax import contender
from benchmarks.workloads import Config

# What a part named in `optadamw+part+part` changes in the configuration, and so in
# what its results are compared with.
_CHANGES: dict[str, dict[str, Any]] = {
    "bare": {"accumulate_steps": None, "guard": False},
    "accumulate": {"accumulate_steps": 4},
    "guard": {"guard": True},
    "drop": {"guard": True},
    "abort": {"guard": True},
    "clip": {"clip_global_norm": 1.0},
    "amsgrad": {"amsgrad": True},
    "ema": {"ema_decay": 0.999},
    "all": {"guard": True, "amsgrad": True},
}
# What it asks for besides.
_OPTIONS: dict[str, dict[str, Any]] = {
    "drop": {"on_bad_micro_step": "drop"},
    "abort": {"on_bad_micro_step": "abort"},
    "spikes": {"skip_spikes": True},
    "static": {"loss_scale": 1024.0},
    "dynamic": {"loss_scale": optadamw.DynamicLossScale()},
    "stats": {"stats": True},
    "norms": {"stats": "norms"},
    "reproducible": {"reproducible_norms": True},
    "native": {"kernel": "native"},
    "xla": {"kernel": "xla"},
}
# In what form it keeps moments and parameters: another contender, not another part.
_EIGHT, _SIXTEEN = optadamw.blockwise(), optadamw.stochastic("bfloat16")
_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "8bit": ("float32", {"mu_dtype": _EIGHT, "nu_dtype": _EIGHT}),
    "16bit": ("float32", {"mu_dtype": _SIXTEEN, "nu_dtype": _SIXTEEN}),
    "stochastic": ("bfloat16", {"commit": "stochastic"}),
    "kahan": ("bfloat16", {"commit": "kahan"}),
    "mixed": ("bfloat16", {"precision": "mixed"}),
    "mixed24": ("bfloat16", {"precision": "mixed", "residual_bits": 8}),
    "compact": ("bfloat16", {"precision": "compact"}),
    "compact24": (
        "bfloat16",
        {"precision": "compact", "commit": "master", "residual_bits": 8},
    ),
}
# The shardings of the parameters are stated for kernels, as on Auto axes.
_STATED = "stated"
# All that is optadamw's alone, to be added to what the others have too.
_OPTIONS["all"] = _OPTIONS["spikes"] | _OPTIONS["dynamic"] | _OPTIONS["stats"]


def _transformation(config: Config, options: Mapping[str, Any]) -> Any:
    return optadamw.adamw(
        config.learning_rate,
        config.b1,
        config.b2,
        config.eps,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad or None,
        clip_global_norm=config.clip_global_norm,
        ema_decay=config.ema_decay,
        accumulate_steps=config.accumulate_steps,
        skip_nonfinite=config.guard or None,
        **options,
    )


def _program(
    by_step: bool,
    options: Mapping[str, Any],
    config: Config,
    tree: Any,
    is_stated: bool = False,
) -> Program:
    tx = _transformation(config, options)
    if is_stated:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, tree)
        tx = optadamw.with_pallas(tx, shardings=shardings)

    def step(gradients: Any, carry: Any) -> Any:
        params, state = carry
        return tx.step(gradients, state, params)

    def update(gradients: Any, carry: Any) -> Any:
        params, state = carry
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def init(params: Any) -> Any:
        return params, tx.init(params)

    def parameters(carry: Any) -> Any:
        return carry[0]

    def average(carry: Any) -> Any:
        return optadamw.ema_of(carry[1])

    def compiled(gradients: Any, carry: Any) -> jax.stages.Compiled:
        params, state = carry
        return tx.jit_step.lower(gradients, state, params).compile()

    if by_step:
        return Program(step, init, parameters, average, compiled)
    return Program(update, init, parameters, average)


def with_parts(*parts: str) -> Contender:
    """Makes `tx.step` of a configuration with some parts added, or with less.

    Raises:
        KeyError: There is no such part.
    """
    changes: dict[str, Any] = {}
    options: dict[str, Any] = {}
    dtype = "float32"
    for part in parts:
        if part in _FORMS:
            dtype, form = _FORMS[part]
            options |= form
        elif part not in _CHANGES and part not in _OPTIONS and part != _STATED:
            raise KeyError(part)
        changes |= _CHANGES.get(part, {})
        options |= _OPTIONS.get(part, {})

    def own(config: Config) -> Config:
        return dataclasses.replace(config, **changes)

    def program(config: Config, tree: Any) -> Program:
        return _program(True, options, own(config), tree, _STATED in parts)

    is_wide = not any(part in _FORMS for part in parts)
    made = contender(program, dtype=dtype)
    return dataclasses.replace(made, own=own, checked=is_wide)


STEP = with_parts()
UPDATE = contender(functools.partial(_program, False, {}))
