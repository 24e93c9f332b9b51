"""What the options of `adamw` ask for, built from their table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from optadamw.base.errors import mistyped, speaking_of
from optadamw.base.hyperparameters import Scheduled
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.rules.rule import Rule
from optadamw.store.presets import forms
from optadamw.transforms.chain import chain
from optadamw.transforms.options import (
    ATOMS,
    DEFAULTED,
    NONFINITE,
    OF_GROUPS,
    SPIKES,
    STATISTICS,
    WRAPPERS,
    Part,
)
from optadamw.transforms.param_groups import param_groups
from optadamw.transforms.transformation import Transformation, transformation

Groups = Mapping[Any, Mapping[str, Any]] | Sequence[tuple[Any, Mapping[str, Any]]]
Options = Mapping[str, Any]
"""The arguments of `adamw` by name, all of them."""


def built(options: Options) -> Transformation:
    """The transformation that the options of `adamw` ask for.

    Raises:
      ValueError, TypeError: an option out of its range, of a wrong type, without
        effect, or in contradiction to another one.
    """
    options = _with_precision(options)
    if options["groups"] is None:
        tx = _chained(options)
    else:
        tx = _grouped(options, options["groups"])
    for part in WRAPPERS:
        tx = _made(part, options, tx) if part.is_asked(options) else tx
        _refuse_unused(part, options)
    tx = _guarded(tx, options)
    if STATISTICS.is_asked(options):
        tx = STATISTICS.make(tx, norms=options["stats"] == "norms")
    return tx


def _with_precision(options: Options) -> Options:
    """The options, with the forms that `precision` stands for if none is given."""
    names = ("mu_dtype", "nu_dtype", "ema_dtype", "commit")
    chosen = forms(options["precision"], **{name: options[name] for name in names})
    if options["ema_decay"] is None:
        chosen["ema_dtype"] = options["ema_dtype"]  # a preset's is for an average
    return {**options, **chosen}


def _chained(options: Options) -> Transformation:
    """The chain of the atoms that are asked for."""
    atoms = []
    for part in ATOMS:
        if part.is_asked(options):
            atoms.append(_made(part, options))
        else:
            _refuse_unused(part, options)
    return chain(*atoms)


def _made(part: Part, options: Options, *inner: Transformation) -> Transformation:
    """The atom or wrapper of one row, whose errors speak of `adamw`'s options."""
    arguments = {}
    for name, argument in part.arguments.items():
        value = options[name]
        if name == part.asked_by:
            value = part.read(name, value)
        if value is not None or name not in DEFAULTED:
            arguments[argument] = value
    names = {argument: name for name, argument in part.arguments.items()}
    with speaking_of(names):
        return _renamed(part.make(*inner, **arguments), names)


def _renamed(tx: Transformation, names: Mapping[str, str]) -> Transformation:
    """`tx` whose schedules, when traced, are called what `adamw` calls them."""
    composition = tx.recipe.composition

    def renamed(rule: Rule) -> Rule:
        held = {f.name: getattr(rule, f.name) for f in fields(rule)}
        changed = {
            key: replace(value, name=names[value.name])
            for key, value in held.items()
            if isinstance(value, Scheduled) and value.name in names
        }
        return replace(rule, **changed) if changed else rule

    rules = tuple(renamed(rule) for rule in composition.rules)
    if all(one is other for one, other in zip(rules, composition.rules, strict=True)):
        return tx
    return transformation(replace(composition, rules=rules), tx.recipe.call)


def _refuse_unused(part: Part, options: Options) -> None:
    """Refuse an option of a part that was not asked for, as it would do nothing."""
    if part.is_asked(options):
        return
    others = (other for other in ATOMS if not other.asked_by)
    used = {name for other in others for name in other.arguments}
    for name in part.options:
        value = options[name]
        is_given = value is not None and value is not False
        if name != part.asked_by and name not in used and is_given:
            raise ValueError(
                f"`{name}` has no effect without `{part.asked_by}`; got "
                f"{name}={value!r}. Give {part.asked_by}, {part.example}or leave it "
                "out."
            )


def _grouped(options: Options, groups: Groups) -> Transformation:
    """The chain, with some of its options replaced for some parameters."""
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
        made.append((where, _of_group(f"groups[{where!r}]", options, own)))
    return param_groups(_chained(options), made)


def _of_group(name: str, options: Options, own: Options) -> Transformation:
    for argument in own:
        if argument in OF_GROUPS:
            continue
        close = get_close_matches(str(argument), OF_GROUPS, 1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise ValueError(
            f"`{name}`: {argument!r} is no argument that concerns one parameter by "
            f"itself.{hint} Those are: {', '.join(OF_GROUPS)}."
        )
    try:
        return _chained({**options, **own})
    except (TypeError, ValueError) as error:
        raise type(error)(re.sub("^`", f"`{name}`: `", str(error))) from error


def _guarded(tx: Transformation, options: Options) -> Transformation:
    """`tx` in the guard that is asked for, or that its parts cannot do without."""
    nonfinite, spikes = options["skip_nonfinite"], options["skip_spikes"]
    policy = {argument: options[name] for name, argument in NONFINITE.arguments.items()}
    if spikes is not None and spikes is not False:
        if spikes is not True and not isinstance(spikes, Mapping):
            raise mistyped("skip_spikes", "a bool, None or a mapping", spikes)
        if nonfinite is False:
            raise ValueError(
                "`skip_spikes` skips gradients that are not finite too; got "
                "skip_nonfinite=False. Leave one of them out."
            )
        settings = {} if spikes is True else dict(spikes)
        return SPIKES.make(tx, **(policy | settings))
    if NONFINITE.is_asked(options):
        return NONFINITE.make(tx, **policy)
    needs = _needs_guard(tx, options["loss_scale"])
    if needs and nonfinite is False:
        raise ValueError(
            f"{needs} the check of skip_nonfinite; got skip_nonfinite=False. Leave it "
            "out."
        )
    asked = {name: value for name, value in policy.items() if value is not None}
    has_own = tx.recipe.composition.control.effective_guard is not None
    if needs and (asked or not has_own):
        return NONFINITE.make(tx, **policy)
    for name, value in asked.items():
        raise ValueError(
            f"`{name}` has no effect without a guard; got {name}={value!r}. Give "
            "skip_nonfinite=True, or leave it out."
        )
    return tx


def _needs_guard(tx: Transformation, loss_scale: Any) -> str:
    """The part that needs a guard, for an error; empty if none does."""
    if isinstance(loss_scale, DynamicLossScale):
        return "A dynamic `loss_scale` needs"
    if tx.recipe.composition.needs_guard:
        return "Moments in blocks of 8 bits need"
    return ""
