"""Rows whose steps by kernels have other last places than XLA's path.

docs/guides/native.md lists them: each has a sum of two products, of which XLA contracts
the other one. Where kernels are the default, a law that compares a step with `update`
or with a step under `vmap`, which are XLA's, holds for them within an ulp.
"""

from typing import Any

import jax
import jax.numpy as jnp

from optadamw.native.kernel import why_not_default
from tests.support import trees
from tests.support.transformations import Row

CONTRACTED = {
    "adamw-arrays": "an average whose decay is an array, with two products",
    "custom-lookahead": "keep * slow + take * parameter",
    "schedule_free": "(1 - c) x + c z, on jax 0.12",
}

BOUND = 2e-7
"""What that may change, as a share of the largest number of a leaf: an ulp."""


def may_differ(row: Row) -> bool:
    """Whether a step of a row may differ from XLA's, if nobody chose what runs it."""
    return row.name in CONTRACTED and why_not_default() is None


def assert_within_an_ulp(actual: Any, expected: Any) -> None:
    """Compare two pairs of parameters and state, each leaf in ulps of its dtype."""
    actual, expected = tuple(actual), tuple(expected)
    trees.assert_same_types(actual, expected)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        is_narrow = one.dtype.itemsize == 2
        bound = float(jnp.finfo(one.dtype).eps) if is_narrow else BOUND
        assert trees.largest_difference(one, other) <= bound
