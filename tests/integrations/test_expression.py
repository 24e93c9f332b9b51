"""A transformation can be read back from the text that it prints as, or is refused."""

import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import adamw, schedules
from optadamw.dialects import keras, torch
from optadamw.integrations.expression import read_call, text_of

READ_BACK = {
    "plain": adamw(1e-3),
    "numbers": adamw(3e-4, 0.85, 0.97, eps=1e-9, weight_decay=0.05, nesterov=True),
    "patterns": adamw(0.1, mask=["!*/bias", "!*/scale"]),
    "expression": adamw(0.1, mask=re.compile("kernel$")),
    "excluded": adamw(0.1, mask=optadamw.exclude("*/bias")),
    "tree": adamw(0.1, mask={"w": True, "b": False}),
    "groups": adamw(0.1, groups={"*/bias": {"weight_decay": 0.0}}),
    "schedule": adamw(schedules.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)),
    "joined": adamw(
        schedules.join_schedules(
            [schedules.constant_schedule(0.1), schedules.linear_schedule(0.1, 0.0, 4)],
            [3],
        )
    ),
    "precision": adamw(1e-3, precision="compact", ema_decay=0.99, seed=3),
    "formats": adamw(
        1e-3,
        mu_dtype=optadamw.blockwise(block_size=16, keep="*/bias"),
        nu_dtype=optadamw.stochastic("bfloat16"),
    ),
    "control": adamw(
        1e-3,
        accumulate_steps=4,
        loss_scale=optadamw.DynamicLossScale(initial=16.0),
        skip_spikes={"sigmas": 4.0},
        stats="norms",
        on_bad_micro_step="wait",
    ),
    "chain": optadamw.chain(
        optadamw.clip_by_global_norm(1.0),
        optadamw.scale_by_adam(mu_dtype="bfloat16"),
        optadamw.scale_by_learning_rate(0.1),
    ),
    "wrapped": optadamw.with_stats(optadamw.skip_nonfinite(adamw(0.1))),
    "adjustable": adamw(
        optadamw.adjustable(0.1, name="peak") * schedules.linear_schedule(1.0, 0.0, 4),
        weight_decay=optadamw.adjustable(0.1) * 0.5,
    ),
    "scalars of NumPy": adamw(
        np.float64(0.1), np.float32(0.9), weight_decay=np.array(1 / 3, np.float32)
    ),
    "scalars of JAX": adamw(
        jnp.float32(1 / 3),
        weight_decay=jnp.bfloat16(0.1),
        groups={"*/bias": {"learning_rate": jnp.int32(2)}},
    ),
    "frozen": optadamw.param_groups(adamw(0.1), [("*/bias", optadamw.freeze())]),
    "schedule-free": optadamw.schedule_free_adamw(0.1, warmup_steps=4, step_power=1.5),
    "schedule-free atoms": optadamw.chain(
        optadamw.scale_by_second_moment(0.99),
        optadamw.scale_by_learning_rate(0.1),
        optadamw.schedule_free(0.8),
    ),
    "keras": keras.AdamW(0.01, global_clipnorm=1.0, use_ema=True),
    "torch": torch.AdamW(lr=1e-3, betas=(0.9, 0.95), amsgrad=True),
}


@pytest.mark.parametrize("name", READ_BACK)
def test_a_text_is_read_back_as_an_equal_transformation(name):
    tx = READ_BACK[name]
    found = read_call(text_of(tx))
    assert found == tx and repr(found) == repr(tx)


@pytest.mark.parametrize(
    "tx",
    [
        adamw(lambda step: 0.1),
        adamw(optax.constant_schedule(0.1)),
        adamw(0.1, mask=lambda path, array: True),
    ],
    ids=["function", "closure", "predicate"],
)
def test_a_transformation_that_is_no_text_is_refused_with_the_remedy(tx):
    with pytest.raises(ValueError, match=r"cannot be saved.*Use a pattern in place"):
        text_of(tx)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("adamw(0.1", "is no call"),
        ("0.1", "is no transformation"),
        ("blockwise()", "is no transformation"),
        ("eval('1')", "`eval` is no function"),
        ("__import__('os').system('true')", "is no function"),
        ("adamw.__globals__['x']()", "is no function"),
        ("adamw(0.1, **{'b1': 0.5})", "is neither a literal"),
        ("adamw(x)", "`x` is neither a literal"),
        ("adamw(np.float64('0.1'))", "`'0.1'` is no number"),
        ("adamw(Array([0.1, 0.2], dtype=float32))", "is no number"),
        ("adamw(np.load('x'))", "`np.load` is no function"),
        ("adamw(0.1 if True else 0.2)", "is neither a literal"),
        ("[adamw(0.1) for _ in (1,)]", "is neither a literal"),
    ],
)
def test_other_texts_are_refused_and_run_nothing(text, match):
    with pytest.raises(ValueError, match=match):
        read_call(text)
