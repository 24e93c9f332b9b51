"""Flux and Optimisers.jl: `AdamW` and `Adam`, a triple for each parameter.

    (m, v, (b1^(t+1), b2^(t+1)))

| here | there |
|---|---|
| `step` | t, in the products of the betas |
| `mu`, `nu` | the first and the second of the triple |
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import at_leaf, kind_at_leaf, mistyped
from optadamw.base.types import PyTree
from optadamw.dialects.states.arrays import scalar, to_numpy, whole
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.naming import Missing, Names
from optadamw.dialects.states.nesting import flattened, nested
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.powers import products, step_of
from optadamw.dialects.states.request import Layout, Request
from optadamw.dialects.states.settings import betas_of
from optadamw.dialects.states.state_dict import common_step
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(title="Flux", keys={"mu": "m", "nu": "v"})


def from_flux(
    saved: Any,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    missing: Missing = "error",
    drop: Collection[str] = (),
    afresh: Collection[str] = (),
    betas: tuple[float, float] | None = None,
    step: int | None = None,
) -> State:
    """The State that goes on where AdamW of Flux (Optimisers.jl) was saved.

    The state holds no step but the betas to the power of t + 1, of which t is found
    exactly. Where both have become zero (b2 = 0.999 in float32 after 87,000 steps), say
    which `step` it was. Arrays of Julia are column-major: how they arrive depends on
    the file, and `layout` turns them.

    Args:
      saved: nested dicts and lists with a triple `(m, v, (p1, p2))` for each
        parameter, None (`nothing`) for those without state; or a list of triples.
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on; None: a bare State.
      names: a mapping from paths of `params` to those in `saved`, or paths in the order
        in which it has them.
      layout: `(path, array) -> array`, applied to each array that is read.
      missing: "zeros" starts parameters without state there, "error" refuses them.
      drop: buffers there that are left behind.
      afresh: buffers of `tx` that start anew.
      betas: those of the AdamW that was saved; None: those of `tx`.
      step: the steps that were taken; None: found from the powers.

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: no triples, powers that are not of these betas, names or
        shapes that do not fit, options that differ. Nothing is made.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optadamw
      >>> from optadamw.interchange import from_flux
      >>> powers = np.float32(0.9) ** 2, np.float32(0.999) ** 2
      >>> saved = {"weight": (np.ones(2), np.ones(2), powers)}
      >>> params = {"weight": jnp.zeros(2)}
      >>> int(from_flux(saved, params, tx=optadamw.adamw(1e-3)).step)
      1
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    rows: list[Row] = []
    triples = {}
    for path, triple in flattened(saved, _is_triple).items():
        label = f"'{path}'"
        buffers = None if triple is None else {"mu": triple[0], "nu": triple[1]}
        # A list has an order and no names.
        rows.append(Row(label, None if isinstance(saved, Sequence) else path, buffers))
        if triple is not None:
            triples[label] = triple
    if step is None:
        step = _step(triples, betas or (betas_of(tx, 0) if tx is not None else None))
    contents = Contents(rows=rows, step=whole("step", step))
    return assembled(request, contents)


def _is_triple(node: Any) -> bool:
    """Whether it is (m, v, (p1, p2)): the last a pair of numbers."""
    if not isinstance(node, Sequence) or isinstance(node, str) or len(node) != 3:
        return False
    pair = node[2]
    if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2:
        return all(np.shape(p) == () for p in pair)
    return getattr(pair, "shape", None) == (2,) and np.shape(node[0]) != (2,)


def _step(triples: Mapping[str, Any], betas: tuple[float, float] | None) -> int:
    if triples and betas is None:
        raise ValueError(
            "Flux's state tells the step only with the betas of its AdamW. Pass "
            "betas=(b1, b2) or `tx`, or step=."
        )
    steps: dict[str, Any] = {}
    for label, (m, _, pair) in triples.items():
        assert betas is not None
        powers = (
            scalar(f"b1^t of {label}", pair[0]),
            scalar(f"b2^t of {label}", pair[1]),
        )
        dtype = to_numpy(f"m of {label}", m).dtype
        found = step_of(powers, _checked(betas), dtype)
        if found is None:
            raise at_leaf(
                label,
                f"the powers of its betas are {powers}, too small to tell the step.",
                "Pass step=.",
            )
        steps[label] = found
    return common_step(steps, PEER.title)


def _checked(betas: Any) -> tuple[float, float]:
    is_pair = isinstance(betas, Sequence) and len(betas) == 2
    if not is_pair or not all(0 <= scalar("betas", beta) < 1 for beta in betas):
        raise mistyped("betas", "two numbers in [0, 1)", betas)
    return float(betas[0]), float(betas[1])


def to_flux(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    betas: tuple[float, float] | None = None,
    drop: Collection[str] = (),
) -> Any:
    """The triples with which AdamW of Flux (Optimisers.jl) goes on.

    Args:
      state: a State, or what holds one.
      params: its parameters, or their shapes.
      tx: the transformation that made it.
      names: a mapping from paths to those there; None: our paths.
      layout: `(path, array) -> array`, the inverse of that of `from_flux`.
      betas: those of the AdamW that goes on; None: those of `tx`.
      drop: buffers that are lost, such as ("ema",).

    Returns:
      Nested dicts, and lists where the names are numbers, of `(m, v, (p1, p2))`.

    Raises:
      TypeError, ValueError: a buffer that Flux has no place for, no betas, names that
        do not fit.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optadamw
      >>> from optadamw.interchange import to_flux
      >>> params, tx = {"weight": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> m, v, powers = to_flux(tx.init(params), params, tx=tx)["weight"]
      >>> [float(p) for p in powers] == [np.float32(0.9), np.float32(0.999)]
      True
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop)
    if betas is None:
        betas = None if tx is None else betas_of(tx, leaving.step)
    if betas is None:
        raise ValueError("Flux keeps powers of the betas. Pass betas=(b1, b2) or `tx`.")
    pair = _checked(betas)
    columns = leaving.column("mu"), leaving.column("nu")
    flat = {}
    for (leaf, name), m, v in zip(leaving.places, *columns, strict=True):
        assert leaf is not None and m is not None
        path = leaving.paths[leaf] if name is None else name.replace(".", "/")
        powers = tuple(products(beta, leaving.step + 1, m.dtype)[-1] for beta in pair)
        if path in flat:
            raise kind_at_leaf(path, "`names` calls two parameters so.")
        flat[path] = (m, v, powers)
    return nested(flat)
