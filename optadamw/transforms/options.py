"""The arguments of `adamw` that concern its rules, and the chain that they ask for.

Apart from `adamw`, so that each group of parameters is the same arguments with some of
them replaced, checked by the same code under the same names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, get_args

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import (
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Interval,
    every_so_many,
    hyperparameter,
    switched,
)
from optadamw.rules.adam import EpsMode
from optadamw.rules.decay import DecayMode
from optadamw.rules.ema import LEGAL
from optadamw.store.formats import average
from optadamw.transforms.add_decoupled_weight_decay import add_decoupled_weight_decay
from optadamw.transforms.amsgrad_max import amsgrad_max
from optadamw.transforms.cautious import cautious
from optadamw.transforms.chain import chain
from optadamw.transforms.clip_by_global_norm import clip_by_global_norm
from optadamw.transforms.clip_by_norm import clip_by_norm
from optadamw.transforms.clip_by_value import clip_by_value
from optadamw.transforms.ema_params import ema_params
from optadamw.transforms.maximize import maximize
from optadamw.transforms.param_groups import param_groups
from optadamw.transforms.scale_by_adam import scale_by_adam
from optadamw.transforms.scale_by_learning_rate import scale_by_learning_rate
from optadamw.transforms.transformation import Transformation

Groups = Mapping[Any, Mapping[str, Any]] | Sequence[tuple[Any, Mapping[str, Any]]]

_COMMON = (
    "mu_dtype",
    "nu_dtype",
    "ema_dtype",
    "clip_global_norm",
    "clip_eps",
    "ema_decay",
    "ema_overwrite_every",
    "ema_debias",
    "ema_warmup",
)
"""What all parameters have in common: one norm, one form of the state."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """As `adamw` got them; its docstring says what they mean."""

    learning_rate: Any
    b1: Any
    b2: Any
    eps: Any
    eps_root: Any
    mu_dtype: Any
    nu_dtype: Any
    weight_decay: Any
    mask: Any
    nesterov: Any
    amsgrad: Any
    bias_correction: Any
    eps_mode: Any
    clip_value: Any
    clip_norm: Any
    clip_global_norm: Any
    clip_eps: Any
    ema_decay: Any
    ema_overwrite_every: Any
    ema_debias: Any
    ema_warmup: Any
    ema_dtype: Any
    weight_decay_mode: Any
    max_learning_rate: Any
    maximize: Any
    caution: Any

    def chained(self) -> Transformation:
        """The chain of the atoms that are asked for."""
        return chain(
            *([maximize()] if switched("maximize", self.maximize) else []),
            *self._clips(),
            self._adam(),
            *_maximum(self.amsgrad, self.nu_dtype),
            *([cautious()] if switched("caution", self.caution) else []),
            add_decoupled_weight_decay(
                self.weight_decay,
                self.mask,
                mode=_choice(
                    "weight_decay_mode", self.weight_decay_mode, get_args(DecayMode)
                ),
                max_learning_rate=self.max_learning_rate,
            ),
            scale_by_learning_rate(self.learning_rate),
            *self._average(),
        )

    def grouped(self, groups: Groups) -> Transformation:
        """The chain, with some of its numbers replaced for some parameters."""
        pairs = list(groups.items()) if isinstance(groups, Mapping) else groups
        form = "a mapping {pattern: {argument: value}}, or a list of such pairs"
        if not isinstance(pairs, list | tuple) or not pairs:
            raise mistyped("groups", form, groups, "None: no groups.")
        made = []
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise mistyped("groups", form, groups)
            where, own = pair
            if not isinstance(own, Mapping):
                raise mistyped(f"groups[{where!r}]", "a mapping of arguments", own)
            made.append((where, self._with(f"groups[{where!r}]", own)))
        return param_groups(self.chained(), made)

    def _with(self, name: str, own: Mapping[str, Any]) -> Transformation:
        legal = [f.name for f in fields(self) if f.name not in _COMMON]
        for argument in own:
            if argument in legal:
                continue
            near = get_close_matches(str(argument), legal, 1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(
                f"`{name}`: {argument!r} is no argument that concerns one parameter by "
                f"itself.{hint} Those are: {', '.join(legal)}."
            )
        try:
            return replace(self, **own).chained()
        except (TypeError, ValueError) as error:
            raise type(error)(re.sub("^`", f"`{name}`: `", str(error))) from error

    def _adam(self) -> Transformation:
        correction, nesterov = self.bias_correction, self.nesterov
        return scale_by_adam(
            self.b1,
            self.b2,
            self.eps,
            self.eps_root,
            self.mu_dtype,
            nu_dtype=self.nu_dtype,
            nesterov=False if nesterov is None else nesterov,
            bias_correction=True if correction is None else correction,
            eps_mode=_choice("eps_mode", self.eps_mode, get_args(EpsMode)),
        )

    def _clips(self) -> list[Transformation]:
        clips = []
        if self.clip_value is not None:
            clips.append(clip_by_value(_limit("clip_value", self.clip_value)))
        if self.clip_norm is not None:
            clips.append(clip_by_norm(_limit("clip_norm", self.clip_norm)))
        eps = self.clip_eps
        if self.clip_global_norm is not None:
            limit = _limit("clip_global_norm", self.clip_global_norm)
            eps = _checked("clip_eps", 0.0 if eps is None else eps, NON_NEGATIVE)
            clips.append(clip_by_global_norm(limit, eps=eps))
        elif eps is not None:
            raise ValueError(
                f"`clip_eps` has no effect without `clip_global_norm`; got {eps!r}. "
                "Give clip_global_norm, or leave it out."
            )
        return clips

    def _average(self) -> list[Transformation]:
        every, debias, warmup = (
            self.ema_overwrite_every,
            self.ema_debias,
            self.ema_warmup,
        )
        for name, value in (
            ("ema_overwrite_every", every),
            ("ema_debias", debias),
            ("ema_warmup", warmup),
            ("ema_dtype", self.ema_dtype),
        ):
            asked = value is not None and value is not False
            if asked and self.ema_decay is None:
                raise ValueError(
                    f"`{name}` has no effect without `ema_decay`; got {name}={value!r}."
                    " Give ema_decay, for example 0.999, or leave it out."
                )
        debias, warmup = switched("ema_debias", debias), switched("ema_warmup", warmup)
        if debias and warmup:
            raise ValueError(
                "`ema_debias` and `ema_warmup` are two answers to the same question; "
                "got both as True. Choose one."
            )
        if self.ema_decay is None:
            return []
        if every is not None:
            every = every_so_many("ema_overwrite_every", every)
        average("ema_dtype", self.ema_dtype, LEGAL)  # under adamw's name for it
        return [
            ema_params(
                _checked("ema_decay", self.ema_decay, FRACTION),
                overwrite_every=every,
                debias=debias,
                warmup=warmup,
                dtype=self.ema_dtype,
            )
        ]


def _checked(name: str, value: Any, legal: Interval, remedy: str = "") -> Any:
    """Checked under adamw's name for it; the atom takes it as it is."""
    return hyperparameter(name, value, legal, remedy)


def _limit(name: str, limit: Any) -> Any:
    remedy = "Leave it out (None) to switch it off."
    return _checked(name, limit, POSITIVE, remedy)


def _maximum(amsgrad: Any, dtype: Any) -> list[Transformation]:
    if amsgrad is None or amsgrad is False:
        return []
    if amsgrad is True:
        amsgrad = "raw"
    if not isinstance(amsgrad, str) or amsgrad not in ("raw", "corrected"):
        raise invalid("amsgrad", "True, False, None, 'raw' or 'corrected'", amsgrad)
    return [amsgrad_max(amsgrad, dtype=dtype)]  # type: ignore[arg-type]


def _choice(name: str, value: Any, legal: tuple[str, ...]) -> Any:
    if value is None:
        return legal[0]
    if not isinstance(value, str) or value not in legal:
        raise invalid(name, f"one of {', '.join(map(repr, legal))}, or None", value)
    return value
