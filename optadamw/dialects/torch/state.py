"""PyTorch's AdamW and Adam.

| here | there |
|---|---|
| `step` | `step`, a float32 of each parameter; all must agree |
| `mu`, `nu` | `exp_avg`, `exp_avg_sq` |
| `nu_max`, "raw" | `max_exp_avg_sq` |
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from optadamw.base.errors import at_leaf
from optadamw.base.types import PyTree
from optadamw.dialects.states.assembly import assembled
from optadamw.dialects.states.contents import Saved, unquoted
from optadamw.dialects.states.form import Form
from optadamw.dialects.states.grouping import Groups, groups_of, numbers_of
from optadamw.dialects.states.leaving import Departure, ToOptions
from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.dialects.states.request import FromOptions, Request
from optadamw.dialects.states.settings import Settings
from optadamw.dialects.states.signature import reads, writes
from optadamw.dialects.states.state_dict import (
    contents_of,
    moments_and_step,
    read,
    written,
)
from optadamw.store.state import State

PEER = Peer(
    name="torch",
    title="PyTorch",
    keys={"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    maximum="raw",
    is_pairwise=True,
    has_gaps=True,
    has_groups=True,
    maximizes=True,
    outputs_first=True,
)


@reads(PEER)
def from_torch(
    saved: Mapping[str, Any], params: PyTree, **options: Unpack[FromOptions]
) -> State:
    """Make the State that continues the run of an optimizer of PyTorch or timm.

    PyTorch counts the steps of each parameter and a State those of all, so the counts
    must agree. Parameters are matched by name if the state has names (`param_names`,
    from `AdamW(model.named_parameters())`), else by the order of the optimizer's
    groups. Every shape is checked; two parameters of one shape can be told apart only
    by their names.

    A state that was saved before the first step is taken as zeros. Adam with L2
    (`torch.optim.Adam` with a weight decay that is not decoupled) is refused if its
    groups say so, which they do since PyTorch 2.6.

    Args:
      saved: `optimizer.state_dict()`, of tensors or arrays.

    Raises:
      ValueError: parameters that have taken different numbers of steps.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optadamw
      >>> from optadamw.interchange import from_torch
      >>> moments = {"exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}
      >>> saved = {
      ...     "state": {0: {"step": np.float32(7), **moments}},
      ...     "param_groups": [{"lr": 1e-3, "params": [0]}],
      ... }
      >>> params = {"w": jnp.zeros(2)}
      >>> state = from_torch(saved, params, tx=optadamw.adamw(1e-3))
      >>> int(state.step), state.mu["w"].tolist()
      (7, [1.0, 1.0])
    """
    request = Request.of(PEER, params, options)
    found = read(PEER.title, saved)
    contents = contents_of(PEER, found)
    _refuse_radam(found)
    return assembled(request, contents)


def _refuse_radam(found: Sequence[Saved]) -> None:
    """Refuse the state of RAdam, whose entries are Adam's and whose steps are not."""
    for one in found:
        if "decoupled_weight_decay" in one.options and "amsgrad" not in one.options:
            raise at_leaf(
                unquoted(one.label),
                "its group has 'decoupled_weight_decay' and no 'amsgrad', as those of "
                "torch.optim.RAdam, whose steps are others than AdamW's.",
                "Convert the state of AdamW or Adam.",
            )


@writes(PEER)
def to_torch(
    state: PyTree,
    params: PyTree,
    *,
    groups: Groups = None,
    amsgrad: Maximum | None = None,
    **options: Unpack[ToOptions],
) -> dict[str, Any]:
    """Make the state dict with which an optimizer of PyTorch continues the run.

    It holds NumPy arrays; PyTorch wants tensors:

        saved = jax.tree.map(
            lambda x: torch.as_tensor(x) if isinstance(x, np.ndarray) else x, saved
        )
        optimizer.load_state_dict(saved)

    PyTorch also takes the options of the groups from it: the numbers of `tx` in the
    next step (of a schedule its value there). Parameters with other numbers than the
    first, such as those without decay, come in groups of their own, in the order of
    their first members; build the optimizer with such groups.

    Returns:
      What `load_state_dict` takes, with arrays in place of tensors.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.interchange import to_torch
      >>> params, tx = {"w": jnp.zeros(2)}, optadamw.adamw(1e-3)
      >>> saved = to_torch(tx.init(params), params, tx=tx)
      >>> saved["state"][0]["exp_avg"].tolist(), saved["param_groups"][0]["lr"]
      ([0.0, 0.0], 0.001)
    """
    leaving = Departure.of(PEER, state, params, options, amsgrad)
    chosen = groups_of(leaving, groups, _options)
    return written(leaving, chosen, moments_and_step(leaving))


def _options(settings: Settings) -> dict[str, Any]:
    return numbers_of(settings) | {
        "amsgrad": settings.amsgrad,
        "maximize": settings.maximize,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": True,
    }


FORM = Form(PEER, from_torch, to_torch, is_state_dict=True, needs_rate=True)
