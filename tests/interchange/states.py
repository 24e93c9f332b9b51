"""Readers of the saved states in `tests/peers/states`; states without one."""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

from optadamw import interchange
from tests.peers.feed import split_groups
from tests.peers.saved import Saved

Read = Callable[[Saved, Any, Any], Any]


def _state_dict(call: Any) -> Read:
    """The parameters are numbered through the groups; those of the row come first."""

    def read(found: Saved, params: Any, tx: Any) -> Any:
        assert found.row is not None
        groups = split_groups(found.row, found.about["parameters"])
        names = [name for _, members in groups for name in members]
        return call(found.state, params, tx=tx, names=names)

    return read


def _by_names(call: Any) -> Read:
    """Keras's variables with their paths: which is which, they say themselves."""

    def read(found: Saved, params: Any, tx: Any) -> Any:
        values = found.state.values() if isinstance(found.state, dict) else found.state
        named = found.about.get("paths") or found.about["names"]
        return call(dict(zip(named, values, strict=True)), params, tx=tx)

    return read


def _by_order(call: Any) -> Read:
    def read(found: Saved, params: Any, tx: Any) -> Any:
        return call(found.state, params, tx=tx, names=list(found.params))

    return read


def _mlx(found: Saved, params: Any, tx: Any) -> Any:
    return interchange.from_mlx(found.state, params, tx=tx)


def _optax(theirs: Callable[[], Any]) -> Read:
    """The leaves are kept by their key paths; Optax makes the records for them."""

    def read(found: Saved, params: Any, tx: Any) -> Any:
        empty = theirs().init(params)
        flat, structure = jax.tree_util.tree_flatten_with_path(empty)
        leaves = [found.state[jax.tree_util.keystr(path)] for path, _ in flat]
        assert len(leaves) == len(found.state)
        saved = jax.tree.unflatten(structure, leaves)
        return interchange.from_optax(saved, params, tx=tx)

    return read


def _rate(step: Any) -> float:
    del step
    return 0.1


def _masked(tree: Any) -> Any:
    return jax.tree.map(lambda x: True, tree)


def scheduled(**options: Any) -> Any:
    return optax.adamw(_rate, weight_decay=_rate, mask=_masked, **options)


def _windowed() -> Any:
    inner = scheduled(nesterov=True, mu_dtype="bfloat16")
    chain = optax.chain(optax.clip(5.0), optax.clip_by_global_norm(9.0), inner)
    return optax.MultiSteps(chain, 4).gradient_transformation()


WINDOWED = _optax(_windowed)
"""Of "optax_multi_steps", the state of `optax.MultiSteps`."""

READ: dict[str, Read] = {
    "torch_amsgrad": _state_dict(interchange.from_torch),
    "torch_bfloat16": _state_dict(interchange.from_torch),
    "torch_groups": _state_dict(interchange.from_torch),
    "timm_amsgrad": _state_dict(interchange.from_torch),
    "timm_nadamw": _state_dict(interchange.from_torch),
    "optimi_groups": _state_dict(interchange.from_optimi),
    "keras_jax_amsgrad": _by_names(interchange.from_keras),
    "keras_jax_loss_scale": _by_names(interchange.from_keras),
    "keras_torch_amsgrad": _by_order(interchange.from_keras),
    "keras_torch_loss_scale": _by_names(interchange.from_keras),
    "tf_keras_amsgrad": _by_names(interchange.from_tensorflow),
    "tf_keras_ema": _by_names(interchange.from_tensorflow),
    "tfa_amsgrad": _by_order(interchange.from_tensorflow_addons),
    "tfa_everything": _by_order(interchange.from_tensorflow_addons),
    "mlx_corrected": _mlx,
    "mlx_schedule": _mlx,
    "optax_adamw": _optax(lambda: optax.adamw(0.1)),
    "optax_amsgrad": _optax(lambda: optax.amsgrad(0.1)),
    "optax_schedule_both": _optax(scheduled),
}

WINDOWS = ("keras_jax_accumulation", "keras_torch_accumulation")
"""Their averages move at every gradient there; what is in them is looked at."""

LOW_BIT = ("bitsandbytes_8bit", "torchao_4bit", "torchao_8bit", "torchao_fp8")

APART = {
    "keras_jax_model": "three options",
    "mlx_multi_optimizer": re.escape("the state of an optimizer of MLX"),
    "optimi_kahan": "kahan_comp",
    "tf_keras_loss_scale": "three options",
    "torch_late_gradient": "has no state",
}
"""States that are refused as they are, and what is said."""


def refused(name: str, found: Saved, params: Any) -> Any:
    """Read it as it is, without a transformation."""
    if name == "torch_late_gradient":
        names = found.about["parameters"]
        return interchange.from_torch(found.state, params, names=names)
    if name == "optimi_kahan":
        names = found.about["parameters"]
        return interchange.from_optimi(found.state, params, names=names)
    if name == "mlx_multi_optimizer":
        return interchange.from_mlx(found.state, params)
    call = interchange.from_tensorflow if "tf" in name else interchange.from_keras
    return call(found.state, params)
