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

from collections.abc import Collection
from typing import Any, Unpack

import numpy as np
import optax

from optadamw.base.errors import mistyped
from optadamw.base.tree import flatten
from optadamw.base.types import PyTree
from optadamw.dialects.optax import places
from optadamw.dialects.optax.records import (
    Record,
    adams_in,
    foreign_in,
    hyperparams_in,
    lookalikes_in,
    numbers_in,
    windows_in,
)
from optadamw.dialects.states.arrays import to_numpy, whole
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.call import check_collection
from optadamw.dialects.states.contents import Contents, Row
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import (
    DIFFERENCE,
    MOMENTS,
    Maximum,
    Peer,
    check_maximum,
)
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.settings import kind_of_maximum
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.window import window_sums
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

PEER = Peer(
    name="optax",
    title="Optax",
    keys={"mu": "mu", "nu": "nu", "nu_max": "nu_max", "accumulator": "acc_grads"},
    maximum="corrected",
)


@reads(PEER)
def from_optax(
    saved: PyTree,
    params: PyTree,
    *,
    amsgrad: Maximum | None = None,
    use_grad_mean: bool = True,
    **options: Unpack[FromOptions],
) -> State:
    """Make the State that continues the run of a chain of Optax.

    Adam's part is found in chains, in `MultiSteps`, in `inject_hyperparams`,
    `apply_if_finite` and `masked` (a parameter that is hidden from it has no state).
    Parameters are matched by their paths.

    Other states with numbers of their own, such as a trace, an average of the updates
    or a factor on the rate, are refused, as a State has no place for them. Counts of
    schedules and injected hyperparameters are left out: `tx` has its own. Only the
    class tells Adam from optimizers with the same fields (`adabelief`), and Orbax loses
    the class; `radam`, `yogi`, `adamax`, `adamaxw`, `lamb` and `contrib.adopt` keep an
    Adam's class, so they cannot be told from it at all: do not pass theirs.

    Args:
      saved: the state, or the nested dicts and lists that Orbax makes of one.
      names: A mapping from paths of `params` to those that were saved. None (default)
        takes them as equal.
      drop: Saved buffers to leave behind, and paths of other transformations' states,
        such as "1" for the second in a chain. The default leaves none.
      amsgrad: "corrected" accepts the maximum of Optax's AMSGrad if there is no `tx`:
        it is that of the corrected second moments, and not that of PyTorch and Keras.
        None (default) refuses it then.
      use_grad_mean: Whether `MultiSteps` keeps the mean of the gradients (default
        True), as its argument of this name says; False takes their sum.

    Raises:
      ValueError: no Adam in the state or more than one; numbers that would be lost;
        AMSGrad's maximum if `tx` keeps the raw one.

    Example:
      >>> import jax.numpy as jnp, optax, optadamw
      >>> from optadamw.interchange import from_optax
      >>> params = {"w": jnp.zeros(2)}
      >>> saved = optax.adamw(1e-3).init(params)
      >>> int(from_optax(saved, params, tx=optadamw.adamw(1e-3)).step)
      0
    """
    check_maximum("amsgrad", amsgrad)
    if not isinstance(use_grad_mean, bool):
        raise mistyped("use_grad_mean", "True or False", use_grad_mean)
    drop = options.get("drop", ())
    check_collection("drop", drop)
    found = _only("saved", saved)
    adam = found.fields
    options["drop"] = _alone(saved, found, drop)
    request = Request.of(PEER, params, options)
    windows = windows_in(saved)
    if len(windows) > 1:
        raise ValueError("`saved` holds several MultiSteps, one inside another.")
    fields = {name: adam[name] for name in MOMENTS if name in adam}
    if "nu_max" in fields and "nu_max" not in request.left:
        _check_said(request.tx, amsgrad)
    micro_step = 0
    if windows:
        micro_step = whole("mini_step", windows[0]["mini_step"])
        fields["accumulator"] = windows[0]["acc_grads"]
    trees = {name: _by_path(tree) for name, tree in fields.items()}
    scale = micro_step if use_grad_mean else 1
    numbers = hyperparams_in(saved, found)
    rows = [
        Row(
            label=f"'{path}'",
            name=path,
            buffers={
                name: tree[path] if name != "accumulator" else _sum(tree[path], scale)
                for name, tree in trees.items()
                if path in tree
            },
            options=numbers or None,
        )
        for path in trees["mu"]
    ]
    contents = Contents(
        rows=rows,
        step=whole("count", adam["count"]),
        micro_step=micro_step,
        accumulates=bool(windows),
        maximum="corrected",
        hides_masks=True,
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


def _only(name: str, tree: Any) -> Record:
    """Return the one record of Adam."""
    found = adams_in(tree)
    if len(found) == 1:
        return found[0]
    alike = "".join(
        f" {one.kind or 'What stands'} at '{one.path or '(the root)'}' has such "
        "fields and is another optimizer's."
        for one in lookalikes_in(tree)[:1]
    )
    raise ValueError(
        f"`{name}` holds {len(found)} states of an Adam, with count, mu, nu; it must "
        f"hold one.{alike} Pass the state of optax.adamw or of a chain with it; of "
        "optax.multi_transform the states one by one."
    )


def _alone(saved: PyTree, adam: Record, drop: Collection[str]) -> Collection[str]:
    """Refuse states beside Adam's that `drop` does not name; return the rest of it."""
    others = foreign_in(saved, adam)
    for one in others:
        where = f"`saved` holds numbers of {one.kind} at '{one.path or '(the root)'}'"
        if one.encloses:
            raise ValueError(
                f"{where}, around those of Adam: the run is not that of AdamW alone, "
                "and no State has them. Convert a run without it."
            )
        if one.path not in drop:
            raise ValueError(
                f"{where}, which no State has: they would be lost. Leave them behind "
                f"with drop=({one.path!r},), if the run goes on without it."
            )
    paths = [one.path for one in others]
    return [name for name in drop if name not in paths]


def _by_path(tree: PyTree) -> dict[str, Any]:
    leaves = flatten(tree)
    return dict(zip(leaves.paths, leaves.arrays, strict=True))


def _sum(mean: Any, count: int) -> Any:
    """Return the sum of `count` gradients, of which Optax keeps the mean."""
    array = to_numpy("acc_grads", mean)
    if array.dtype.kind != "f":  # another's float: bfloat16, or none at all
        array = array.astype(np.float32)
    return array * array.dtype.type(count)


@writes(PEER)
def to_optax(
    state: PyTree,
    params: PyTree,
    *,
    into: optax.GradientTransformation | None = None,
    amsgrad: Maximum | None = None,
    use_grad_mean: bool = True,
    **options: Unpack[ToOptions],
) -> PyTree:
    """Make the state with which a transformation of Optax continues the run.

    The moments take their places in `into.init(params)`, in the dtypes that they have
    there (those of the parameters, so in 16 bits they are rounded), and so does the
    step in every `count`: schedules continue. States with numbers of their own beside
    Adam's, such as that of `optax.ema`, start as `into.init(params)` makes them.

    Args:
      params: The parameters; shapes will not do, as Optax initializes its state.
      names: A mapping from all paths of `params` to other paths, by which the trees of
        the new state are nested dicts, or lists for the keys 0, 1, 2. None (default),
        or names that are all equal to the paths, keep the trees of `params`.
      into: The transformation of Optax: `adamw`, `amsgrad`, a chain with one of them,
        in `MultiSteps(...).gradient_transformation()` or `inject_hyperparams`. None
        (default) takes `optax.adamw` with a constant rate, or `optax.amsgrad` if the
        state has a maximum.
      use_grad_mean: Whether `MultiSteps` keeps the mean of the gradients (default
        True); False writes their sum.

    Returns:
      A state of `into`.

    Raises:
      ValueError: buffers that `into` lacks; an open window of weighted gradients.

    Example:
      >>> import jax.numpy as jnp, optax, optadamw
      >>> from optadamw.interchange import to_optax
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_optax(tx.init(params), params, tx=tx, into=optax.adamw(1e-3))
      >>> type(saved[0]).__name__, int(saved[0].count)
      ('ScaleByAdamState', 0)
    """
    leaving = Departure.of(PEER, state, params, options, amsgrad)
    if into is None:
        into = optax.amsgrad(0.0) if leaving.has("nu_max") else optax.adamw(0.0)
    if not callable(getattr(into, "init", None)):
        raise mistyped("into", "a transformation of Optax", into)
    made = into.init(places.params_there(leaving))
    record = _only("into", made)
    adam, windows = record.fields, windows_in(made)
    kept = [one.path for one in foreign_in(made, record) if not one.encloses]
    places.check_places(leaving, adam, bool(windows))
    trees = {
        name: places.filled(leaving, name, adam[name])
        for name in MOMENTS
        if name in adam
    }
    if windows:
        divisor = max(leaving.filled, 1) if use_grad_mean else 1
        like = windows[0]["acc_grads"]
        trees["acc_grads"] = like
        if leaving.filled:
            sums = [
                array / array.dtype.type(divisor)
                for array in window_sums(leaving, use_grad_mean)
            ]
            trees["acc_grads"] = places.in_place(leaving, "acc_grads", sums, like)
    counts = {
        "count": leaving.step,
        "gradient_step": leaving.step,
        "mini_step": leaving.filled,
    }
    return places.replaced(made, trees, counts, kept)


FORM = Form(
    PEER,
    from_optax,
    to_optax,
    has_names=True,
    numbers=numbers_in,
    filed=places.with_nested_trees,
    to_read=lambda plan: {"amsgrad": plan.amsgrad},
    read_with=("amsgrad",),
)
