"""The documented arguments of each peer's call, their order and defaults."""

import inspect

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

MODULES = {
    "keras": keras,
    "r_keras3": r_keras3,
    "torch": torch,
    "tensorflow": tensorflow,
    "tensorflow_addons": tensorflow_addons,
    "flux": flux,
    "mlx": mlx,
    "optax": optax_peer,
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


def function_of(spelling):
    module, _, name = spelling.partition(".")
    return getattr(MODULES[module], name)


def documented(arguments):
    return inspect.signature(eval(f"lambda {arguments}: None")).parameters
