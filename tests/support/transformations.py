"""Every transformation, as one table: the laws of the suite hold for each row.

A row is added here and nowhere else. What a row is exempt from is a fact about it and
stands here as data, with the reason at the field that holds it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

import optadamw
from optadamw import (
    add_decoupled_weight_decay,
    add_slow_moment,
    amsgrad_max,
    cautious,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    clip_update_by_rms,
    ema_params,
    maximize,
    scale_by_adam,
    scale_by_learning_rate,
)
from tests.support.hyperparameters import (
    DECAY,
    ELEMENTWISE,
    NUMBERS,
    RATE,
    SCHEDULES,
    rising,
)
from tests.support.lookahead import lookahead
from tests.support.momentum import scale_by_momentum


class Row(NamedTuple):
    """One transformation and the facts that the laws need about it."""

    name: str
    make: Callable[[], Any]
    """Builds it anew, equal to the one built before."""
    parts: tuple[Any, ...] = ()
    """For `adamw`: the atoms it is a chain of. A tuple among them holds atoms that
    must share an `optadamw.chain`, as one of them reads what another computes."""
    sums: tuple[Literal["parameter", "tree"], ...] = ()
    """What it takes a norm or a mean over. The order of a sum is the compiler's, so
    such a row agrees between programs to 1e-6 and not bit for bit; over one
    parameter, it also means something else when the parameter is split."""
    is_whole: bool = True
    """Whether it has a learning rate, so that its update moves a parameter."""
    ascends: bool = False
    overwrites: bool = False
    """Whether its average replaces the parameter now and then, far from it."""
    waits: bool = False
    """Whether it takes a step only after several gradients."""
    is_plain: bool = True
    """Whether its repr is an expression: no array, no function among its arguments."""
    is_narrow: bool = False
    """Whether it is for parameters below float32, and refused without any."""
    draws: bool = False
    """Whether it rounds at random, by where a leaf and its numbers stand."""
    is_per_path: bool = False
    """Whether it picks parameters by the paths `kernel*` of `tests.support.trees`."""

    has_gaps: bool = False
    """Whether its buffers have None in place of some parameters' arrays."""

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the call that builds it."""
        return getattr(self.make, "keywords", {})

    @property
    def is_elementwise(self) -> bool:
        return not self.sums


def is_kernel(path: str, array: Any) -> bool:
    """A predicate that can be pickled."""
    return path.startswith("kernel") and jnp.issubdtype(array.dtype, jnp.inexact)


def with_arrays() -> Any:
    """`adamw` with every hyperparameter of an element-wise rule an array."""
    return optadamw.adamw(**{name: jnp.asarray(NUMBERS[name]) for name in ELEMENTWISE})


def _chain(name: str, *atoms: Any, **facts: Any) -> Row:
    return Row(name, partial(optadamw.chain, *atoms), **facts)


def _adamw(
    name: str,
    options: dict[str, Any],
    *parts: Any,
    **facts: Any,
) -> Row:
    """A row of `adamw`; `parts` are given where they differ from the plain ones."""
    options = {"learning_rate": RATE, "weight_decay": DECAY} | options
    return Row(f"adamw-{name}", partial(optadamw.adamw, **options), parts, **facts)


_adam = scale_by_adam()
_decay = add_decoupled_weight_decay(DECAY)
_rate = scale_by_learning_rate(RATE)

ATOMS = (
    Row("scale_by_adam", scale_by_adam, is_whole=False),
    Row(
        "scale_by_adam-options",
        partial(
            scale_by_adam,
            *(0.8, 0.97, 1e-3, 1e-5, "bfloat16"),
            nesterov=True,
            eps_mode="hat",
        ),
        is_whole=False,
    ),
    _chain("amsgrad_max-raw", _adam, amsgrad_max(), is_whole=False),
    _chain(
        "amsgrad_max-corrected",
        _adam,
        amsgrad_max("corrected"),
        is_whole=False,
    ),
    Row(
        "add_decoupled_weight_decay",
        partial(add_decoupled_weight_decay, DECAY, "kernel*"),
        is_whole=False,
        is_per_path=True,
    ),
    _chain(
        "add_decoupled_weight_decay-independent",
        add_decoupled_weight_decay(DECAY, mode="independent"),
        _rate,
    ),
    Row("scale_by_learning_rate", partial(scale_by_learning_rate, RATE)),
    Row("clip_by_value", partial(clip_by_value, 0.7), is_whole=False),
    Row(
        "clip_by_norm", partial(clip_by_norm, 0.9), sums=("parameter",), is_whole=False
    ),
    Row(
        "clip_by_global_norm",
        partial(clip_by_global_norm, 1.1),
        sums=("tree",),
        is_whole=False,
    ),
    Row(
        "ema_params",
        partial(ema_params, 0.7),
        is_whole=False,
    ),
    _chain(
        "ema_params-overwrite",
        _rate,
        ema_params(0.7, overwrite_every=2, debias=True),
        overwrites=True,
    ),
    Row("maximize", maximize, is_whole=False, ascends=True),
    _chain(
        "cautious",
        _adam,
        cautious(),
        sums=("parameter",),
        is_whole=False,
    ),
)

SCHEDULE_FREE = (
    Row(
        "schedule_free",
        partial(optadamw.schedule_free_adamw, RATE, 0.7, 0.97, 1e-3, DECAY, None),
    ),
)

ADAMW = (
    _adamw("plain", {}, _adam, _decay, _rate),
    _adamw(
        "numbers",
        {"b1": 0.8, "b2": 0.97, "eps": 1e-3, "eps_root": 1e-5},
        *(scale_by_adam(0.8, 0.97, 1e-3, 1e-5), _decay, _rate),
    ),
    _adamw(
        "mu_dtype",
        {"mu_dtype": "bfloat16"},
        *(scale_by_adam(mu_dtype="bfloat16"), _decay, _rate),
    ),
    _adamw(
        "mask",
        {"mask": is_kernel},
        *(_adam, add_decoupled_weight_decay(DECAY, is_kernel), _rate),
        is_per_path=True,
        is_plain=False,
    ),
    _adamw("nesterov", {"nesterov": True}, scale_by_adam(nesterov=True), _decay, _rate),
    _adamw(
        "nesterov-current",
        {"nesterov": "current"},
        *(scale_by_adam(nesterov="current"), _decay, _rate),
    ),
    _adamw(
        "groups",
        {"groups": {"kernel*": {"learning_rate": 0.02, "b1": 0.6, "amsgrad": True}}},
        is_per_path=True,
    ),
    _adamw(
        "cautious_decay",
        {"cautious_weight_decay": True},
        _adam,
        add_decoupled_weight_decay(DECAY, cautious=True),
        _rate,
    ),
    _adamw(
        "clip_update",
        {"clip_update_rms": 0.4},
        *((_adam, _decay, clip_update_by_rms(0.4)), _rate),
        sums=("parameter",),
    ),
    _adamw(
        "clip_update_keeps_decay",
        {"clip_update_rms": 0.4, "clip_update_keeps_decay": True},
        *((_adam, _decay, clip_update_by_rms(0.4, keeps_decay=True)), _rate),
        sums=("parameter",),
    ),
    _adamw("slow", {"b3": 0.9}, (_adam, add_slow_moment(0.9)), _decay, _rate),
    _adamw(
        "adjustable",
        {
            "learning_rate": optadamw.adjustable(RATE),
            "b2": optadamw.adjustable(0.97),
            "clip_value": optadamw.adjustable(0.7),
            "weight_decay": optadamw.adjustable(DECAY) * rising,
        },
        is_plain=False,
    ),
    _adamw(
        "frozen",
        {"groups": {"!kernel*": {"freeze": True}}, "ema_decay": 0.7},
        is_per_path=True,
        has_gaps=True,
    ),
    _adamw("amsgrad", {"amsgrad": True}, (_adam, amsgrad_max()), _decay, _rate),
    _adamw(
        "amsgrad-corrected",
        {"amsgrad": "corrected"},
        *((_adam, amsgrad_max("corrected")), _decay, _rate),
    ),
    _adamw(
        "no_bias_correction",
        {"bias_correction": False},
        *(scale_by_adam(bias_correction=False), _decay, _rate),
    ),
    _adamw(
        "eps_mode", {"eps_mode": "hat"}, scale_by_adam(eps_mode="hat"), _decay, _rate
    ),
    _adamw("clip_value", {"clip_value": 0.7}, clip_by_value(0.7), _adam, _decay, _rate),
    _adamw(
        "clip_norm",
        {"clip_norm": 0.9},
        *(clip_by_norm(0.9), _adam, _decay, _rate),
        sums=("parameter",),
    ),
    _adamw(
        "clip_global_norm",
        {"clip_global_norm": 1.1},
        *(clip_by_global_norm(1.1), _adam, _decay, _rate),
        sums=("tree",),
    ),
    _adamw(
        "clip_eps",
        {"clip_global_norm": 1.1, "clip_eps": 0.2},
        *(clip_by_global_norm(1.1, eps=0.2), _adam, _decay, _rate),
        sums=("tree",),
    ),
    _adamw("ema", {"ema_decay": 0.7}, _adam, _decay, _rate, ema_params(0.7)),
    _adamw(
        "ema_overwrite_every",
        {"ema_decay": 0.7, "ema_overwrite_every": 2},
        *(_adam, _decay, _rate, ema_params(0.7, overwrite_every=2)),
        overwrites=True,
    ),
    _adamw(
        "ema_debias",
        {"ema_decay": 0.7, "ema_debias": True},
        *(_adam, _decay, _rate, ema_params(0.7, debias=True)),
    ),
    _adamw(
        "ema_warmup",
        {"ema_decay": 0.7, "ema_warmup": True},
        *(_adam, _decay, _rate, ema_params(0.7, warmup=True)),
    ),
    _adamw(
        "decay-schedule",
        {"weight_decay_mode": "schedule", "max_learning_rate": 0.08},
        _adam,
        (
            add_decoupled_weight_decay(DECAY, mode="schedule", max_learning_rate=0.08),
            _rate,
        ),
    ),
    _adamw(
        "decay-independent",
        {"weight_decay_mode": "independent"},
        *(_adam, (add_decoupled_weight_decay(DECAY, mode="independent"), _rate)),
    ),
    _adamw(
        "decay-corrected",
        {"weight_decay_mode": "corrected", "max_learning_rate": 0.08},
        _adam,
        (
            add_decoupled_weight_decay(DECAY, mode="corrected", max_learning_rate=0.08),
            _rate,
        ),
    ),
    _adamw(
        "maximize", {"maximize": True}, maximize(), _adam, _decay, _rate, ascends=True
    ),
    _adamw(
        "caution",
        {"caution": True},
        *((_adam, cautious()), _decay, _rate),
        sums=("parameter",),
    ),
    _adamw(
        "reproducible_norms",
        {"clip_global_norm": 1.1, "reproducible_norms": True},
        sums=("tree",),
    ),
    _adamw("update_dtype", {"update_dtype": "float32"}),
    _adamw(
        "commit-stochastic",
        {"commit": "stochastic", "seed": 3},
        is_narrow=True,
        draws=True,
    ),
    _adamw("commit-kahan", {"commit": "kahan"}, is_narrow=True),
    _adamw("commit-master", {"commit": "master", "ema_decay": 0.7}, is_narrow=True),
    _adamw(
        "commit-master-24",
        {"commit": "master", "residual_bits": 8},
        is_narrow=True,
        draws=True,
    ),
    Row("adamw-arrays", with_arrays, is_plain=False),
    _adamw("schedules", {n: SCHEDULES[n] for n in ELEMENTWISE}, is_plain=False),
)

EVERYTHING = (
    _adamw(
        "everything_elementwise",
        {
            **{"b1": 0.8, "b2": 0.97, "eps": 1e-3, "eps_root": 1e-5},
            **{"mu_dtype": "bfloat16", "mask": "kernel*", "nesterov": True},
            **{"amsgrad": True, "eps_mode": "hat", "clip_value": 0.7},
            **{"ema_decay": 0.7, "ema_overwrite_every": 2, "ema_debias": True},
            **{"weight_decay_mode": "schedule", "max_learning_rate": 0.08},
            **{"maximize": True, "update_dtype": "float32"},
        },
        ascends=True,
        overwrites=True,
        is_per_path=True,
    ),
    _adamw(
        "everything",
        {
            **NUMBERS,
            **{"mask": "kernel*", "nesterov": True, "amsgrad": "corrected"},
            **{"ema_overwrite_every": 2, "ema_warmup": True},
            **{"weight_decay_mode": "corrected", "max_learning_rate": 0.08},
            **{"maximize": True, "caution": True},
        },
        sums=("parameter", "tree"),
        ascends=True,
        overwrites=True,
        is_per_path=True,
    ),
)


def _controlled(name: str, options: dict[str, Any], **facts: Any) -> Row:
    """A row with something around its rules: it may have called for a norm."""
    return _adamw(name, options, **({"sums": ("tree",)} | facts))


CONTROLLED = (
    _controlled("skip_nonfinite", {"skip_nonfinite": True}),
    _controlled(
        "skip_spikes",
        {
            "skip_spikes": {"window": 4, "min_history": 2},
            "max_consecutive": 3,
            "ema_decay": 0.7,
        },
        is_plain=False,
    ),
    _controlled("loss_scale", {"loss_scale": 4.0}, sums=()),
    _controlled("stats", {"stats": "norms", "clip_global_norm": 1.1}),
    _controlled("accumulate", {"accumulate_steps": 2}, sums=(), waits=True),
    _controlled(
        "everything_controlled",
        {
            "loss_scale": optadamw.DynamicLossScale(initial=4.0, growth_interval=2),
            "accumulate_steps": 3,
            "skip_nonfinite": True,
            "stats": True,
            "amsgrad": True,
            "clip_global_norm": 1.1,
            "ema_decay": 0.7,
        },
        waits=True,
        is_plain=False,
    ),
)


def is_complex(path: str, array: Any) -> bool:
    """A predicate that can be pickled: what 8 bits are not for."""
    del path
    return jnp.issubdtype(array.dtype, jnp.complexfloating)


_EIGHT = optadamw.blockwise(min_size=0, keep=is_complex)
_SIXTEEN = optadamw.stochastic("bfloat16")
_FORMS = {
    "8-bit": {"mu_dtype": _EIGHT, "nu_dtype": _EIGHT},
    "16-bit": {"mu_dtype": _SIXTEEN, "nu_dtype": _SIXTEEN},
}
_COMMITS = ("nearest", "stochastic", "kahan", "master")

STORED = tuple(
    _controlled(
        f"{form}-{commit}",
        {
            **{"commit": commit, "amsgrad": True, "ema_decay": 0.7},
            **{"ema_dtype": _SIXTEEN, "seed": 3, **options},
        },
        is_plain=form == "16-bit",  # `is_complex` is a function
        sums=("tree",) if form == "8-bit" else (),
        is_narrow=commit != "nearest",
        draws=True,
    )
    for form, options in _FORMS.items()
    for commit in _COMMITS
)
"""Every form of the moments with every way of writing the parameters."""

CUSTOM = (
    _chain(
        "custom-lookahead",
        *(_adam, _decay, _rate, lookahead(2, 0.4)),
        overwrites=True,
    ),
    _chain(
        "custom-lookahead-16-bit",
        *(_adam, _rate, lookahead(2, 0.4, _SIXTEEN)),
        overwrites=True,
        draws=True,
    ),
    _chain("custom-momentum", scale_by_momentum(0.8), _decay, _rate),
    Row(
        "custom-momentum-8-bit",
        partial(
            optadamw.skip_nonfinite,
            optadamw.chain(scale_by_momentum(0.8, _EIGHT), _rate),
        ),
        sums=("tree",),
        draws=True,
        is_plain=False,
    ),
)
"""Rules as users write them, with buffers that `State` does not name."""

ROWS = (*ATOMS, *SCHEDULE_FREE, *ADAMW, *EVERYTHING, *CONTROLLED, *STORED, *CUSTOM)
WIDE = tuple(row for row in ROWS if not row.is_narrow)
"""Those that move a tree of float32 alone; of the others `test_commit` has more."""
