"""Digests beside Orbax's files: a flipped bit is loud, or changes nothing."""

import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import optadamw
from optadamw import checkpoint
from tests.support import trees

TX = optadamw.adamw(
    0.1, mu_dtype=optadamw.blockwise(min_size=0), ema_decay=0.9, accumulate_steps=3
)
KINDS: trees.Kinds = {"w": (jnp.float32, (48, 32)), "b": (jnp.bfloat16, (7,))}
PARAMS = trees.normal(KINDS, 0)
DTYPES = (
    *("float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool", "complex64"),
    *("float64", "int64", "complex128", "float8_e4m3fn"),
)


@cache
def trained() -> Any:
    """Return a state of four steps; not at import, which each worker does."""
    state = TX.init(PARAMS)
    for i in range(4):
        _, state = TX.step(trees.normal(KINDS, 1 + i), state, PARAMS)
    return state


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_of_every_dtype_counts(dtype):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        size = jnp.dtype(dtype).itemsize
        raw = rng.integers(0, 2 if dtype == "bool" else 256, (3, 5, size), np.uint8)
        array = raw.view(jnp.dtype(dtype))[..., 0]
        whole = checkpoint.digests({"x": jnp.asarray(array)})
        assert checkpoint.digests({"x": array}) == whole
        for bit in range(8 * size) if dtype != "bool" else (0,):
            changed = raw.copy()
            changed[1, 3, bit // 8] ^= 1 << bit % 8
            other = changed.view(jnp.dtype(dtype))[..., 0]
            assert checkpoint.digests({"x": jnp.asarray(other)}) != whole, bit
    wide = {"x": array}  # NumPy's 64 bits are read where JAX has none
    assert checkpoint.digests(wide) == whole


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2", "uint2", "float4_e2m1fn"])
def test_every_bit_of_less_than_a_byte_counts(dtype):
    """NumPy keeps such numbers in bytes, of which the upper bits are none of theirs."""
    kind = jnp.dtype(dtype)
    bits = (jnp.finfo if "float" in dtype else jnp.iinfo)(kind).bits
    raw = np.arange(15, dtype=np.uint8).reshape(3, 5) % 2**bits
    whole = checkpoint.digests({"x": jnp.asarray(raw.view(kind))})
    assert checkpoint.digests({"x": raw.view(kind)}) == whole
    assert checkpoint.digests({"x": (raw | 0xF0).view(kind)}) == whole
    for bit in range(bits):
        other = raw.copy()
        other[1, 3] ^= 1 << bit
        assert checkpoint.digests({"x": jnp.asarray(other.view(kind))}) != whole, bit


def test_places_shapes_and_dtypes_count():
    x = jnp.arange(6.0)
    seen = [x, x[::-1], x.reshape(2, 3), x.astype(jnp.float16), -x, x.at[0].set(-0.0)]
    texts = {checkpoint.digests(y)[""] for y in seen}
    assert len(texts) == len(seen)
    assert checkpoint.digests(x)[""].startswith("float32[6] ")
    assert checkpoint.digests({"empty": jnp.ones((0, 3)), "none": None}) == {
        "empty": "float32[0, 3] 0000000000000000"
    }


def test_digests_of_a_state_are_those_of_its_dicts():
    """Orbax without a target gives nested dicts of NumPy arrays."""
    found = checkpoint.digests(trained())
    assert {"step", "mu/w", "mu_scales/w", "ema/b", "accumulator/w"} <= set(found)
    held = {k: v for k, v in trained()._asdict().items() if v is not None}
    assert checkpoint.digests(jax.device_get(held)) == found


def test_a_difference_names_the_leaf():
    saved = checkpoint.digests(trained())
    checkpoint.verify(trained(), saved)
    changed = trained().nu | {"w": trained().nu["w"].at[3, 1].multiply(1 + 2e-7)}
    wrong = trained()._replace(nu=changed)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"Leaf 'nu/w'.*earlier"):
        checkpoint.verify(wrong, saved)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"'ema/.*missing.*1 others"):
        checkpoint.verify(trained()._replace(ema=None), saved)
    with pytest.raises(checkpoint.DamagedCheckpoint, match="'nu/w' has no digest"):
        checkpoint.verify(trained(), {k: v for k, v in saved.items() if k != "nu/w"})


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`wanted` must be"):
        checkpoint.verify(trained(), "digests")
    with pytest.raises(TypeError, match=r"Leaf 'x'.*no array of numbers"):
        checkpoint.digests({"x": "text"})
    with pytest.raises(TypeError, match=r"Leaf 'x'.*key_data"):
        checkpoint.digests({"x": jax.random.key(0)})
    with pytest.raises(ValueError, match=r"Leaf 'x'.*outside"):
        jax.jit(lambda x: checkpoint.digests({"x": x}))(jnp.ones(2))


# --- Beside Orbax --------------------------------------------------------------------


def _save(folder: Path) -> None:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as keeper:
        keeper.save(
            folder,
            ocp.args.Composite(
                state=ocp.args.StandardSave(trained()),
                digests=ocp.args.JsonSave(checkpoint.digests(trained())),
            ),
        )


def _restore(folder: Path) -> Any:
    target = optadamw.state_shapes(TX, PARAMS)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as keeper:
        found = keeper.restore(
            folder,
            ocp.args.Composite(
                state=ocp.args.StandardRestore(target),
                digests=ocp.args.JsonRestore(),
            ),
        )
    checkpoint.verify(found.state, found.digests)
    return found.state


def _flip(folder: Path, seed: int) -> None:
    """Flip one bit of one of the files, a larger one more often."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    chance = random.Random(seed)
    file = chance.choices(files, [p.stat().st_size for p in files])[0]
    data = bytearray(file.read_bytes())
    bit = chance.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("first", range(0, 300, 10))
def test_no_flip_of_a_bit_in_orbaxs_files_is_silent(tmp_path, first):
    _save(tmp_path / "whole")
    trees.assert_same_bits(_restore(tmp_path / "whole"), trained())
    loud = 0
    for seed in range(first, first + 10):
        folder = tmp_path / str(seed)
        shutil.copytree(tmp_path / "whole", folder)
        _flip(folder, seed)
        try:
            found = _restore(folder)
        except Exception:
            loud += 1
        else:
            trees.assert_same_bits(found, trained())
        shutil.rmtree(folder)
    assert loud > 0
