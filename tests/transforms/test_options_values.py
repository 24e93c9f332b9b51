"""`adamw` is equal, as a value, to the chain and wrappers that one writes by hand."""

import pickle
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

import optadamw
from optadamw import (
    DynamicLossScale,
    adamw,
    add_decoupled_weight_decay,
    add_slow_moment,
    amsgrad_max,
    blockwise,
    cautious,
    chain,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    clip_update_by_rms,
    ema_params,
    exclude,
    maximize,
    multi_steps,
    param_groups,
    scale_by_adam,
    scale_by_learning_rate,
    skip_nonfinite,
    skip_spikes,
    stochastic,
    with_commit,
    with_loss_scale,
    with_seed,
    with_stats,
)


def falling(step):
    """A schedule that can be pickled."""
    return 0.1 / (1.0 + step)


ADAM = scale_by_adam()
DECAY = add_decoupled_weight_decay()
RATE = scale_by_learning_rate(0.1)
PLAIN = chain(ADAM, DECAY, RATE)
EIGHT = blockwise()
SIXTEEN = stochastic("bfloat16")
COMPACT = with_commit(
    chain(scale_by_adam(mu_dtype=EIGHT, nu_dtype=EIGHT), DECAY, RATE), "stochastic"
)


def decay(*args: Any, **options: Any) -> Any:
    return chain(ADAM, add_decoupled_weight_decay(*args, **options), RATE)


class Pair(NamedTuple):
    """Options of `adamw` besides the learning rate, and what one writes by hand."""

    options: dict[str, Any]
    by_hand: Any


PAIRS = (
    Pair({}, PLAIN),
    Pair({"nesterov": None, "maximize": False, "ema_debias": False}, PLAIN),
    Pair({"amsgrad": False, "stats": False, "skip_nonfinite": False}, PLAIN),
    Pair({"commit": "nearest", "precision": "full", "accumulate_steps": 1}, PLAIN),
    Pair(
        {"learning_rate": falling, "b1": falling, "eps": 1e-6},
        chain(scale_by_adam(falling, eps=1e-6), DECAY, scale_by_learning_rate(falling)),
    ),
    Pair(
        {"b2": 0.95, "eps_root": 1e-9, "mu_dtype": "bfloat16"},
        chain(scale_by_adam(b2=0.95, eps_root=1e-9, mu_dtype="bfloat16"), DECAY, RATE),
    ),
    Pair({"weight_decay": 0.0}, decay(0.0)),
    Pair({"weight_decay": falling, "mask": "*/kernel"}, decay(falling, "*/kernel")),
    Pair({"mask": ["!*/bias"]}, decay(mask=exclude("*/bias"))),
    Pair({"weight_decay_mode": "independent"}, decay(mode="independent")),
    Pair(
        {"weight_decay_mode": "schedule", "max_learning_rate": 0.2},
        decay(mode="schedule", max_learning_rate=0.2),
    ),
    Pair({"weight_decay_mode": "corrected"}, decay(mode="corrected")),
    Pair(
        {"clip_update_rms": 0.5},
        chain(ADAM, DECAY, clip_update_by_rms(0.5), RATE),
    ),
    Pair(
        {"clip_update_rms": 0.5, "clip_update_keeps_decay": True},
        chain(ADAM, DECAY, clip_update_by_rms(0.5, keeps_decay=True), RATE),
    ),
    Pair({"cautious_weight_decay": True}, decay(cautious=True)),
    Pair({"cautious_weight_decay": False}, decay()),
    Pair({"nesterov": True}, chain(scale_by_adam(nesterov=True), DECAY, RATE)),
    Pair(
        {"nesterov": "current", "bias_correction": "mu", "eps_mode": "hat"},
        chain(
            scale_by_adam(nesterov="current", bias_correction="mu", eps_mode="hat"),
            *(DECAY, RATE),
        ),
    ),
    Pair({"amsgrad": True}, chain(ADAM, amsgrad_max(), DECAY, RATE)),
    Pair(
        {"amsgrad": "corrected", "nu_dtype": "float32"},
        chain(
            scale_by_adam(nu_dtype="float32"),
            amsgrad_max("corrected", dtype="float32"),
            *(DECAY, RATE),
        ),
    ),
    Pair({"b3": 0.99}, chain(ADAM, add_slow_moment(0.99), DECAY, RATE)),
    Pair(
        {"b3": falling, "slow_alpha": 2.0, "mu_dtype": SIXTEEN, "amsgrad": True},
        chain(
            *(scale_by_adam(mu_dtype=SIXTEEN), amsgrad_max()),
            *(add_slow_moment(falling, 2.0, dtype=SIXTEEN), DECAY, RATE),
        ),
    ),
    Pair({"maximize": True}, chain(maximize(), ADAM, DECAY, RATE)),
    Pair({"caution": True}, chain(ADAM, cautious(), DECAY, RATE)),
    Pair({"clip_value": 1.0}, chain(clip_by_value(1.0), ADAM, DECAY, RATE)),
    Pair({"clip_norm": falling}, chain(clip_by_norm(falling), ADAM, DECAY, RATE)),
    Pair(
        {"clip_global_norm": 2.0, "clip_eps": 1e-6, "clip_norm": 1.0, "clip_value": 3},
        chain(
            *(clip_by_value(3), clip_by_norm(1.0), clip_by_global_norm(2.0, eps=1e-6)),
            *(ADAM, DECAY, RATE),
        ),
    ),
    Pair({"ema_decay": 0.9}, chain(ADAM, DECAY, RATE, ema_params(0.9))),
    Pair(
        {"ema_decay": 0.9, "ema_debias": True, "ema_overwrite_every": falling},
        chain(
            *(ADAM, DECAY, RATE, ema_params(0.9, debias=True, overwrite_every=falling)),
        ),
    ),
    Pair(
        {"ema_decay": 0.9, "ema_warmup": True, "ema_dtype": SIXTEEN},
        chain(ADAM, DECAY, RATE, ema_params(0.9, warmup=True, dtype=SIXTEEN)),
    ),
    Pair({"update_dtype": "float32"}, chain(PLAIN, update_dtype="float32")),
    Pair({"commit": "kahan"}, with_commit(PLAIN, "kahan")),
    Pair({"precision": "mixed"}, with_commit(PLAIN, "master")),
    Pair({"precision": "mixed", "commit": "kahan"}, with_commit(PLAIN, "kahan")),
    Pair({"precision": "compact"}, skip_nonfinite(COMPACT)),
    Pair({"precision": "compact", "seed": 7}, skip_nonfinite(with_seed(COMPACT, 7))),
    Pair(
        {"mu_dtype": EIGHT, "max_consecutive": 3},
        skip_nonfinite(
            chain(scale_by_adam(mu_dtype=EIGHT), DECAY, RATE), max_consecutive=3
        ),
    ),
    Pair({"accumulate_steps": 4}, multi_steps(PLAIN, 4)),
    Pair(
        {"accumulate_steps": falling, "accumulator_dtype": "bfloat16"},
        multi_steps(PLAIN, falling, dtype="bfloat16"),
    ),
    Pair({"loss_scale": 8.0}, with_loss_scale(PLAIN, 8.0)),
    Pair(
        {"loss_scale": DynamicLossScale()}, with_loss_scale(PLAIN, DynamicLossScale())
    ),
    Pair(
        {
            "loss_scale": DynamicLossScale(),
            "on_bad_micro_step": "abort",
            "accumulate_steps": 2,
        },
        with_loss_scale(
            skip_nonfinite(multi_steps(PLAIN, 2), on_bad_micro_step="abort"),
            DynamicLossScale(),
        ),
    ),
    Pair({"skip_nonfinite": True}, skip_nonfinite(PLAIN)),
    Pair({"skip_spikes": True, "skip_nonfinite": True}, skip_spikes(PLAIN)),
    Pair(
        {"skip_spikes": {"sigmas": 3.0, "max_consecutive": 9}, "max_consecutive": 9},
        skip_spikes(PLAIN, sigmas=3.0, max_consecutive=9),
    ),
    Pair({"stats": True}, with_stats(PLAIN)),
    Pair(
        {"stats": "norms", "accumulate_steps": 2, "skip_nonfinite": True},
        with_stats(multi_steps(skip_nonfinite(PLAIN), 2), norms=True),
    ),
    Pair(
        {"groups": {"*/bias": {"weight_decay": 0.0, "amsgrad": True}}, "stats": True},
        with_stats(
            param_groups(
                PLAIN,
                {
                    "*/bias": chain(
                        *(ADAM, amsgrad_max(), add_decoupled_weight_decay(0.0), RATE)
                    )
                },
            )
        ),
    ),
)
IDS = [" ".join(pair.options) or "plain" for pair in PAIRS]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=IDS)


def built(pair: Pair) -> Any:
    return adamw(**({"learning_rate": 0.1} | pair.options))


def test_there_are_enough_pairs():
    assert len({pair.by_hand for pair in PAIRS}) >= 30


@each_pair
def test_adamw_equals_what_one_writes_by_hand(pair):
    tx = built(pair)
    assert tx == pair.by_hand and hash(tx) == hash(pair.by_hand)
    assert repr(tx.recipe.composition) == repr(pair.by_hand.recipe.composition)


@each_pair
def test_adamw_is_its_repr_and_its_pickle(pair):
    tx = built(pair)
    copied = pickle.loads(pickle.dumps(tx))
    assert copied == tx and repr(copied) == repr(tx)
    if falling not in pair.options.values():
        assert eval(repr(tx), {**vars(optadamw), "Array": jnp.asarray}) == tx


def test_rebuilt_equal_transformations_share_one_step():
    for pair in PAIRS:
        assert built(pair).step is built(pair).step is pair.by_hand.step
