"""From one library's file to another's: a bare State in the middle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optadamw import checkpoint
from optadamw.adamw import adamw
from optadamw.base.errors import invalid, mistyped, near
from optadamw.checkpoint.record import ENTRY
from optadamw.control.loss_scale import (
    LARGEST,
    SMALLEST,
    Counts,
    DynamicLossScale,
)
from optadamw.dialects.bitsandbytes.state import from_bitsandbytes, to_bitsandbytes
from optadamw.dialects.files import checkpoints, files
from optadamw.dialects.files.checkpoints import Bare
from optadamw.dialects.flux.state import from_flux, to_flux
from optadamw.dialects.keras.state import from_keras, to_keras
from optadamw.dialects.mlx.state import from_mlx, to_mlx
from optadamw.dialects.optax.state import from_optax, to_optax
from optadamw.dialects.optimi.state import from_optimi, to_optimi
from optadamw.dialects.states.arrays import scalar, to_numpy
from optadamw.dialects.states.peer import Maximum
from optadamw.dialects.states.state_dict import groups_in, is_state_dict
from optadamw.dialects.tensorflow.state import from_tensorflow, to_tensorflow
from optadamw.dialects.tensorflow_addons.state import (
    from_tensorflow_addons,
    to_tensorflow_addons,
)
from optadamw.dialects.torch.state import from_torch, to_torch
from optadamw.dialects.torchao.state import from_torchao, to_torchao
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation

READERS: dict[str, Callable[..., State]] = {
    "torch": from_torch,
    "keras": from_keras,
    "tensorflow": from_tensorflow,
    "tensorflow-addons": from_tensorflow_addons,
    "mlx": from_mlx,
    "optax": from_optax,
    "flux": from_flux,
    "optimi": from_optimi,
    "torchao": from_torchao,
    "bitsandbytes": from_bitsandbytes,
}
WRITERS: dict[str, Callable[..., Any]] = {
    "torch": to_torch,
    "keras": to_keras,
    "tensorflow": to_tensorflow,
    "tensorflow-addons": to_tensorflow_addons,
    "mlx": to_mlx,
    "optax": to_optax,
    "flux": to_flux,
    "optimi": to_optimi,
    "torchao": to_torchao,
    "bitsandbytes": to_bitsandbytes,
}
STATE_DICTS = {
    "torch": "PyTorch",
    "optimi": "optimi",
    "torchao": "torchao",
    "bitsandbytes": "bitsandbytes",
}
"""Forms that are state dicts, and what their libraries are called."""

BY_NAME = ("mlx", "optax", "flux", "optadamw")
"""Forms that have their parameters by names; the others have them in an order."""


@dataclass(frozen=True)
class Plan:
    """A conversion, as it was asked for."""

    source: str
    target: str
    key: str | None = None
    names: Any = None
    to_names: Any = None
    transpose: tuple[str, ...] = ()
    to_transpose: tuple[str, ...] = ()
    missing: str = "error"
    drop: tuple[str, ...] = ()
    amsgrad: Maximum | None = None
    use_ema: bool = False
    accumulate: int | None = None
    learning_rate: float | None = None
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Parameters by their paths, from a flat file of arrays or our own checkpoint.

    Raises:
      OSError, ValueError: a file that cannot be read, or holds something else.
    """
    if Path(path).suffix == ".npz" and _is_checkpoint(path):
        found = checkpoints.params_in(checkpoint.load(path))
    else:
        found = _flat(files.read(path))
    if not found:
        raise ValueError(f"'{path}' holds no parameters.")
    return found


def _is_checkpoint(path: str | Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return ENTRY in getattr(archive, "files", ())
    except Exception:  # what it is instead, its reader says
        return False


def _flat(tree: Any, path: str = "") -> dict[str, np.ndarray]:
    if not isinstance(tree, Mapping):
        return {path: to_numpy(path, tree)}
    found: dict[str, np.ndarray] = {}
    for key, child in tree.items():
        found |= _flat(child, f"{path}/{key}" if path else str(key))
    return found


def check_patterns(plan: Plan, params: Mapping[str, Any]) -> None:
    """Refuse to transpose what is not there.

    Raises:
      ValueError: a pattern that matches no parameter.
    """
    for option, patterns, form in (
        ("--transpose", plan.transpose, plan.source),
        ("--to-transpose", plan.to_transpose, plan.target),
    ):
        if patterns and form == "optadamw":
            raise ValueError(
                f"`{option}`: a checkpoint of optadamw has the arrays as the "
                "parameters are. Leave it out."
            )
        for pattern in patterns:
            if not any(fnmatchcase(path, pattern) for path in params):
                raise ValueError(
                    f"`{option}`: '{pattern}' matches no parameter. Near it: "
                    f"{near(pattern, params)}."
                )


class Opened(NamedTuple):
    """What a file holds, or the part of it that is the state."""

    saved: Any
    found_at: str | None = None
    """The key of the only state dict in it, if it was looked for."""


def open_state(plan: Plan, path: str | Path) -> Opened:
    """The state in a file; of our own checkpoint, nothing yet.

    Raises:
      OSError, ValueError: as `files.read`; no state under the key, or several.
    """
    if plan.source == "optadamw":
        if plan.key is not None:
            raise ValueError(
                "`--key`: a checkpoint of optadamw has one State. Leave it out."
            )
        return Opened(None)
    saved = files.read(path)
    if plan.key is not None:
        return Opened(_under(plan.key, saved, path))
    if plan.source not in STATE_DICTS or not isinstance(saved, Mapping):
        return Opened(saved)
    if "state" in saved:
        return Opened(saved)
    keys = [str(key) for key, value in saved.items() if is_state_dict(value)]
    if len(keys) > 1:
        raise ValueError(
            f"'{path}' holds {len(keys)} state dicts of optimizers. Say which with "
            f"--key: {', '.join(keys)}."
        )
    if not keys:
        return Opened(saved)
    return Opened(_under(keys[0], saved, path), keys[0])


def _under(key: str, saved: Any, path: str | Path) -> Any:
    """What stands under a key, or under a path of keys and indices."""
    children = _by_key(saved)
    if key in children:
        return children[key]
    first, _, rest = key.partition("/")
    if rest and first in children:
        return _under(rest, children[first], path)
    there = f"Near it: {near(key, children)}." if children else "It has no keys."
    raise ValueError(f"`--key`: '{path}' holds nothing under '{key}'. {there}")


def _by_key(node: Any) -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    if isinstance(node, list | tuple):
        return {str(i): value for i, value in enumerate(node)}
    return {}


def read_state(
    plan: Plan, path: str | Path, saved: Any, params: Mapping[str, Any]
) -> Bare:
    """The State in a file, and the numbers that go with it.

    Args:
      plan: what was asked for.
      path: the file.
      saved: what `open_state` found in it.
      params: the parameters, by their paths.

    Raises:
      OSError, TypeError, ValueError: as `files.read` and the `from_` functions.
    """
    if plan.source == "optadamw":
        bare = checkpoints.loaded(path, params)
        state = _without(bare.state, plan.drop)
        maximum = bare.maximum if state.nu_max is not None else None
        every = plan.accumulate or bare.every
        return bare._replace(state=state, maximum=maximum, every=every)
    if plan.source == "tensorflow-addons" and isinstance(saved, Mapping):
        saved = list(saved.values())
    _check_order(plan.source, plan.names, saved, params, "--names")
    state = READERS[plan.source](
        saved,
        params,
        names=plan.names,
        layout=_transposed(plan.transpose),
        missing=plan.missing,
        drop=[d for d in plan.drop if d != "kahan_comp" or plan.source == "optimi"],
        **_said(plan),
    )
    kind: Maximum = "corrected" if plan.source == "optax" else "raw"
    maximum = kind if state.nu_max is not None else None
    every = plan.accumulate if state.accumulator is not None else None
    counts: Counts = "gradients" if state.growth is not None else "steps"
    return Bare(state, maximum, _negates(saved), every, counts)


def _without(state: State, drop: Sequence[str]) -> State:
    """A State that no longer holds some of its buffers, nor what belongs to them."""
    together = {
        "accumulator": ("accumulator", "micro_step", "weight"),
        "loss_scale": ("loss_scale", "growth"),
    }
    fields = [field for name in drop for field in together.get(name, (name,))]
    nothing: dict[str, Any] = {f: None for f in fields if f in State._fields}
    return state._replace(**nothing)


def _said(plan: Plan) -> dict[str, Any]:
    """The arguments that some of the readers take."""
    match plan.source:
        case "keras":
            return {
                "amsgrad": plan.amsgrad == "raw",
                "use_ema": plan.use_ema,
                "gradient_accumulation_steps": plan.accumulate or 1,
            }
        case "tensorflow":
            return {"amsgrad": plan.amsgrad == "raw", "use_ema": plan.use_ema}
        case "optax":
            return {"amsgrad": plan.amsgrad}
        case "flux" if plan.b1 is not None and plan.b2 is not None:
            return {"betas": (plan.b1, plan.b2)}
        case _:
            return {}


def _groups(saved: Any) -> Sequence[Mapping[str, Any]]:
    return saved["param_groups"] if is_state_dict(saved) else ()


def _negates(saved: Any) -> bool:
    signs = {bool(g.get("maximize", False)) for g in _groups(saved) if g.get("params")}
    if len(signs) > 1:
        raise ValueError(
            "Some groups of the saved state maximize and others do not, and a file has "
            "one sign for all. Convert it in Python, with the `tx` that goes on."
        )
    return signs == {True}


def _check_order(
    form: str, names: Any, saved: Any, params: Mapping[str, Any], flag: str
) -> None:
    """Refuse to guess an order: a file of parameters has none that means anything."""
    if form in BY_NAME or names is not None or len(params) == 1:
        return
    groups = _groups(saved)
    if groups and all(group.get("param_names") is not None for group in groups):
        return
    raise ValueError(
        f"A state of {form} has its parameters in an order. Say which is which with "
        f"`{flag} FILE.json`: a list of the names in the file of parameters, in that "
        "order, or a mapping from them to names or indices."
    )


def _transposed(patterns: Sequence[str]) -> Callable[[str, np.ndarray], Any] | None:
    if not patterns:
        return None

    def layout(path: str, array: np.ndarray) -> np.ndarray:
        chosen = any(fnmatchcase(path, pattern) for pattern in patterns)
        return array.T if chosen else array

    return layout


def with_numbers(plan: Plan, path: str | Path, saved: Any) -> Plan:
    """The plan, with numbers that were not given taken from the groups of its source.

    Raises:
      TypeError, ValueError: no state dict; groups that do not agree on a number.
    """
    if plan.source not in STATE_DICTS:
        return plan
    groups = groups_in(STATE_DICTS[plan.source], saved)
    found: dict[str, float] = {}
    for field, keys in KEYS.items():
        values = {_number(group, keys) for group in groups} - {None}
        if getattr(plan, field) is None and len(values) > 1:
            raise ValueError(
                f"The groups of '{path}' have different numbers for `{field}` "
                f"({sorted(v for v in values if v is not None)}). Give one with "
                f"--{field.replace('_', '-')}."
            )
        number = next(iter(values), None)
        if getattr(plan, field) is None and number is not None:
            found[field] = number
    return replace(plan, **found)  # type: ignore[arg-type]


KEYS: dict[str, tuple[str, int | None, str]] = {
    "learning_rate": ("lr", None, "lr"),
    "b1": ("betas", 0, "beta1"),
    "b2": ("betas", 1, "beta2"),
    "eps": ("eps", None, "eps"),
    "weight_decay": ("weight_decay", None, "weight_decay"),
}
"""Where the groups of PyTorch and of optimi have each number."""


def _number(group: Mapping[str, Any], keys: tuple[str, int | None, str]) -> Any:
    first, index, second = keys
    value = group.get(first, group.get(second))
    if value is not None and index is not None and first in group:
        if not isinstance(value, Sequence) or len(value) != 2:
            raise mistyped(f"{first} of a group", "a pair of numbers", value)
        value = value[index]
    return None if value is None else scalar(f"`{first}` of a group", value)


def write_state(
    plan: Plan, bare: Bare, path: str | Path, params: Mapping[str, Any]
) -> None:
    """Write a State as the target keeps it.

    Raises:
      OSError, TypeError, ValueError: as `files.write` and the `to_` functions.
    """
    if plan.target == "optadamw":
        if Path(path).suffix != ".npz":
            raise invalid("--out", "a file .npz for optadamw", str(path))
        checkpoints.stored(path, bare, params, plan.source)
        return
    names = plan.to_names
    if names is None and plan.target not in BY_NAME:
        # From one order to another it is the same, unless it is said otherwise.
        names = plan.names if isinstance(plan.names, list) else None
        _check_order(plan.target, names, {}, params, "--to-names")
    tx = _transformation(plan, bare)
    options: dict[str, Any] = {"tx": tx, "names": names}
    if plan.target == "keras" and plan.learning_rate is None:
        options["learning_rate"] = "schedule"
    saved = WRITERS[plan.target](
        bare.state, dict(params), layout=_transposed(plan.to_transpose), **options
    )
    files.write(path, saved)


def _transformation(plan: Plan, bare: Bare) -> Transformation:
    """A transformation that would keep this State; it takes no step."""
    rate = plan.learning_rate
    if rate is None and plan.target in NEEDING_A_RATE:
        raise ValueError(
            f"A state of {plan.target} holds the learning rate, and it is not known. "
            "Give it with --learning-rate."
        )
    state = bare.state
    if state.accumulator is not None and bare.every is None:
        raise ValueError(
            "The state accumulates, and of how many gradients a step is made is not "
            "known. Give it with --accumulate."
        )
    scale = None
    if state.growth is not None:
        scale = DynamicLossScale(minimum=SMALLEST, maximum=LARGEST, counts=bare.counts)
    given: dict[str, Any] = {
        "b1": plan.b1,
        "b2": plan.b2,
        "eps": plan.eps,
        "weight_decay": plan.weight_decay,
    }
    return adamw(
        0.0 if rate is None else rate,
        amsgrad=bare.maximum,
        ema_decay=0.0 if state.ema is not None else None,
        accumulate_steps=bare.every if state.accumulator is not None else None,
        loss_scale=scale,
        maximize=bare.negated or None,
        **{name: value for name, value in given.items() if value is not None},
    )


NEEDING_A_RATE = ("torch", "optimi", "torchao", "bitsandbytes", "mlx")
"""Forms that hold a learning rate, without which they cannot go on."""


def summary(bare: Bare) -> list[tuple[str, str, str]]:
    """What a State holds: field, leaves or value, bytes."""
    rows = [("step", f"{int(jnp.asarray(bare.state.step)):,}", "")]
    for name, value in zip(State._fields[1:], bare.state[1:], strict=True):
        if isinstance(value, Mapping):
            count = f"{len(value)} array{'' if len(value) == 1 else 's'}"
            size = sum(np.asarray(array).nbytes for array in value.values())
            rows.append((name, count, f"{size:,} bytes"))
        elif name in ("micro_step", "loss_scale") and value is not None:
            rows.append((name, f"{np.asarray(value).item():g}", ""))
    return rows
