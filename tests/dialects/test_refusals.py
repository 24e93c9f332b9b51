"""Arguments that a call refuses, each with the words of its error."""

import math

import jax.numpy as jnp
import optax
import pytest

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
from tests.dialects.training import halving


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
    "r unknown in R's call": refused(
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
    "tfa decay beyond float32": refused(
        lambda: A(0.1, decay=1e39), ValueError, "`decay` must be.*finite in float32"
    ),
    "tfa decay beyond float64": refused(
        lambda: A(0.1, decay=10**400), ValueError, "`decay` must be.*got 1000"
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
    "optax none": refused(lambda: optax_peer.adamw(None), TypeError, "learning_rate"),
    "optax decay none": refused(
        lambda: optax_peer.adamw(0.1, weight_decay=None), TypeError, "weight_decay"
    ),
    "optax b1": refused(lambda: optax_peer.adamw(0.1, b1=1.5), ValueError, "`b1`"),
    "optax eps": refused(lambda: optax_peer.nadamw(0.1, eps=-1.0), ValueError, "`eps`"),
    "optax rate": refused(
        lambda: optax_peer.amsgrad(-0.1), ValueError, "`learning_rate`"
    ),
    "optax mu_dtype": refused(
        lambda: optax_peer.adamw(0.1, mu_dtype="moon"), (TypeError, ValueError), "moon"
    ),
    "optax correction": refused(
        lambda: optax_peer.amsgrad(0.1, bias_correction_mu="yes"),
        TypeError,
        "`bias_correction_mu`",
    ),
    "optax no correction": refused(
        lambda: optax_peer.amsgrad(0.1, bias_correction_nu=None),
        TypeError,
        "`bias_correction_nu`",
    ),
    "optax decay of amsgrad": refused(
        lambda: optax_peer.amsgrad(0.1, weight_decay=0.1), TypeError, "weight_decay"
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


def test_two_names_for_one_rate():
    with pytest.raises(ValueError, match="`lr` is another name of `learning_rate`"):
        tensorflow_addons.AdamW(1e-4, lr=0.1, learning_rate=0.2)
