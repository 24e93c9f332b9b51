"""A small decoder on the bytes of a text, nearly all of it in matrices."""

import functools
import math

import jax
import jax.numpy as jnp

from benchmarks.precision import text
from benchmarks.precision.problem import Batch, Params, Problem

_WIDTH, _HEADS, _LAYERS, _INNER = 64, 4, 2, 256
_LENGTH, _BATCH = 64, 8
# Every window has one byte more, which is only predicted.
_WINDOW = _LENGTH + 1


def problem(steps: int = 500, peak: float = 1e-2) -> Problem:
    """The decoder, trained on nine tenths of the text."""
    found, about = text.corpus()
    training, heldout = text.split(found)
    return Problem(
        name="transformer",
        steps=steps,
        peak=peak,
        initial=_initial,
        batches=functools.partial(text.batches, training, _WINDOW, _BATCH),
        heldout=text.windows(heldout, _WINDOW, 8 * _BATCH),
        loss=_loss,
        about={"batch": _BATCH, "length": _LENGTH, **about},
    )


def _initial(seed: int) -> Params:
    keys = iter(jax.random.split(jax.random.key(seed), 3 + 4 * _LAYERS))

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        drawn = jax.random.normal(next(keys), (rows, columns))
        return drawn * scale / math.sqrt(rows)

    # What is added to the stream starts smaller, as in GPT-2.
    small = 1 / math.sqrt(2 * _LAYERS)
    layers = [
        {
            "attention_norm": jnp.ones(_WIDTH),
            "qkv": matrix(_WIDTH, 3 * _WIDTH),
            "out": matrix(_WIDTH, _WIDTH, small),
            "mlp_norm": jnp.ones(_WIDTH),
            "up": matrix(_WIDTH, _INNER),
            "down": matrix(_INNER, _WIDTH, small),
        }
        for _ in range(_LAYERS)
    ]
    return {
        "embedding": matrix(text.VOCABULARY, _WIDTH, math.sqrt(text.VOCABULARY) / 4),
        "positions": matrix(_LENGTH, _WIDTH, math.sqrt(_LENGTH) / 4),
        "layers": layers,
        "norm": jnp.ones(_WIDTH),
        "head": matrix(_WIDTH, text.VOCABULARY),
    }


def _loss(params: Params, batch: Batch) -> jax.Array:
    given, wanted = batch[:, :-1], batch[:, 1:]
    x = params["embedding"][given] + params["positions"]
    for layer in params["layers"]:
        x = x + _attention(layer, _normed(x, layer["attention_norm"]))
        inner = jax.nn.gelu(_normed(x, layer["mlp_norm"]) @ layer["up"])
        x = x + inner @ layer["down"]
    logits = _normed(x, params["norm"]) @ params["head"]
    scores = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(scores, wanted[..., None], -1).mean()


def _attention(layer: Params, x: jax.Array) -> jax.Array:
    batch, length, _ = x.shape
    parts = (x @ layer["qkv"]).reshape(batch, length, 3, _HEADS, -1)
    query, key, value = (parts[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    seen = jnp.tril(jnp.ones((length, length), bool))
    scores = jnp.where(seen, scores / math.sqrt(_WIDTH // _HEADS), -1e30)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    return mixed.reshape(batch, length, _WIDTH) @ layer["out"]


def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale
