"""A small decoder on text that every Python brings: the topics of `help()`."""

import math
from pydoc_data.topics import topics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.cli.demo.settings import TEST_SIZE, TRAINING_SIZE, VALIDATION_SIZE
from optadamw.cli.demo.task import Examples, Splits, Task

_CHARACTERS = 128
_LENGTH = 32
_WIDTH, _HEADS, _INNER, _BLOCKS = 48, 4, 192, 2


def load() -> Splits:
    """Return windows of 32 characters, each labeled with the character after it.

    The windows are spread evenly over the text and do not overlap. Those of the test
    come from its end, those of the validation from before them.
    """
    text = "".join(topics.values()).encode("ascii", "ignore")
    codes = np.frombuffer(text, np.uint8).astype(np.int32)
    count = TRAINING_SIZE + VALIDATION_SIZE + TEST_SIZE
    starts = np.arange(count) * ((len(codes) - 1) // count)
    windows = jnp.asarray(codes[starts[:, None] + np.arange(_LENGTH + 1)])
    parts = jnp.split(windows, [TRAINING_SIZE, TRAINING_SIZE + VALIDATION_SIZE])
    return Splits(*(Examples(part[:, :-1], part[:, 1:]) for part in parts))


def _initial(seed: int) -> Any:
    keys = iter(jax.random.split(jax.random.key(seed), 3 + 4 * _BLOCKS))

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) * scale / math.sqrt(rows)

    # Outputs that are added to the stream start smaller, as in GPT-2.
    small = 1 / math.sqrt(2 * _BLOCKS)
    layers: dict[str, Any] = {
        "embedding": {
            "characters": matrix(_CHARACTERS, _WIDTH, math.sqrt(_CHARACTERS) / 4),
            "positions": matrix(_LENGTH, _WIDTH, math.sqrt(_LENGTH) / 4),
        }
    }
    for block in range(1, _BLOCKS + 1):
        layers[f"attention{block}"] = {
            "norm": jnp.ones(_WIDTH),
            "qkv": {"kernel": matrix(_WIDTH, 3 * _WIDTH)},
            "out": {"kernel": matrix(_WIDTH, _WIDTH, small)},
        }
        layers[f"mlp{block}"] = {
            "norm": jnp.ones(_WIDTH),
            "up": {"kernel": matrix(_WIDTH, _INNER)},
            "down": {"kernel": matrix(_INNER, _WIDTH, small)},
        }
    layers["output"] = {
        "norm": jnp.ones(_WIDTH),
        "kernel": matrix(_WIDTH, _CHARACTERS),
    }
    return layers


def _logits(params: Any, characters: jax.Array) -> jax.Array:
    embedding = params["embedding"]
    x = embedding["characters"][characters] + embedding["positions"]
    for block in range(1, _BLOCKS + 1):
        x = x + _attention(params[f"attention{block}"], x)
        mlp = params[f"mlp{block}"]
        inner = jax.nn.gelu(_normed(x, mlp["norm"]) @ mlp["up"]["kernel"])
        x = x + inner @ mlp["down"]["kernel"]
    return _normed(x, params["output"]["norm"]) @ params["output"]["kernel"]


def _attention(layer: Any, x: jax.Array) -> jax.Array:
    batch, length, _ = x.shape
    projected = _normed(x, layer["norm"]) @ layer["qkv"]["kernel"]
    parts = projected.reshape(batch, length, 3, _HEADS, -1)
    query, key, value = (parts[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    seen = jnp.tril(jnp.ones((length, length), bool))
    scores = jnp.where(seen, scores / math.sqrt(_WIDTH // _HEADS), -1e30)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    return mixed.reshape(batch, length, _WIDTH) @ layer["out"]["kernel"]


def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def _unchanged(characters: jax.Array, key: jax.Array) -> jax.Array:
    return characters


TEXT = Task("Text", "windows", "characters", load, _initial, _logits, _unchanged)
