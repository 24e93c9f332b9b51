"""Parameters of any name are saved, and restored under this name."""

import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optadamw
from optadamw import checkpoint
from optadamw.checkpoint.matching import matched
from optadamw.checkpoint.names import Name
from optadamw.checkpoint.rename import old_paths
from tests.support import trees

TX = optadamw.adamw(0.1)

NAMES = {
    "a suffix": ("x", "x.npy", "x.npy.npy", ".npy"),
    "NUL": ("a\0b", "a", "\0"),
    "long": ("k" * 70_000, "é" * 40_000, "k" * 59_999),
    "slashes": ("a\\b", "a/b", "c"),
    "surrogates": ("\ud800", "\udfff", "?"),
    "ours": ("optadamw.names", "optadamw.entry.0", "optadamw.json", "file"),
    "folders": ("..", ".", "/", " ", "C:", "con"),
    "texts": ("ü", "u\u0308", "\U0001f600", "\n", "\x7f", "%00"),
}


def _there_and_back(names: tuple[str, ...], path: Any) -> None:
    params: Any = {n: jnp.full(2 + i, i, jnp.float32) for i, n in enumerate(names)}
    state = TX.init(params)._replace(step=jnp.int32(7), nu=params)
    checkpoint.save(path, TX, state, params)
    saved = checkpoint.load(path)
    with np.load(path) as file:
        for form in (saved, file):
            restored, report = checkpoint.restore(TX, params, form)
            assert report.is_whole
            trees.assert_same_bits(restored, state)
        assert checkpoint.opened(file).others == ()
    trees.assert_same_bits(checkpoint.params_of(saved, params), params)


@pytest.mark.parametrize("kind", NAMES)
def test_names_that_a_zip_file_cannot_hold(kind, tmp_path):
    _there_and_back(NAMES[kind], tmp_path / "state.npz")


def test_an_altered_list_of_such_names_is_damage(tmp_path):
    params = {"a\\b": jnp.ones(3)}
    checkpoint.save(tmp_path / "state.npz", TX, TX.init(params), params)
    with np.load(tmp_path / "state.npz") as file:
        found = dict(file)
    texts = (b"[1]", b"{", b'{"other": "mu/a"}', b'{"optadamw.entry.0": 5}')
    for text in (*texts, b"[" * 100_000, b'{"optadamw.entry.0": []}'):
        found["optadamw.names"] = np.frombuffer(text, np.uint8)
        with pytest.raises(checkpoint.DamagedCheckpoint, match="entry '"):
            checkpoint.restore(TX, params, found)
        np.savez(tmp_path / "altered.npz", **found)
        with pytest.raises(checkpoint.DamagedCheckpoint):
            checkpoint.load(tmp_path / "altered.npz")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sets(st.text(max_size=12), min_size=1, max_size=4))
def test_any_names(tmp_path, names):
    listed = tuple(sorted(names))
    try:
        _there_and_back(listed, tmp_path / "state.npz")
    except ValueError as error:
        # "a/b" beside {"a": {"b": ...}}, and "" beside nothing: refused when saved.
        assert "Two leaves are called" in str(error)


def test_ordinary_names_are_those_of_numpy(tmp_path):
    params = {"dense": {"kernel": jnp.ones(2), "x.npy": jnp.ones(3)}}
    path = tmp_path / "state.npz"
    checkpoint.save(path, TX, TX.init(params))
    with np.load(path) as archive:
        assert {"mu/dense/kernel", "nu/dense/kernel", "step"} < set(archive.files)
        assert "optadamw.names" in archive.files


def test_a_swapped_name_is_noticed(tmp_path):
    """The names of odd entries are covered by the digests of the arrays."""
    params, path = {"a\0": jnp.ones(2), "b\0": jnp.zeros(2)}, tmp_path / "state.npz"
    checkpoint.save(path, TX, TX.init(params), params)
    entries = dict(np.load(path))
    text = entries["optadamw.names"].tobytes()
    swapped = text.replace(b"a\\u", b"q\\u")
    assert swapped != text
    entries["optadamw.names"] = np.frombuffer(swapped, np.uint8)
    np.savez(path, **entries)
    with pytest.raises(checkpoint.DamagedCheckpoint, match="no entry"):
        checkpoint.load(path)


@pytest.mark.parametrize("is_renamed", [False, True])
def test_thousands_of_new_or_renamed_leaves_are_matched_at_once(is_renamed):
    """Looking at each saved name for each of them takes 8 to 20 seconds here."""
    paths = [f"layers/{i // 8}/experts/{i % 8}/weight" for i in range(6000)]
    saved = [f"mu/{path}" for path in paths]
    new = [f"new/{path}" for path in paths]
    names = [Name("", "mu", path) for path in (new if is_renamed else paths + new)]
    rename = dict(zip(new, paths, strict=True)) if is_renamed else None
    start = time.process_time()
    old = old_paths(rename, [name.path for name in names])
    found = matched(names, saved, {}, old)
    assert time.process_time() - start < 1
    assert found == (saved if is_renamed else saved + [None] * 6000)


@pytest.mark.parametrize(("now", "was"), [("a", "a/b/c"), ("a/b/c", "a")])
def test_a_leaf_that_was_saved_as_a_tree_and_the_reverse(now, was):
    saved = ["mu/a-", f"mu/{was}", "mu/b"]
    with pytest.raises(ValueError, match=f"in another form, as 'mu/{was}'"):
        matched([Name("", "mu", now)], saved, {}, {now: now})
    new = Name("", "mu", "ab")
    assert matched([new], ["mu/a", "step"], {}, {"ab": None}) == [None]
