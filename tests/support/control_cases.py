"""Configurations of everything around the chain, and calls in which things go wrong.

A `Setup` is one optimizer for the library and for the oracle. A `Recipe` is one call of
it, made into arrays only when the loss scale of that moment is known.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import optadamw
from tests.support import oracle
from tests.support.control_comparison import FLUSH, Micro
from tests.support.control_oracle import Control, Dynamic

BAD = (np.nan, np.inf, -np.inf, 1e20, 1e38)
"""What breaks an optimizer: the last two have squares beyond float32 (F6)."""

SHAPES = {"w": (3, 5), "s": ()}
POOL = 8
"""So many different gradients."""


class LookUp(NamedTuple):
    """The schedule of the library that reads the same values as an `oracle.Table`."""

    values: tuple[float, ...]

    def __call__(self, step: jax.Array) -> jax.Array:
        last = len(self.values) - 1
        return jnp.asarray(self.values)[jnp.minimum(step, last)]


@dataclasses.dataclass(frozen=True)
class Setup:
    """One optimizer: the oracle's `Control` says it all.

    Attributes:
        control: The configuration.
        dtypes: Those of the parameters, in the order of `SHAPES`.
    """

    control: Control
    dtypes: tuple[Any, Any] = (np.float32,) * 2

    def options(self) -> dict[str, Any]:
        """Return the arguments of `optadamw.adamw`."""
        control = self.control
        options = _inner_options(control.adamw)
        if control.every is not None and control.mean:
            options["accumulate_steps"] = _known(control.every)
            options["accumulator_dtype"] = control.accumulator_dtype
        if control.guard:
            if control.every is not None:
                options["on_bad_micro_step"] = control.guard
            options["max_consecutive"] = control.max_consecutive
            options["skip_nonfinite"] = True
        if control.spikes:
            options["skip_spikes"] = control.spikes._asdict()
        options["loss_scale"] = loss_scale(control)
        options["stats"] = {"free": True, "norms": "norms"}.get(control.stats)
        return options

    def make(self) -> Any:
        """Build it as a user does who wants it all from `adamw`."""
        if self.control.every is None or self.control.mean:
            return optadamw.adamw(**self.options())
        return self.nested(0)  # a sum is an option of the wrapper alone

    def nested(self, order: int) -> Any:
        """Build it from wrappers, nested in one of the possible orders."""
        wrappers = wrappers_of(self.control)
        orders = list(itertools.permutations(wrappers))
        tx = optadamw.adamw(**_inner_options(self.control.adamw))
        for wrap in orders[order % len(orders)]:
            tx = wrap(tx)
        return tx

    def params(self) -> dict[str, np.ndarray]:
        return _normal(0, self.dtypes, 1.0)

    def micro(self, recipe: "Recipe", scale: float) -> Micro:
        """Return the call that `recipe` describes, its gradients times `scale`."""
        if recipe.flushes:
            return FLUSH
        grads = _normal(1 + recipe.base % POOL, self.dtypes, recipe.size * scale)
        if recipe.fault is not None:
            name = tuple(SHAPES)[recipe.leaf % 2]
            values = grads[name].astype(_wide_dtype(grads[name].dtype))
            flat = values.reshape(-1)
            flat[... if recipe.spread else recipe.place % flat.size] = recipe.fault
            with np.errstate(over="ignore", invalid="ignore"):
                grads[name] = values.astype(grads[name].dtype)
        weight = recipe.weight if self.control.accumulates else None
        return Micro(grads, weight, recipe.loss)


class Recipe(NamedTuple):
    """One call: which gradient, what is wrong with it, what is passed beside it."""

    base: int = 0
    size: float = 0.3
    fault: float | None = None
    leaf: int = 0
    place: int = 0
    spread: bool = False
    """Whether the fault is in the whole leaf and not in one element."""
    weight: float | None = None
    loss: float | None = None
    flushes: bool = False


def loss_scale(control: Control) -> Any:
    """Return the argument of the library for the oracle's."""
    if isinstance(control.loss_scale, Dynamic):
        return optadamw.DynamicLossScale(**control.loss_scale._asdict())
    return control.loss_scale


def wrappers_of(control: Control) -> Sequence[Callable[[Any], Any]]:
    """Return the wrappers that `control` asks for, each a function of its inner."""
    policy = {"max_consecutive": control.max_consecutive}
    if control.every is not None:
        policy["on_bad_micro_step"] = control.guard
    wrappers: list[Callable[[Any], Any]] = []
    if control.every is not None:
        wrappers.append(
            lambda tx: optadamw.multi_steps(
                tx,
                _known(control.every),
                use_grad_mean=control.mean,
                dtype=control.accumulator_dtype,
            )
        )
    if control.spikes:
        wrappers.append(
            lambda tx: optadamw.skip_spikes(tx, **control.spikes._asdict(), **policy)
        )
    elif control.guard:
        wrappers.append(lambda tx: optadamw.skip_nonfinite(tx, **policy))
    if control.loss_scale is not None:
        wrappers.append(lambda tx: optadamw.with_loss_scale(tx, loss_scale(control)))
    if control.stats:
        norms = control.stats == "norms"
        wrappers.append(lambda tx: optadamw.with_stats(tx, norms=norms))
    return wrappers


def _inner_options(adamw: oracle.AdamW) -> dict[str, Any]:
    """Return the options of the library that are not at the oracle's default."""
    options = {}
    for field in dataclasses.fields(adamw):
        value = getattr(adamw, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            options[field.name] = _known(value)
    return options


def _known(value: Any) -> Any:
    return LookUp(value.values) if isinstance(value, oracle.Table) else value


def _normal(seed: int, dtypes: Sequence[Any], size: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tree = {}
    for (name, shape), dtype in zip(SHAPES.items(), dtypes, strict=True):
        x = np.asarray(rng.normal(size=shape)) * size
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.normal(size=shape) * size
        with np.errstate(over="ignore"):
            tree[name] = np.asarray(x).astype(dtype)
    return tree


def _wide_dtype(dtype: Any) -> Any:
    return np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64


# --- Inner chains --------------------------------------------------------------------

_NUMBERS = {"b1": 0.8, "b2": 0.97, "eps": 1e-3, "weight_decay": 0.1}
_RATES = oracle.Table((0.03, 0.05, 0.02, 0.01))

INNER: dict[str, tuple[oracle.AdamW, tuple[Any, Any]]] = {
    "clipped": (
        oracle.AdamW(
            _RATES, **_NUMBERS, clip_global_norm=0.9, ema_decay=0.7, ema_debias=True
        ),
        (np.float32,) * 2,
    ),
    "mixed": (
        oracle.AdamW(
            0.03,
            **_NUMBERS,
            clip_value=0.4,
            amsgrad="raw",
            ema_decay=0.7,
            ema_overwrite_every=2,
        ),
        (ml_dtypes.bfloat16, np.float16),
    ),
    "complex": (
        oracle.AdamW(_RATES, **_NUMBERS, nesterov=True, ema_decay=0.8, ema_warmup=True),
        (np.complex64, np.float32),
    ),
}
"""What the controls stand around: every kind of average and dtype, with and without a
clip, in few chains, as each has to be compiled."""
