"""An error of a peer's call has the peer's words and is of the peer's class."""

import os
from typing import Any

import jax.numpy as jnp
import pytest

from optadamw.dialects import keras, optimi, r_keras3, tensorflow, timm, torch

TORCH: list[dict[str, Any]] = [
    {"lr": -1},
    {"lr": float("nan")},
    {"eps": -1.0},
    {"betas": (1.0, 0.9)},
    {"betas": (1, 2)},
    {"betas": (0.9, -0.1)},
    {"betas": (0.9, 1.5)},
    {"weight_decay": -1},
    {"betas": (0, 0.9)},
    {"fused": True, "foreach": True},
    {"fused": True, "differentiable": True},
]
KERAS: list[dict[str, Any]] = [
    {"weight_decay": None},
    {"learning_rate": 1},
    {"learning_rate": None},
    {"learning_rate": "fast"},
    {"momentum": 0.9},
    {"clipnorm": 1.0, "clipvalue": 1.0},
    {"clipvalue": 2.0, "global_clipnorm": 1.0},
    {"use_ema": True, "ema_momentum": 1.5},
    {"use_ema": True, "ema_momentum": -1},
    {"use_ema": True, "ema_overwrite_frequency": -1},
    {"use_ema": True, "ema_overwrite_frequency": 2.5},
    {"gradient_accumulation_steps": 1},
    {"name": 5},
    {"name": "a/b"},
]


def _error(call: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def _agree(ours: Exception, theirs: Exception) -> None:
    assert isinstance(ours, type(theirs))
    assert isinstance(ours, TypeError | ValueError)
    assert str(ours).startswith(str(theirs).rstrip("."))


@pytest.mark.parametrize("options", TORCH, ids=str)
def test_pytorch_says_so(options):
    peer = pytest.importorskip("torch", reason="PyTorch is not installed")
    weights = [peer.nn.Parameter(peer.ones(2))]
    theirs = _error(lambda: peer.optim.AdamW(weights, **options))
    _agree(_error(lambda: torch.AdamW(**options)), theirs)


@pytest.mark.parametrize("name", ["growth_factor", "backoff_factor"])
def test_the_scaler_of_pytorch_says_so(name):
    peer = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = _error(lambda: peer.amp.GradScaler("cpu", **{name: 1.0}))
    _agree(_error(lambda: torch.GradScaler(**{name: 1.0})), theirs)


@pytest.mark.parametrize("options", KERAS, ids=str)
def test_keras_says_so(options):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    peer = pytest.importorskip("keras", reason="Keras is not installed")
    theirs = _error(lambda: peer.optimizers.AdamW(**options))
    _agree(_error(lambda: keras.AdamW(**options)), theirs)


SAID = {
    "torch beta": (
        lambda: torch.AdamW(betas=(1.0, 0.9)),
        ValueError,
        "Invalid beta parameter at index 0: 1.0. `betas` must be in [0, 1); got 1.0.",
    ),
    "torch decay": (
        lambda: torch.AdamW(weight_decay=-1),
        ValueError,
        "Invalid weight_decay value: -1. `weight_decay` must be",
    ),
    "torch mixed betas": (
        lambda: torch.AdamW(betas=(0.9, jnp.float32(0.9))),
        ValueError,
        "betas must be either both floats or both Tensors. ",
    ),
    "torch rates": (
        lambda: torch.AdamW(lr=jnp.ones(2)),
        ValueError,
        "Tensor lr must be 1-element. ",
    ),
    "torch flags": (
        lambda: torch.AdamW(fused=True, foreach=True),
        RuntimeError,
        "`fused` and `foreach` cannot be `True` together. ",
    ),
    "torch scaler": (
        lambda: torch.GradScaler(growth_factor=0.5),
        AssertionError,
        "The growth factor must be > 1.0. ",
    ),
    "keras decay": (
        lambda: keras.AdamW(weight_decay=None),
        ValueError,
        "Argument `weight_decay` must be a float. Received: weight_decay=None. ",
    ),
    "R decay": (
        lambda: r_keras3.optimizer_adam_w(weight_decay=None),
        ValueError,
        "Argument `weight_decay` must be a float. Received: weight_decay=None. ",
    ),
    "keras name": (
        lambda: keras.AdamW(name=5),
        ValueError,
        "Argument `name` must be a string and cannot contain character `/`. Received: "
        "name=5. ",
    ),
    "keras name of a scaler": (
        lambda: keras.LossScaleOptimizer(keras.AdamW(), name="a/b"),
        ValueError,
        "Argument `name` must be a string and cannot contain character `/`. Received: "
        "name=a/b. ",
    ),
    "keras unknown": (
        lambda: keras.AdamW(momentum=0.9),
        ValueError,
        "Argument(s) not recognized: {'momentum': 0.9}. ",
    ),
    "keras 2 decay": (
        lambda: tensorflow.AdamW(weight_decay=None),
        ValueError,
        "Missing value of `weight_decay` which is required and must be a float value. ",
    ),
    "optimi beta": (
        lambda: optimi.AdamW(lr=1e-3, betas=(0.9, 1.0)),
        ValueError,
        "Invalid beta2 parameter: betas[1]=1.0. ",
    ),
    "timm eps": (
        lambda: timm.AdamWLegacy(eps=-1.0),
        ValueError,
        "Invalid epsilon value: -1.0. ",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), SAID.values(), ids=SAID)
def test_the_words_and_the_class_of_a_peer(call, kind, words):
    error = _error(call)
    assert isinstance(error, kind)
    assert isinstance(error, TypeError | ValueError)
    assert str(error).startswith(words)


def test_an_error_without_a_phrase_keeps_its_class():
    error = _error(lambda: torch.AdamW(clip_grad_norm=-1.0))
    assert type(error) is ValueError
    assert str(error).startswith("`clip_grad_norm` must be")
