"""The exact lane: without fused multiply-adds, eager mode has the bits of jit and scan.

Run by `test_modes.py` under `XLA_FLAGS=--xla_cpu_max_isa=AVX`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.leaf import test_pallas
from tests.support import trajectories, trees
from tests.support.over import over
from tests.support.trajectories import narrow, stack
from tests.support.transformations import ROWS

each_row = over(ROWS)

FOLDED = ("adamw-arrays",)
"""Rows that close over arrays: of such a constant XLA takes the logarithm itself, in
another way than its programs do (0.97 on jax 0.10 and 0.12)."""


def test_products_are_not_contracted_here():
    a, b, c = (jnp.asarray(np.random.default_rng(i).normal(size=100)) for i in range(3))
    trees.assert_same_bits(jax.jit(lambda a, b, c: a * b + c)(a, b, c), a * b + c)


@pytest.mark.parametrize("case", test_pallas.CASES)
def test_kernels_have_the_bits_of_the_plain_step(case):
    dtype, plain, tiled = test_pallas.transformations(case)
    params = test_pallas.tree(dtype, 0)
    trees.assert_same_bits(
        test_pallas.steps(tiled, params), test_pallas.steps(plain, params)
    )


@each_row
def test_eager_and_scan_are_jit(row):
    run = trajectories.of(row)
    params, state = run.params, run.state
    for grads, expected in zip(run.grads, run.after, strict=True):
        params, state = run.tx.step(grads, state, params)
        if row.name in FOLDED:
            assert trees.largest_difference((params, state), expected) <= 1e-6
        else:
            trajectories.assert_agree(row, (params, state), expected)
    scan = jax.jit(functools.partial(jax.lax.scan, trajectories.scan_body(run.tx)))
    carry, grads, after = narrow(row, ((run.params, run.state), run.grads, run.after))
    trajectories.assert_agree(row, scan(carry, stack(grads))[1], stack(after))


@each_row
def test_steps_by_kernels_are_those_of_xla(row):
    """Of all rows, those too with a sum of products that is contracted elsewhere."""
    run = trajectories.of(row)
    step = jax.jit(optadamw.with_kernels(row.make(), "auto").step)
    carry = run.params, run.state
    for grads, expected in zip(run.grads, run.after, strict=True):
        carry = step(grads, carry[1], carry[0])
        trajectories.assert_agree(row, tuple(carry), expected)
