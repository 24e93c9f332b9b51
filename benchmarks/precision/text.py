"""Bytes of real text that every Python brings: the language reference of `help()`."""

import hashlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

VOCABULARY = 128


def corpus() -> tuple[np.ndarray, dict[str, Any]]:
    """Reads the text.

    Returns:
        The ASCII bytes, and what tells which text it was: it differs between versions
        of Python.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    found = "".join(topics.values()).encode("ascii", "ignore")
    about = {"text": "pydoc_data.topics", "bytes": len(found)}
    about["sha256"] = hashlib.sha256(found).hexdigest()
    return np.frombuffer(found, np.uint8).astype(np.int32), about


def split(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The text to train on, and its last tenth."""
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def windows(text: np.ndarray, length: int, size: int) -> list[np.ndarray]:
    """Cuts text into batches of windows that do not overlap; drops the rest."""
    count = len(text) // (length * size)
    cut = text[: count * size * length].reshape(count, size, length)
    return list(cut)


def batches(text: np.ndarray, length: int, size: int, seed: int) -> Iterator[Any]:
    """Draws windows from anywhere in the text, without end."""
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(0, len(text) - length, size)
        yield text[starts[:, None] + np.arange(length)]
