"""Leaves with moments in blocks of 8 bits: a kernel of two passes over a tile.

The largest number of a block is exact in any order, and so are codes: every result has
the bits of XLA's path.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.custom import Rule, Slot, Stage, atom, storage
from optadamw.native import kernel as kernels
from optadamw.native import library
from tests.native import running
from tests.support import trees

pytestmark = running.needs_compiler

LEAVES = {
    "rows": (64, 96),
    "rows of a stack": (3, 64, 70),
    "many tiles": (300, 1024),
    "one axis": (200_000,),
    "the last axis": (31, 96),
    "a prime axis": (61, 131),
    "odd blocks": (90, 77),
    "a wide rest": (64, 300),
    "few columns": (992, 10),
}
"""Shapes with blocks along either axis, of 32, fewer or one element."""

EIGHT = optadamw.blockwise()
BOTH = {"mu_dtype": EIGHT, "nu_dtype": EIGHT}
CASES = {
    "both": BOTH,
    "the first to nearest": {"mu_dtype": optadamw.blockwise(rounding="nearest")},
    "the second": {"nu_dtype": EIGHT},
    "everything": BOTH
    | {"amsgrad": True, "maximize": True, "ema_decay": 0.9}
    | {"skip_nonfinite": True, "clip_global_norm": 1.0, "seed": 3},
    "accumulate": BOTH | {"accumulate_steps": 2, "loss_scale": 8.0},
}


def numbers(shape, seed, dtype=jnp.float32, special=()):
    rng = np.random.default_rng(seed)
    found = rng.normal(size=shape) * 10 ** rng.uniform(-6, 2, size=shape)
    if len(special):
        some = rng.random(shape) < 0.01
        found[some] = rng.choice(special, some.sum())
    return jnp.asarray(found, dtype)


def assert_same_steps(options, shapes, dtype=jnp.float32, special=(), count=3):
    params = {n: numbers(s, i, dtype) for i, (n, s) in enumerate(shapes.items())}
    ends = []
    for choice in ("native", "xla"):
        tx = optadamw.adamw(0.01, weight_decay=0.1, kernel=choice, **options)
        step, carry = jax.jit(tx.step), (params, tx.init(params))
        for i in range(count):
            grads = {
                n: numbers(s, 100 + 10 * i + len(n), dtype, special)
                for n, s in shapes.items()
            }
            # Kernels and XLA round the norm in two ways (tests/native/test_norm.py).
            given = {"grad_norm": 3.0} if "clip_global_norm" in options else {}
            carry = step(grads, carry[1], carry[0], **given)
        ends.append(carry)
    trees.assert_same_bits(*ends)


@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_same(name):
    assert_same_steps(CASES[name], LEAVES)


@pytest.mark.parametrize("commit", ["stochastic", "kahan", "master"])
def test_steps_of_narrow_parameters_are_the_same(commit):
    shapes = {n: LEAVES[n] for n in ("rows", "one axis", "odd blocks")}
    assert_same_steps(BOTH | {"commit": commit}, shapes, jnp.bfloat16)


def test_special_values():
    """A block with a NaN or an infinity is NaN as a whole."""
    special = (0.0, -0.0, 1e-40, -1e-40, np.nan, np.inf, -np.inf, 1.9e19, 1e-30)
    shapes = {n: LEAVES[n] for n in ("rows", "the last axis", "a prime axis")}
    assert_same_steps(BOTH, shapes, special=special)


def test_blocks_of_another_size():
    size = optadamw.blockwise(block_size=4096, axis=-1)
    assert_same_steps({"mu_dtype": size, "nu_dtype": size}, {"w": (3, 8192)})


def test_a_step_is_in_place_without_temporaries():
    tx = optadamw.adamw(0.01, kernel="native", **BOTH)
    params = {n: jax.ShapeDtypeStruct((512, 512), jnp.float32) for n in "abc"}
    running.assert_calls_in_place(tx, params, 3)


@pytest.mark.parametrize(
    ("options", "is_late"), [({}, True), ({"nesterov": True}, False)]
)
def test_parameters_are_written_beside_codes(options, is_late, monkeypatch):
    """Nesterov's direction needs the gradient, which the last stage does not read."""
    sources = []

    def source_of(*arguments):
        sources.append(library.source_of(*arguments))
        return sources[-1]

    monkeypatch.setattr(kernels, "source_of", source_of)
    kernels.forget()
    tx = optadamw.adamw(0.01, kernel="native", **BOTH, **options)
    params = {"w": jax.ShapeDtypeStruct((64, 96), jnp.float32)}
    jax.eval_shape(tx.step, params, jax.eval_shape(tx.init, params), params)
    (source,) = sources
    written, scales = source.index("x1[e] = "), source.index("x3[i] = ")
    assert (written > scales) == is_late


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (EIGHT, optadamw.blockwise(block_size=16), "blocks of several forms"),
        (*[optadamw.blockwise(block_size=8192, axis=-1)] * 2, "more than 4096"),
    ],
)
def test_other_blocks_are_left_to_xla(first, second, reason):
    params = {"w": jnp.ones((64, 8192))}
    options = {"mu_dtype": first, "nu_dtype": second}
    native = optadamw.adamw(0.01, kernel="native", **options)
    state = native.init(params)
    with pytest.raises(ValueError, match=f"Leaf 'w': .* in a kernel: .*{reason}"):
        native.step(params, state, params)
    auto, xla = (optadamw.adamw(0.01, kernel=k, **options) for k in ("auto", "xla"))
    ends = [jax.jit(tx.step)(params, state, params) for tx in (auto, xla)]
    trees.assert_same_bits(*ends)


@dataclass(frozen=True)
class Remember(Rule):
    """A rule that writes a buffer and never reads it."""

    stage: ClassVar[Stage] = Stage.CAUTION

    @property
    def slots(self):
        return (Slot("last", storage("last", EIGHT)),)

    def apply(self, leaf, scalars):
        return leaf.keeping(last=leaf.value())


def test_scales_that_no_operation_reads_are_copied_as_scales():
    """Narrow columns are copied, and scales are fewer than elements."""
    params = {"w": numbers((992, 10), 0)}
    chain = optadamw.chain(
        optadamw.scale_by_adam(),
        atom(Remember()),
        optadamw.scale_by_learning_rate(0.1),
    )
    ends = []
    for choice in ("native", "xla"):
        tx = optadamw.with_kernels(optadamw.skip_nonfinite(chain), choice)
        ends.append(jax.jit(tx.step)(params, tx.init(params), params))
    trees.assert_same_bits(*ends)


FAULTS = {
    "an element is not looked at": ("one axis", "> m", "> 2 * m"),
    "a block is left out": ("one axis", "i < w;", "i + 1 < w;"),
    "a code is not copied back": ("one axis", "x2[base + q] = w2[q]", "(void)q"),
    "a rest is not copied back": ("a wide rest", "is_back < 2", "is_back < 1"),
    "a panel is copied from one row": ("few columns", "base + k * inner)", "base)"),
    "a row of a column is left out": ("rows", "k < BLOCK;", "k + 1 < BLOCK;"),
    "a column is left out": ("rows", "i < WIDTH;", "i + 1 < WIDTH;"),
    "the last columns are left out": ("few columns", "done < n;", "done + WIDTH <= n;"),
    "a rest has the places of others": ("a wide rest", "+ column + i", "+ column"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_source_is_noticed(name, monkeypatch):
    leaf, *texts = FAULTS[name]
    with running.planted(monkeypatch, *texts):
        with pytest.raises(AssertionError, match="differ"):
            assert_same_steps(BOTH, {"w": LEAVES[leaf]})
