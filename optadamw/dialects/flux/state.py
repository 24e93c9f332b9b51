"""Flux and Optimisers.jl: `AdamW` and `Adam`, a triple for each parameter.

    (m, v, (b1^(t+1), b2^(t+1)))

| here | there |
|---|---|
| `step` | t, in the products of the betas |
| `mu`, `nu` | the first and the second of the triple |
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, mistyped
from optadamw.base.hyperparameters import Clock
from optadamw.base.types import PyTree
from optadamw.dialects.flux.powers import products, step_of
from optadamw.dialects.states.arrays import scalar, to_numpy, whole
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Contents, Row, unquoted
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.nesting import (
    flattened,
    moments_by_path,
    nested,
    text_dicts,
)
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.settings import Betas, betas_of
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.state_dict import common_step
from optadamw.store.state import State

PEER = Peer(name="flux", title="Flux", keys={"mu": "m", "nu": "v"})


@reads(PEER)
def from_flux(
    saved: Any,
    params: PyTree,
    *,
    betas: tuple[float, float] | None = None,
    step: int | None = None,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of an AdamW of Flux (Optimisers.jl).

    Flux keeps no step but the betas to the power of t + 1, from which t is found
    exactly. If both powers have become zero (b2 = 0.999 in float32 after 87,000 steps),
    pass `step`. Arrays of Julia are column-major: their axes may come reversed from a
    file, and `layout` turns them.

    Args:
      saved: nested dicts and lists with a triple `(m, v, (p1, p2))` for each
        parameter, None (`nothing`) for those without state; or a list of triples.
      betas: The betas of the AdamW that was saved. None (default) takes those of `tx`.
      step: The number of steps that were taken. None (default) finds it from the
        powers.

    Raises:
      ValueError: powers that are not those of `betas`, or that do not tell the step.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optadamw
      >>> from optadamw.interchange import from_flux
      >>> powers = np.float32(0.9) ** 2, np.float32(0.999) ** 2
      >>> saved = {"weight": (np.ones(2), np.ones(2), powers)}
      >>> params = {"weight": jnp.zeros(2)}
      >>> int(from_flux(saved, params, tx=optadamw.adamw(1e-3)).step)
      1
    """
    request = Request.of(PEER, params, options)
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
        step = _step(triples, betas or _common_betas(request))
    contents = Contents(rows=rows, step=whole("step", step))
    return assembled(request, contents)


def _common_betas(request: Request) -> Betas | None:
    """Return the betas that all parameters of `tx` have; None if it has no moments."""
    if request.tx is None:
        return None
    found = betas_of(request.tx, request.leaves, Clock.at(jnp.int32(0)))
    for path, pair in found.items():
        first, one = next(iter(found.items()))
        if not np.array_equal(np.array(pair, np.float32), np.array(one, np.float32)):
            raise ValueError(
                f"`tx` has the betas {one} for '{first}' and {pair} for '{path}', so "
                "that no pair tells the step of all. Pass step=."
            )
    return next(iter(found.values()), None)


def _is_triple(node: Any) -> bool:
    """Whether a node is (m, v, (p1, p2)), with a pair of numbers last."""
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
                unquoted(label),
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


@writes(PEER)
def to_flux(
    state: PyTree,
    params: PyTree,
    *,
    betas: tuple[float, float] | None = None,
    **options: Unpack[ToOptions],
) -> Any:
    """Make the triples with which AdamW of Flux (Optimisers.jl) continues the run.

    Args:
      names: A mapping from paths of `params` to the paths in Flux. None (default) keeps
        the paths.
      betas: The betas of the AdamW that continues. None (default) takes those of `tx`.

    Returns:
      Nested dicts, and lists if the names are numbers, of `(m, v, (p1, p2))`. If
      `params` has lists, its dicts with texts as keys stay dicts.

    Raises:
      ValueError: neither `betas` nor `tx`.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optadamw
      >>> from optadamw.interchange import to_flux
      >>> params, tx = {"weight": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> m, v, powers = to_flux(tx.init(params), params, tx=tx)["weight"]
      >>> [float(p) for p in powers] == [np.float32(0.9), np.float32(0.999)]
      True
    """
    leaving = Departure.of(PEER, state, params, options)
    flat = {}
    moments = moments_by_path(leaving).items()
    for (path, (m, v)), pair in zip(moments, _pairs(leaving, betas), strict=True):
        powers = tuple(products(beta, leaving.step + 1, m.dtype)[-1] for beta in pair)
        flat[path] = (m, v, powers)
    return nested(flat, dicts=text_dicts(leaving))


def _pairs(leaving: Departure, betas: Betas | None) -> list[Betas]:
    """Return the betas of each parameter, in the order of `names`."""
    own: dict[str, Betas] = {}
    if betas is None and leaving.tx is not None:
        own = betas_of(leaving.tx, leaving.leaves, leaving.clock)
    rest = betas or next(iter(own.values()), None)  # also of frozen parameters
    if rest is None:
        raise ValueError("Flux keeps powers of the betas. Pass betas=(b1, b2) or `tx`.")
    paths = [leaving.paths[place.leaf or 0] for place in leaving.places]
    return [_checked(own.get(path, rest)) for path in paths]


FORM = Form(
    PEER,
    from_flux,
    to_flux,
    has_names=True,
    to_read=lambda plan: (
        {} if plan.b1 is None or plan.b2 is None else {"betas": (plan.b1, plan.b2)}
    ),
    read_with=("b1", "b2"),
    written_with=("b1", "b2"),
)
