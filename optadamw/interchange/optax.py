"""Optax: `adamw`, `adam`, `amsgrad` and chains, `MultiSteps`, `inject_hyperparams`.

| here | there |
|---|---|
| `step` | `count` |
| `mu`, `nu` | `mu`, `nu` |
| `nu_max`, "corrected" | `nu_max` of `amsgrad` |
| `accumulator`, the sum | `acc_grads`, the mean |
| `micro_step` | `mini_step` |

`optax.ema` averages updates and not parameters: it is no `ema` of ours.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import optax

from optadamw.aliases import PyTree
from optadamw.checkpoint.fitting import fitted
from optadamw.errors import at_leaf, mistyped
from optadamw.interchange.arrays import to_numpy, whole
from optadamw.interchange.assembly import assembled
from optadamw.interchange.contents import Contents, Row
from optadamw.interchange.leaving import Departure
from optadamw.interchange.naming import Missing, Names
from optadamw.interchange.peer import DIFFERENCE, Maximum, Peer, check_maximum
from optadamw.interchange.request import Layout, Request, kind_of_maximum
from optadamw.paths import flatten
from optadamw.state import State
from optadamw.transformation import Transformation

PEER = Peer(
    title="Optax",
    keys={"mu": "mu", "nu": "nu", "nu_max": "nu_max", "accumulator": "acc_grads"},
    maximum="corrected",
)


def from_optax(
    saved: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    missing: Missing = "error",
    drop: Collection[str] = (),
    afresh: Collection[str] = (),
    amsgrad: Maximum | None = None,
    use_grad_mean: bool = True,
) -> State:
    """The State that goes on where a chain of Optax was saved.

    Adam's part is found wherever it stands: in chains, in `MultiSteps`, in
    `inject_hyperparams`, `apply_if_finite` and `masked` (a parameter that is hidden
    from it has no state). Parameters are matched by their paths.

    Args:
      saved: the state, or the nested dicts and lists that Orbax makes of one.
      params: the parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: the transformation that will go on. Without it the result is a State with
        what was saved, in float32 (float64 for float64 parameters).
      names: a mapping from paths of `params` to those that were saved.
      layout: `(path, array) -> array`, applied to each array that is read.
      missing: "zeros" starts parameters without state there, "error" refuses them.
      drop: buffers there that are left behind.
      afresh: buffers of `tx` that start anew.
      amsgrad: "corrected" says, where there is no `tx` to say it, that the maximum of
        Optax's amsgrad is meant: that of the corrected second moments, which is not
        that of PyTorch and Keras.
      use_grad_mean: False where `MultiSteps` was made so: it then keeps the sum.

    Returns:
      A State; with `tx`, of the structure, dtypes and shardings of `tx.init(params)`.

    Raises:
      TypeError, ValueError: no Adam in it or more than one, names or shapes that do
        not fit, numbers that are not finite, amsgrad's maximum where another is meant,
        options that differ. Nothing is made.

    Example:
      >>> import jax.numpy as jnp, optax, optadamw
      >>> from optadamw.interchange import from_optax
      >>> params = {"w": jnp.zeros(2)}
      >>> saved = optax.adamw(1e-3).init(params)
      >>> int(from_optax(saved, params, tx=optadamw.adamw(1e-3)).step)
      0
    """
    request = Request(PEER, params, tx, names, layout, missing, drop, afresh)
    check_maximum("amsgrad", amsgrad)
    if not isinstance(use_grad_mean, bool):
        raise mistyped("use_grad_mean", "True or False", use_grad_mean)
    adam = _only(saved, {"count", "mu", "nu"}, "an Adam")
    windows = list(_nodes(saved, {"mini_step", "acc_grads"}))
    if len(windows) > 1:
        raise ValueError("`saved` holds several MultiSteps, one inside another.")
    fields = {name: adam[name] for name in ("mu", "nu", "nu_max") if name in adam}
    left = {*request.drop, *request.afresh}
    if "nu_max" in fields and "nu_max" not in left:
        _check_said(tx, amsgrad)
    micro_step = 0
    if windows:
        micro_step = whole("mini_step", windows[0]["mini_step"])
        fields["accumulator"] = windows[0]["acc_grads"]
    trees = {name: _by_path(tree) for name, tree in fields.items()}
    scale = micro_step if use_grad_mean else 1
    rows = [
        Row(
            label=f"'{path}'",
            name=path,
            buffers={
                name: tree[path] if name != "accumulator" else _sum(tree[path], scale)
                for name, tree in trees.items()
                if path in tree
            },
        )
        for path in trees["mu"]
    ]
    contents = Contents(
        rows=rows,
        step=whole("count", adam["count"]),
        micro_step=micro_step,
        accumulates=bool(windows),
        maximum="corrected",
    )
    return assembled(request, contents)


def _check_said(tx: Transformation | None, amsgrad: Maximum | None) -> None:
    kind = amsgrad if tx is None else kind_of_maximum(tx)
    if kind == "raw" or (kind is None and tx is None):
        raise ValueError(
            "Optax's amsgrad keeps the maximum of the corrected second moments, where "
            f"PyTorch, Keras and amsgrad=True here keep that of the raw ones: "
            f"{DIFFERENCE}. Go on with the same one, tx=adamw(..., "
            "amsgrad='corrected') (or amsgrad='corrected' where there is no `tx`), or "
            "leave it behind with drop=('nu_max',); with a `tx` that keeps a maximum "
            "also afresh=('nu_max',)."
        )


def _nodes(tree: Any, wanted: set[str]) -> Iterator[Mapping[str, Any]]:
    """The nodes with these fields, whether NamedTuples or what Orbax makes of them."""
    fields = _fields(tree)
    if fields is not None and wanted <= set(fields):
        yield fields
        if "mu" in wanted:
            return  # below are parameters, whatever they are called
    if fields is not None:
        for name, child in fields.items():
            if name not in ("mu", "nu", "nu_max", "acc_grads"):
                yield from _nodes(child, wanted)
    elif isinstance(tree, tuple | list):
        for child in tree:
            yield from _nodes(child, wanted)


def _fields(node: Any) -> dict[str, Any] | None:
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    return None


def _only(tree: Any, wanted: set[str], what: str) -> Mapping[str, Any]:
    found = list(_nodes(tree, wanted))
    if len(found) != 1:
        raise ValueError(
            f"`saved` holds {len(found)} states of {what}, with "
            f"{', '.join(sorted(wanted))}; it must hold one. Pass the state of "
            "optax.adamw or of a chain with it; of optax.multi_transform the states "
            "one by one."
        )
    return found[0]


def _by_path(tree: PyTree) -> dict[str, Any]:
    leaves = flatten(tree)
    return dict(zip(leaves.paths, leaves.arrays, strict=True))


def _sum(mean: Any, count: int) -> Any:
    """The sum of a window of `count`, of which Optax keeps the mean."""
    array = to_numpy("acc_grads", mean)
    if array.dtype.kind != "f":  # another's float: bfloat16, or none at all
        array = array.astype(np.float32)
    return array * array.dtype.type(count)


def to_optax(
    state: PyTree,
    params: PyTree,
    *,
    tx: Transformation | None = None,
    into: optax.GradientTransformation | None = None,
    names: Names = None,
    layout: Layout | None = None,
    drop: Collection[str] = (),
    amsgrad: Maximum | None = None,
    use_grad_mean: bool = True,
) -> PyTree:
    """The state with which a transformation of Optax goes on.

    The moments take their places in `into.init(params)`, in the dtypes that they have
    there (those of the parameters, so in 16 bits they are rounded), and so does the
    step in every `count`: schedules go on where they were.

    Args:
      state: a State, or what holds one.
      params: its parameters; shapes will not do, as Optax initializes its state.
      tx: the transformation that made it.
      into: the transformation of Optax: `adamw`, `amsgrad`, a chain with one of them,
        in `MultiSteps(...).gradient_transformation()` or `inject_hyperparams`. None:
        `optax.adamw` with a constant rate; `optax.amsgrad` where there is a maximum.
      names: a mapping from paths to those of `into.init(params)`, where they differ.
      layout: `(path, array) -> array`, the inverse of that of `from_optax`.
      drop: buffers that are lost, such as ("ema",).
      amsgrad: the kind of `nu_max` where there is no `tx` to tell.
      use_grad_mean: False where `MultiSteps` is made so: it then keeps the sum.

    Returns:
      A state of `into`.

    Raises:
      TypeError, ValueError: buffers that `into` has no place for or lacks, the maximum
        of raw moments, an open window of weighted gradients.

    Example:
      >>> import jax.numpy as jnp, optax, optadamw
      >>> from optadamw.interchange import to_optax
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_optax(tx.init(params), params, tx=tx, into=optax.adamw(1e-3))
      >>> type(saved[0]).__name__, int(saved[0].count)
      ('ScaleByAdamState', 0)
    """
    leaving = Departure(PEER, state, params, tx, names, layout, drop, amsgrad)
    if into is None:
        into = optax.amsgrad(0.0) if leaving.has("nu_max") else optax.adamw(0.0)
    if not callable(getattr(into, "init", None)):
        raise mistyped("into", "a transformation of Optax", into)
    made = into.init(params)
    adam = _only(made, {"count", "mu", "nu"}, "an Adam")
    windows = list(_nodes(made, {"mini_step", "acc_grads"}))
    _check_places(leaving, adam, bool(windows))
    fields = [name for name in ("mu", "nu", "nu_max") if name in adam]
    trees = {name: _filled(leaving, name, adam[name]) for name in fields}
    if windows:
        divisor = max(leaving.filled, 1) if use_grad_mean else 1
        like = windows[0]["acc_grads"]
        trees["acc_grads"] = like
        if leaving.filled:
            sums = [
                array / array.dtype.type(divisor) for array in leaving.accumulators()
            ]
            trees["acc_grads"] = _in_place(leaving, "acc_grads", sums, like)
    counts = {
        "count": leaving.step,
        "gradient_step": leaving.step,
        "mini_step": leaving.filled,
    }
    return _replaced(made, trees, counts)


def _check_places(
    leaving: Departure, adam: Mapping[str, Any], accumulates: bool
) -> None:
    if leaving.has("nu_max") != ("nu_max" in adam):
        has, lacks = ("state", "into") if leaving.has("nu_max") else ("into", "state")
        raise ValueError(
            f"`{has}` keeps the maximum of the second moments and `{lacks}` does not: "
            "they differ in amsgrad. Give both the same, or lose it with "
            "drop=('nu_max',)."
        )
    if leaving.filled and not accumulates:
        raise ValueError(
            f"`state` holds an open window of {leaving.filled} gradients, and `into` "
            "does not accumulate. Wrap it in optax.MultiSteps, or lose the window with "
            "drop=('accumulator',)."
        )


def _filled(leaving: Departure, field: str, like: PyTree) -> PyTree:
    column = [array for array in leaving.column(field) if array is not None]
    return _in_place(leaving, field, column, like)


def _in_place(
    leaving: Departure, field: str, column: list[np.ndarray], like: PyTree
) -> PyTree:
    """The tree `like` with the arrays of our leaves, found by path."""
    paths = [place.name or leaving.paths[place.leaf or 0] for place in leaving.places]
    arrays = dict(zip(paths, column, strict=True))
    leaves = flatten(like)
    made = []
    for path, old in zip(leaves.paths, leaves.arrays, strict=True):
        if path not in arrays:
            raise at_leaf(
                path,
                "`into` keeps moments of it, and `state` has none.",
                "Say with `names` what each is called in into.init(params).",
            )
        array = arrays.pop(path)
        made.append(fitted(f"{field}/{path}", array, old, cast=True))
    for path, array in arrays.items():
        if np.any(array):
            raise at_leaf(
                path,
                f"`state` keeps `{field}` of it, and `into` has no place for it.",
                "Make `into` without the mask.",
            )
    return leaves.treedef.unflatten(made)


def _replaced(tree: Any, trees: Mapping[str, PyTree], counts: dict[str, int]) -> Any:
    """`tree` with these fields in all its records."""
    named = _fields(tree)
    if isinstance(tree, tuple) and named is not None:
        fields = {}
        for name, value in named.items():
            if name in trees:
                fields[name] = trees[name]
            elif name in counts and np.shape(value) == ():
                whole_count = np.asarray(counts[name])
                fields[name] = fitted(name, whole_count, value, cast=True)
            else:
                fields[name] = _replaced(value, trees, counts)
        return type(tree)(**fields)
    if isinstance(tree, tuple | list):
        return type(tree)(_replaced(child, trees, counts) for child in tree)
    if isinstance(tree, dict):
        return {key: _replaced(child, trees, counts) for key, child in tree.items()}
    return tree
