"""The options of `adamw`: one table, which says once what each of them asks for.

A row is an atom or a wrapper. It names the option that asks for it, and for each of
its arguments the option that gives it. `adamw`, its parameter groups, its errors,
`describe` and docs/api.md read this table; a new option is a row here, a word in the
signature of `adamw` and a line in its docstring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import switched
from optadamw.transforms.add_decoupled_weight_decay import add_decoupled_weight_decay
from optadamw.transforms.amsgrad_max import amsgrad_max
from optadamw.transforms.cautious import cautious
from optadamw.transforms.chain import chain
from optadamw.transforms.clip_by_global_norm import clip_by_global_norm
from optadamw.transforms.clip_by_norm import clip_by_norm
from optadamw.transforms.clip_by_value import clip_by_value
from optadamw.transforms.ema_params import ema_params
from optadamw.transforms.maximize import maximize
from optadamw.transforms.multi_steps import multi_steps
from optadamw.transforms.scale_by_adam import scale_by_adam
from optadamw.transforms.scale_by_learning_rate import scale_by_learning_rate
from optadamw.transforms.skip_nonfinite import skip_nonfinite
from optadamw.transforms.skip_spikes import skip_spikes
from optadamw.transforms.with_commit import with_commit
from optadamw.transforms.with_loss_scale import with_loss_scale
from optadamw.transforms.with_seed import with_seed
from optadamw.transforms.with_stats import with_stats


def _given(name: str, value: Any) -> Any:
    del name
    return value


def _switch(name: str, value: Any) -> Any:
    return True if switched(name, value) else None


def _maximum(name: str, value: Any) -> Any:
    if value is None or value is False:
        return None
    if value is True:
        return "raw"
    if not isinstance(value, str) or value not in ("raw", "corrected"):
        raise invalid(name, "True, False, None, 'raw' or 'corrected'", value)
    return value


def _norms(name: str, value: Any) -> Any:
    if value is None or value is False:
        return None
    if value is not True and value != "norms":
        raise invalid(name, "True, False, None or 'norms'", value)
    return value


@dataclass(frozen=True)
class Part:
    """One row: an atom or a wrapper of `adamw`."""

    make: Callable[..., Any]
    arguments: Mapping[str, str] = field(default_factory=dict)
    """For each option the argument of `make` that it gives."""
    asked_by: str = ""
    """The option without which the part is left out; empty: it is always there."""
    read: Callable[[str, Any], Any] = _given
    """Turns the value of that option into an argument; None: it was not asked for."""
    example: str = ""
    """A value of that option, for errors."""
    is_common: bool = False
    """Whether it concerns all parameters together, so that no group can change it."""

    def is_asked(self, options: Mapping[str, Any]) -> bool:
        """Whether the part belongs to what these options ask for."""
        if not self.asked_by:
            return True
        return self.read(self.asked_by, options[self.asked_by]) is not None

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its options."""
        own = (self.asked_by,) if self.asked_by else ()
        return tuple(dict.fromkeys((*own, *self.arguments)))


ATOMS = (
    Part(maximize, asked_by="maximize", read=_switch),
    Part(clip_by_value, {"clip_value": "limit"}, asked_by="clip_value"),
    Part(clip_by_norm, {"clip_norm": "limit"}, asked_by="clip_norm"),
    Part(
        clip_by_global_norm,
        {"clip_global_norm": "limit", "clip_eps": "eps"},
        asked_by="clip_global_norm",
        is_common=True,
    ),
    Part(
        scale_by_adam,
        {
            "b1": "b1",
            "b2": "b2",
            "eps": "eps",
            "eps_root": "eps_root",
            "mu_dtype": "mu_dtype",
            "nu_dtype": "nu_dtype",
            "nesterov": "nesterov",
            "bias_correction": "bias_correction",
            "eps_mode": "eps_mode",
        },
    ),
    Part(
        amsgrad_max,
        {"amsgrad": "kind", "nu_dtype": "dtype"},
        asked_by="amsgrad",
        read=_maximum,
    ),
    Part(cautious, asked_by="caution", read=_switch),
    Part(
        add_decoupled_weight_decay,
        {
            "weight_decay": "weight_decay",
            "mask": "mask",
            "weight_decay_mode": "mode",
            "max_learning_rate": "max_learning_rate",
        },
    ),
    Part(scale_by_learning_rate, {"learning_rate": "learning_rate"}),
    Part(
        ema_params,
        {
            "ema_decay": "decay",
            "ema_overwrite_every": "overwrite_every",
            "ema_debias": "debias",
            "ema_warmup": "warmup",
            "ema_dtype": "dtype",
        },
        asked_by="ema_decay",
        example="for example 0.999, ",
        is_common=True,
    ),
)
"""The atoms of the chain, in their order."""

WRAPPERS = (
    Part(chain, {"update_dtype": "update_dtype"}, asked_by="update_dtype"),
    Part(with_commit, {"commit": "commit"}, asked_by="commit"),
    Part(with_seed, {"seed": "seed"}, asked_by="seed"),
    Part(
        multi_steps,
        {"accumulate_steps": "every", "accumulator_dtype": "dtype"},
        asked_by="accumulate_steps",
    ),
    Part(with_loss_scale, {"loss_scale": "loss_scale"}, asked_by="loss_scale"),
)
"""The wrappers around the chain, the innermost first; guard and statistics follow."""

_POLICY = {
    "on_bad_micro_step": "on_bad_micro_step",
    "max_consecutive": "max_consecutive",
}
NONFINITE = Part(skip_nonfinite, _POLICY, asked_by="skip_nonfinite", read=_switch)
SPIKES = Part(skip_spikes, _POLICY, asked_by="skip_spikes")
"""The two guards, of which a step has one; 8-bit moments bring the first."""

STATISTICS = Part(with_stats, {}, asked_by="stats", read=_norms)

PARTS = (*ATOMS, *WRAPPERS, NONFINITE, SPIKES, STATISTICS)

FORMS = ("mu_dtype", "nu_dtype")
"""The forms of the state, which all parameters have in common."""

WHOLE = ("precision", "groups")
"""Options that stand for others, or for other values of them."""

DEFAULTED = (
    "nesterov",
    "bias_correction",
    "eps_mode",
    "clip_eps",
    "weight_decay_mode",
    "ema_debias",
    "ema_warmup",
)
"""Options whose None is the default of the atom.

Another None reaches the atom, which takes or refuses it: `b1=None` is an error.
"""

OF_GROUPS = tuple(
    name
    for part in ATOMS
    if not part.is_common
    for name in part.options
    if name not in FORMS
)
"""The options that a group of parameters may have of its own."""
