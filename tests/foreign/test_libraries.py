"""`optadamw.adamw` in the place of `optax.adamw` in libraries trains the same numbers.

    pip install -e '.[test,foreign]' && python -m pytest tests/foreign

A library that is not installed is skipped.
"""

import functools

import jax
import numpy as np
import optax
import pytest

import optadamw
from tests.foreign.loops import LOOPS


def still_standing(learning_rate, weight_decay):
    return optax.set_to_zero()


@pytest.mark.parametrize("library", LOOPS)
def test_a_library_trains_the_same_numbers(library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    loop = LOOPS[library]
    used = []

    @functools.wraps(optadamw.adamw)  # a signature, which some libraries read
    def ours(*args, **options):
        used.append(optadamw.adamw(*args, **options))
        return used[-1]

    theirs, found = loop(optax.adamw), loop(ours)
    still = loop(still_standing)
    assert used
    assert jax.tree.structure(found) == jax.tree.structure(theirs)
    moved = 0.0
    for x, y, z in zip(*map(jax.tree.leaves, (found, theirs, still)), strict=True):
        x, y, z = (np.asarray(leaf, np.float64) for leaf in (x, y, z))
        # A step is at most about 1e-2 long; the two differ in the last places of a
        # float32, which a training multiplies.
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
        moved = max(moved, float(np.abs(y - z).max()))
    assert moved > 1e-2
