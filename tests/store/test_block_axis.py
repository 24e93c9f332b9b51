"""Blocks along the last axis or along the one before it: a part of the form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.store.block_code import Blocks, axis_of, decoded, encoded
from tests.support import trees

SHAPES = {"w": (64, 96), "t": (2, 32, 40), "odd": (7, 64), "v": (96,)}


def form(axis=None, **options):
    return optadamw.blockwise(min_size=0, axis=axis, **options)


def adamw(axis=None, **options):
    kept = form(axis, **options)
    return optadamw.adamw(1e-2, mu_dtype=kept, nu_dtype=kept)


def tree(seed):
    rng = np.random.default_rng(seed)
    made = {
        k: rng.normal(size=s) * np.exp(rng.normal(size=s)) for k, s in SHAPES.items()
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made)


def steps(tx, params, state, first=1, count=3):
    step = jax.jit(tx.step)
    for seed in range(first, first + count):
        params, state = step(tree(seed), state, params)
    return params, state


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((64, 96), -2),
        ((64, 100), -2),  # 32 against 25
        ((24, 100), -1),  # 24 against 25
        ((24, 23), -2),  # 24 against 23
        ((8, 128), -1),  # 8 against 32
        ((50257, 768), -1),  # 29 against 32
        ((30, 7), -1),  # 30 fills no registers
        ((12, 768, 768), -2),
        ((4096, 8, 128), -1),
        ((3, 3, 64, 128), -2),
        ((96,), -1),
    ],
)
def test_the_axis_of_a_shape(shape, axis):
    assert axis_of(shape) == axis


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(64, 24), (2, 32, 5)])
def test_an_axis_is_the_last_one_of_the_transposed_leaf(shape, signed):
    rng = np.random.default_rng(0)
    value = jnp.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-20, 20, shape))
    value = value.astype(jnp.float32) if signed else jnp.abs(value).astype(jnp.float32)
    noise = jnp.asarray(rng.integers(0, 2**32, shape, dtype=np.uint32))
    turned = [jnp.swapaxes(x, -1, -2) for x in (value, noise)]
    encode = jax.jit(encoded, static_argnums=1, static_argnames=("signed", "axis"))
    for bits, other in ((None, None), (noise, turned[1])):
        found = encode(value, 32, bits, signed=signed, axis=-2)
        expected = encode(turned[0], 32, other, signed=signed)
        assert (found.axis, found.block, expected.axis) == (-2, 32, -1)
        trees.assert_same_bits(
            Blocks(*(jnp.swapaxes(x, -1, -2) for x in found)), expected
        )
        back = jnp.swapaxes(decoded(found, signed=signed), -1, -2)
        trees.assert_same_bits(back, decoded(expected, signed=signed))


def test_where_the_blocks_of_a_state_lie():
    params = tree(0)
    expected = {
        None: {"w": (2, 96), "t": (2, 1, 40), "odd": (7, 2), "v": (3,)},
        -1: {"w": (64, 3), "t": (2, 32, 2), "odd": (7, 2), "v": (3,)},
        -2: {"w": (2, 96), "t": (2, 1, 40), "odd": (1, 64), "v": (3,)},
        -3: {"w": (2, 96), "t": (1, 32, 40), "odd": (1, 64), "v": (3,)},
    }
    for axis, shapes in expected.items():
        tx = adamw(axis)
        for state in (tx.init(params), jax.eval_shape(tx.init, params)):
            found = {name: x.shape for name, x in state.nu_scales.items()}
            assert found == shapes
    assert "mu 8-bit/32@-2, nu 8-bit/32@-2" in optadamw.describe(adamw(), params)


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_a_state_keeps_the_axis_with_which_it_was_made(axis):
    """States before this option had all blocks along the last axis."""
    params, old, new = tree(0), adamw(axis), adamw()
    expected = steps(old, params, old.init(params))
    found = steps(new, params, old.init(params))
    trees.assert_same_bits(found, expected)
    with pytest.raises(ValueError, match=r"Leaf '[a-z]+': the scales of its buffer"):
        other = adamw(-2 if axis == -1 else -1)
        other.step(tree(1), found[1], found[0])


def test_a_checkpoint_keeps_the_axis_with_which_it_was_made():
    params, old, new = tree(0), adamw(-1), adamw()
    params, state = steps(old, params, old.init(params))
    saved = checkpoint.to_portable(old, state)
    expected = steps(old, params, state, first=9)
    for cast in (False, True):
        there, report = checkpoint.restore(new, params, saved, cast=cast)
        assert not report.cast and not report.fresh
        trees.assert_same_bits(there, state)
        trees.assert_same_bits(steps(new, params, there, first=9), expected)
    with pytest.raises(ValueError, match=r"blocks of 32, and .* along axis -2.*cast"):
        checkpoint.restore(adamw(-2), params, saved)
    there, report = checkpoint.restore(adamw(-2), params, saved, cast=True)
    assert report.cast and there.mu_scales["w"].shape == (2, 96)
    steps(adamw(-2), params, there, first=9)


def test_an_old_checkpoint_without_a_word_on_blocks():
    """Before this option the record said nothing of an axis."""
    params, old = tree(0), adamw(-1)
    _, state = steps(old, params, old.init(params))
    there, _ = checkpoint.restore(adamw(), params, state)  # a state in memory
    trees.assert_same_bits(there, state)


@pytest.mark.parametrize("axis", [None, -1, -2])
def test_dequantize_reads_blocks_along_any_axis(axis):
    tx = optadamw.adamw(1e-2, b1=0.0, mu_dtype=form(axis), nu_dtype=form(axis))
    params, grads = tree(0), tree(1)
    _, state = tx.step(grads, tx.init(params), params)
    plain = optadamw.dequantize(state)
    for name, exact in grads.items():
        found, exact = np.asarray(plain.mu[name]), np.asarray(exact)
        large = np.abs(exact) > 1e-2
        np.testing.assert_allclose(found[large], exact[large], rtol=0.126)


@pytest.mark.parametrize(
    ("axis", "error", "match"),
    [
        (0, ValueError, r"`axis` must be a whole number < 0.*; got 0\. Leaves have"),
        (1.0, TypeError, r"`axis` must be a whole number < 0.*got 1\.0"),
        (True, TypeError, r"`axis` must be a whole number < 0.*got True"),
        ("last", TypeError, r"`axis` must be a whole number < 0.*got 'last'"),
    ],
)
def test_an_axis_that_is_none(axis, error, match):
    with pytest.raises(error, match=match):
        optadamw.blockwise(axis=axis)


def test_a_block_that_does_not_divide_its_axis():
    params = {"w": jnp.ones((64, 96))}
    kept = optadamw.blockwise(min_size=0, block_size=48, axis=-2)
    with pytest.raises(ValueError, match=r"Leaf 'w': its axis -2 of 64 is not a multi"):
        optadamw.adamw(1e-2, mu_dtype=kept).init(params)
    kept = optadamw.blockwise(min_size=0, block_size=48)  # divides the last
    state = optadamw.adamw(1e-2, mu_dtype=kept, nu_dtype=kept).init(params)
    assert state.mu_scales["w"].shape == (64, 2)


def test_an_axis_is_a_part_of_the_value():
    assert repr(form(-2)) == "blockwise(min_size=0, axis=-2)"
    assert form(-2) == form(-2) != form() != form(-1)
