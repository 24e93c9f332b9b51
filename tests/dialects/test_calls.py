"""Every call in a peer's words is the call of `adamw` that its documentation claims."""

import functools

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
from tests.dialects.training import halving, same_trees, trained

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
    "optax": (optax_peer.adamw(0.1), adamw(0.1)),
    "optax positions": (
        optax_peer.adamw(0.1, 0.5, 0.6, 1e-3, 1e-4, "bfloat16", 0.2, "*/kernel"),
        adamw(0.1, 0.5, 0.6, 1e-3, 1e-4, "bfloat16", 0.2, "*/kernel"),
    ),
    "optax nadamw": (optax_peer.nadamw(0.1), adamw(0.1, nesterov=True)),
    "optax nadamw off": (optax_peer.nadamw(0.1, nesterov=False), adamw(0.1)),
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
