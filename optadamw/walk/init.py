"""`init` makes the state before the first step."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from optadamw.base.errors import naming
from optadamw.base.tree import parameters
from optadamw.base.types import PyTree
from optadamw.rules.order import check_variants
from optadamw.store.columns import trees_of
from optadamw.store.state import State, beside, state_of
from optadamw.walk.composition import Composition
from optadamw.walk.offload import to_host
from optadamw.walk.plan import plan_of
from optadamw.walk.remarks import remarks_of
from optadamw.walk.zero1 import kept_away, layouts_of, put


def init(composition: Composition, params: PyTree) -> State:
    """Make the first state of these parameters, which may be `jax.ShapeDtypeStruct`s.

    Warns:
      UserWarning: 16-bit parameters would be rounded to nearest without having been
        asked for, or a function that chooses parameters chooses none.

    Raises:
      ValueError, TypeError: a rule stands where its meaning would change, a parameter
        is no floating or complex array, or a pattern matches no parameter.
    """
    check_variants(composition.variants)
    leaves = parameters(params)
    composition.check_guard()
    plan = plan_of(composition, leaves, params)
    trained = [i for i in range(len(plan.rows)) if not plan.is_frozen(i)]
    if trained or not plan.rows:
        dtypes = [leaves.arrays[i].dtype for i in trained]
        composition.commit.check(dtypes, tuple(leaves.paths[i] for i in trained))
    layouts = layouts_of(composition.zero1, leaves, is_first=True)
    arrays: Sequence[Any] = leaves.arrays
    if layouts is not None:
        arrays = [
            put(x, layout.away) for x, layout in zip(arrays, layouts, strict=True)
        ]
    for remark in remarks_of(composition, leaves, params):
        # 3: the line that called tx.init. Python shows a warning of a line once.
        warnings.warn(remark, UserWarning, stacklevel=3)
    fields: dict[str, Any] = {}
    for i, slot in enumerate(composition.buffers):
        stores = [row.buffers[i].store for row in plan.rows]
        column = [
            (store.copy if slot.start == "param" else store.zeros)(array)
            for store, array in zip(stores, arrays, strict=True)
        ]
        if slot.name == "accumulator":
            column = [_negated(buffer) for buffer in column]
        if layouts is not None:
            rows = zip(stores, column, arrays, layouts, strict=True)
            column = [kept_away(*row) for row in rows]
        if slot.name in composition.offload:
            for j, path in enumerate(leaves.paths):
                with naming(path):
                    column[j] = to_host(column[j])
        for name, values in trees_of(slot, column).items():
            fields[name] = leaves.treedef.unflatten(values)
    scalars = jax.tree.map(
        lambda value: beside(leaves.arrays, value),
        composition.initial_scalars(),
    )
    if not jax.tree.leaves(fields):
        scalars = _on_devices_of(leaves.arrays, scalars)
    return state_of(fields | scalars)


def _on_devices_of(params: Sequence[Any], scalars: Any) -> Any:
    """Return `scalars` unchanged; under `jit` they get the devices of the parameters.

    If no buffer depends on a parameter, `jax.jit(tx.init)` would drop its arguments
    and run on one device, and the first step would be compiled twice.
    """
    traced = [param for param in params if isinstance(param, jax.core.Tracer)]
    return lax.optimization_barrier((scalars, traced[0]))[0] if traced else scalars


def _negated(zeros: Any) -> Any:
    """Return negative zeros, sharded as `zeros` are; no sum of gradients is -0.0."""
    if zeros is None or isinstance(zeros, jax.ShapeDtypeStruct):
        return zeros
    return -zeros
