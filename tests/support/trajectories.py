"""The run of each row that the laws compare with, made once per session."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tests.support import trees
from tests.support.compilations import Compilations
from tests.support.transformations import ROWS, Row

STEPS = 3


class Trajectory(NamedTuple):
    """Parameters, state and gradients of a few jitted steps."""

    tx: Any
    params: Any
    state: Any
    grads: list[Any]
    after: list[Any]
    """The pair (params, state) after each step."""
    step: Any
    """The jitted step that made them."""
    traces: int
    compilations: int


def of(row: Row) -> Trajectory:
    """Take `STEPS` steps with `row`, each one call of one jitted function."""
    return _of(row.name)


@functools.cache
def _of(name: str) -> Trajectory:
    row = next(row for row in ROWS if row.name == name)
    tx, kinds = row.make(), kinds_of(row)
    params = trees.normal(kinds, seed=0)
    grads = [trees.normal(kinds, seed=1 + i) for i in range(STEPS)]
    state, traces, after = tx.init(params), 0, []

    def step(grads: Any, state: Any, params: Any) -> Any:
        nonlocal traces
        traces += 1
        return tx.step(grads, state, params)

    jitted = jax.jit(step)
    with Compilations() as compilations:
        carry = params, state
        for g in grads:
            carry = jitted(g, carry[1], carry[0])
            after.append(carry)
    count = compilations.count
    return Trajectory(tx, params, state, grads, after, jitted, traces, count)


def kinds_of(row: Row) -> trees.Kinds:
    """A float32 and a 16-bit leaf; for sums float32 alone, which shows 1e-6."""
    has_narrow = row.is_elementwise or row.is_narrow
    return trees.PAIR if has_narrow else trees.FLOATS


def narrow(row: Row, tree: Any) -> Any:
    """`tree` with the float32 leaf alone, which needs half the time to compile.

    An element-wise row does the same to it whatever stands beside it, so comparing
    with the whole tree's trajectory also says that leaves do not matter to each other.
    What is rounded at random draws by the place of the leaf.
    """
    if row.draws or not row.is_elementwise:
        return tree
    return _kernel(tree)


def _kernel(tree: Any) -> Any:
    return map_dicts(lambda leaves: {"kernel": leaves["kernel"]}, tree)


def map_dicts(function: Callable[[Any], Any], tree: Any) -> Any:
    """`tree` with `function` applied to its parameters, gradients and buffers."""
    return jax.tree.map(
        lambda node: function(node) if _is_of_parameters(node) else node,
        tree,
        is_leaf=_is_of_parameters,
    )


def _is_of_parameters(node: Any) -> bool:
    return isinstance(node, dict) and "kernel" in node


def assert_agree(row: Row, actual: Any, expected: Any) -> None:
    """Assert the same bits, or 1e-6 where the compiler chooses the order of a sum."""
    if row.is_elementwise:
        trees.assert_same_bits(actual, expected)
        return
    if row.is_narrow:
        # 1e-6 is nothing that 16 bits could show, but where they are rounded apart.
        actual, expected = (_kernel(tree) for tree in (actual, expected))
    assert trees.largest_difference(actual, expected) <= 1e-6


def stack(items: list[Any]) -> Any:
    """One tree with a new leading axis from many."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)


def scan_body(tx: Any) -> Callable[[Any, Any], Any]:
    """The step as the body of a scan over gradients that returns each carry."""

    def body(carry: Any, grads: Any) -> Any:
        params, state = carry
        carry = tx.step(grads, state, params)
        return carry, carry

    return body
