"""From the options of `adamw` to a transformation: what reads `transforms.options`."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from optadamw.base.adjustable import Adjustable
from optadamw.base.errors import invalid, mistyped, renamed, reworded
from optadamw.base.hyperparameters import Scheduled, switch
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.transforms.chain import chain
from optadamw.transforms.freeze import freeze
from optadamw.transforms.options import (
    ATOMS,
    FREEZE,
    SEVERAL,
    SWITCH,
    WRAPPERS,
    Option,
    Part,
    group_options,
    our_words,
)
from optadamw.transforms.param_groups import param_groups
from optadamw.transforms.transformation import (
    Init,
    Recipe,
    Transformation,
    Update,
)

Groups = Mapping[Any, Mapping[str, Any]] | Sequence[tuple[Any, Mapping[str, Any]]]
Values = Mapping[str, Any]
"""The value of every option of `adamw`, by its name."""


_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_our_words(factory: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a call with an option of another library raise an error with our name of it.

    Raises:
      TypeError: a keyword is no option of `factory`.
    """
    known = inspect.signature(factory).parameters

    @functools.wraps(factory)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for name, value in kwargs.items():
            if name not in known:
                raise _unknown(factory.__name__, name, value, list(known))
        return factory(*args, **kwargs)

    return called


def _unknown(function: str, name: str, value: Any, known: list[str]) -> TypeError:
    words = our_words(name)
    near = get_close_matches(name, known, 1)
    if len(words) == 2 and isinstance(value, tuple | list) and len(value) == 2:
        pairs = zip(words, value, strict=True)
        remedy = f"Use {', '.join(f'{word}={part!r}' for word, part in pairs)}."
    elif words:
        remedy = f"Use {' and '.join(f'`{word}`' for word in words)}."
    elif near:
        remedy = f"Did you mean `{near[0]}`?"
    else:
        remedy = f"help(optadamw.{function}) lists the options."
    return TypeError(
        f"{function}() got an unexpected keyword argument '{name}' ({name}={value!r}). "
        f"{remedy}"
    )


def chained(values: Values) -> Transformation:
    """Chain the atoms that the options ask for."""
    return chain(*(_made(part, values) for part in ATOMS if is_asked(part, values)))


def grouped(values: Values, groups: Groups) -> Transformation:
    """Chain the atoms once for each group, with the group's own options.

    Raises:
      ValueError, TypeError: groups of another form, or an option that no group sets.
    """
    pairs = pairs_of(groups)
    form = "a mapping {pattern: {argument: value}}, or a list of such pairs"
    if not isinstance(pairs, list | tuple) or not pairs:
        raise mistyped("groups", form, groups, "None: no groups.")
    rest = chained(values)  # first, so that what is wrong in it names no group
    made = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise mistyped("groups", form, groups)
        where, own = pair
        name = f"groups[{where!r}]"
        if not isinstance(own, Mapping):
            raise mistyped(name, "a mapping of arguments", own)
        _check_own(name, own)
        if switch(f"{name}['{FREEZE}']", own.get(FREEZE, False)):
            _check_frozen(name, own)
            made.append((where, freeze()))
        else:
            made.append((where, _chained_for(name, _of_group(values, own))))
    return param_groups(rest, made)


def _of_group(values: Values, own: Values) -> Values:
    """Return the options of a group, without a peak that its own decay does not read.

    The other groups may need it, so the caller cannot leave it out.
    """
    if own.get("weight_decay_mode") in ("lr", "independent"):
        values = {**values, "max_learning_rate": None}
    return {**values, **own}


def pairs_of(groups: Groups) -> Sequence[tuple[Any, Mapping[str, Any]]]:
    """Return the pairs of a choice and its options of the argument `groups`."""
    return list(groups.items()) if isinstance(groups, Mapping) else groups


def _chained_for(group: str, values: Values) -> Transformation:
    with reworded(lambda message: f"`{group}`: {message}"):
        return chained(values)


def wrapped(tx: Transformation, values: Values) -> Transformation:
    """Put the wrappers that the options ask for around a chain."""
    for part in WRAPPERS:
        if is_asked(part, values):
            tx = _made(part, values, tx)
    return tx


def with_guard(values: Values, tx: Transformation) -> Values:
    """Ask for `skip_nonfinite` where 8-bit moments or a loss scale need it.

    Raises:
      ValueError: skip_nonfinite=False, where something needs it.
    """
    is_off = values["skip_nonfinite"] is False
    if values["skip_spikes"] is not None and values["skip_spikes"] is not False:
        if is_off:
            raise ValueError(
                "`skip_spikes` skips gradients that are not finite too; got "
                "skip_nonfinite=False. Leave one of them out."
            )
        # `skip_spikes` refuses what is not finite too, and a chain has one guard.
        return {**values, "skip_nonfinite": None}
    scales_itself = isinstance(values["loss_scale"], DynamicLossScale)
    has_blocks = tx.recipe.composition.needs_guard
    if is_off and (scales_itself or has_blocks):
        needs = (
            "A dynamic `loss_scale` needs"
            if scales_itself
            else "Moments in blocks of 8 bits need"
        )
        raise ValueError(
            f"{needs} the check of skip_nonfinite; got skip_nonfinite=False. Leave it "
            "out."
        )
    has_policy = any(
        values[name] is not None for name in ("on_bad_micro_step", "max_consecutive")
    )
    # A dynamic loss scale has a guard of its own unless it is told of a policy.
    needs_wrapper = has_policy if scales_itself else has_blocks
    if values["skip_nonfinite"] is None and needs_wrapper:
        return {**values, "skip_nonfinite": True}
    return values


def _check_own(name: str, own: Mapping[str, Any]) -> None:
    """Refuse options that concern more than one group, and misspelled ones."""
    legal = group_options()
    for option in own:
        if option not in legal:
            near = our_words(str(option)) or get_close_matches(str(option), legal, 1)
            meant = " and ".join(f"`{word}`" for word in near)
            hint = f" Did you mean {meant}?" if near else ""
            raise ValueError(
                f"`{name}`: {option!r} is no argument that concerns one parameter by "
                f"itself.{hint} Those are: {', '.join(legal)}."
            )


def _check_frozen(name: str, own: Mapping[str, Any]) -> None:
    """Refuse options of a frozen group, which would have no effect."""
    others = [option for option in own if option != FREEZE]
    if others:
        shown = ", ".join(f"{option}={own[option]!r}" for option in others)
        raise ValueError(
            f"`{name}`: a frozen parameter has no step that {shown} could change. "
            f"Leave {'it' if len(others) == 1 else 'them'} out, or leave out 'freeze'."
        )


def is_asked(part: Part, values: Values) -> bool:
    """Return whether the options ask for a part, whose option's form is checked."""
    asker = part.asked_by
    if asker is None:
        return True
    value = _python(values[asker.name])
    if value is None:
        return False
    if asker.argument == SWITCH:
        return bool(switch(asker.name, value))
    if asker.argument == SEVERAL:
        if not isinstance(value, bool | Mapping):
            raise mistyped(asker.name, "a bool, None or a mapping", value)
        return value is not False
    if asker.words:
        # 1 equals True, and is none of the words.
        is_word = isinstance(value, str | bool) and value in asker.words
        if not is_word and value is not False:
            raise invalid(asker.name, _listed(asker), value)
        return is_word
    return True


def _python(value: Any) -> Any:
    """Return a bool of NumPy as one of Python, and everything else as it is."""
    return bool(value) if isinstance(value, np.bool_) else value


def _listed(option: Option) -> str:
    words = [word for word in option.words if word is not True]
    *most, last = ["True", "False", "None", *map(repr, words)]
    return f"{', '.join(most)} or {last}"


def _made(part: Part, values: Values, *inner: Transformation) -> Transformation:
    """An atom, or a wrapper around `inner`, with its arguments from the options."""
    arguments: dict[str, Any] = {}
    several: Mapping[str, Any] = {}
    for option in part.options:
        value = _python(values[option.name])
        if option.argument == SEVERAL:
            several = {} if value is True else value
        elif option.argument != SWITCH and (value is not None or option.is_needed):
            value = option.words[value] if option.words else value
            if isinstance(value, Adjustable):
                value = value.named(option.name)
            arguments[option.argument] = value
    for name, value in several.items():
        if name in arguments and not _agree(arguments[name], value):
            raise ValueError(
                f"`{name}` is {arguments[name]!r}, and {value!r} in the mapping of "
                f"`{next(o.name for o in part.options if o.argument == SEVERAL)}`. "
                "Give it once."
            )
    with reworded(lambda message: renamed(message, part.names)):
        tx = part.make(*inner, **{**arguments, **several})
    return _with_names(tx, part.names)


def _agree(one: Any, other: Any) -> bool:
    """Whether two values of an option are one; what is traced cannot be compared."""
    if isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer):
        return one is other
    return one is other or bool(np.all(one == other))


def _with_names(tx: Transformation, names: Mapping[str, str]) -> Transformation:
    """Let the schedules' errors, which come when a step is traced, say `names` too."""
    composition = tx.recipe.composition
    rules = tuple(_renamed(rule, names) for rule in composition.rules)
    accumulation = composition.control.accumulation
    if accumulation is not None:
        accumulation = _renamed(accumulation, names)
    control = replace(composition.control, accumulation=accumulation)
    # Not by `transformation`: a name has no part in equality, and the transformation
    # that it keeps for all equal ones has the names of the first.
    recipe = Recipe(replace(composition, rules=rules, control=control))
    return Transformation(Init(recipe), Update(recipe))


def _renamed(record: Any, names: Mapping[str, str]) -> Any:
    """A rule or a control with its schedules renamed."""
    schedules = {
        f.name: value
        for f in fields(record)
        if isinstance(value := getattr(record, f.name), Scheduled)
    }
    changed = {
        key: replace(schedule, name=names.get(schedule.name, schedule.name))
        for key, schedule in schedules.items()
    }
    return replace(record, **changed) if changed else record
