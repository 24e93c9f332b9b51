"""Flip one bit of a saved state: the reader raises, or reads the saved numbers.

A silent change of a number is a failure. The full form flips 300 bits of each format.
"""

import importlib.util
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optadamw
from optadamw import checkpoint, interchange
from optadamw.dialects.files import files
from tests.campaigns.campaign import Case

TX = optadamw.adamw(0.1, mu_dtype="bfloat16", ema_decay=0.9, accumulate_steps=3)
PLAIN = optadamw.adamw(0.1)
PARAMS = {"kernel": jnp.linspace(-1.0, 1.0, 640).reshape(32, 20), "bias": jnp.ones(7)}


def _state(tx: Any) -> Any:
    state = tx.init(PARAMS)
    for i in range(4):
        grads = jax.tree.map(lambda p, i=i: jnp.sin(p * (i + 1)), PARAMS)
        _, state = tx.step(grads, state, PARAMS)
    return state


def _save_ours(path: Path) -> None:
    checkpoint.save(path, TX, _state(TX), PARAMS)


def _load_ours(path: Path) -> Any:
    return dict(checkpoint.load(path).arrays)


def _save_torch(path: Path) -> None:
    files.write(path, interchange.to_torch(_state(PLAIN), PARAMS, tx=PLAIN))


def _save_keras(path: Path) -> None:
    files.write(
        path, interchange.to_keras(_state(PLAIN), PARAMS, tx=PLAIN, names=[*PARAMS])
    )


def _save_orbax(path: Path) -> None:
    files.write(path, checkpoint.to_portable(TX, _state(TX), PARAMS))


def _load_orbax(path: Path) -> Any:
    return dict(checkpoint.opened(files.read(path)).arrays)


FORMATS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], Any], str]] = {
    "our checkpoint": ("x.npz", _save_ours, _load_ours, ""),
    "converted .npz": ("x.npz", _save_torch, files.read, ""),
    "converted .safetensors": ("x.safetensors", _save_torch, files.read, ""),
    "converted .pt": ("x.pt", _save_torch, files.read, "torch"),
    "converted .h5": ("x.h5", _save_keras, files.read, "h5py"),
    "Orbax's folder of to_portable": ("x", _save_orbax, _load_orbax, "orbax"),
}


def cases(full: bool) -> Iterator[Case]:
    """Flip bits of each format whose package is installed."""
    for name, (file, save, load, package) in FORMATS.items():
        if not package or importlib.util.find_spec(package):
            flips = 300 if full else 12
            yield Case(name, partial(_flipped, file, save, load, flips))


def _flipped(
    name: str, save: Callable[[Path], None], load: Callable[[Path], Any], flips: int
) -> str:
    noticed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save(path)
        whole = load(path)
        parts = [p for p in sorted(path.rglob("*")) if p.is_file()] or [path]
        sizes = [part.stat().st_size for part in parts]
        for seed in range(flips):
            rng = random.Random(seed)
            part = rng.choices(parts, weights=sizes)[0]
            data = part.read_bytes()
            part.write_bytes(_flip(data, rng))
            try:
                found = load(path)
            except Exception:  # every reader has kinds of its own
                noticed += 1
            else:
                assert _equal(found, whole), f"flip {seed} of {part.name} is silent"
            part.write_bytes(data)
    return f"{flips} flips, {noticed} refused, 0 silent"


def _flip(data: bytes, rng: random.Random) -> bytes:
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def _equal(found: Any, whole: Any) -> bool:
    """Whether all numbers are those that were saved; texts are no numbers."""
    leaves, wanted = _arrays(found), _arrays(whole)
    return leaves.keys() == wanted.keys() and all(
        leaves[path].tobytes() == wanted[path].tobytes() for path in wanted
    )


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in pairs}
