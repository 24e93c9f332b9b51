"""The list of variables in which Keras keeps an optimizer.

    iteration, [learning_rate,] [step_counter, dynamic_scale, iteration,
    [learning_rate,]] averages, accumulators, (momentum, velocity) of each, maxima

Positions alone say what a variable is; only the count of all of them can be checked,
so what the optimizer was made with must be known.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optadamw.base.errors import at_leaf, invalid, mistyped
from optadamw.control.loss_scale import LARGEST, SMALLEST
from optadamw.dialects.states.arrays import to_numpy, whole
from optadamw.dialects.states.contents import Row
from optadamw.dialects.states.variable_names import SUFFIXES, refuse_other, told_apart


class Variable(NamedTuple):
    """One variable of an optimizer, and its name; None without."""

    name: str | None
    value: Any


class Options(NamedTuple):
    """The options of the optimizer; None for one that is not known."""

    amsgrad: bool | None = None
    use_ema: bool | None = None
    accumulates: bool | None = None
    scales: bool | None = None


class Sorted(NamedTuple):
    """The variables, told apart."""

    iteration: int
    rows: list[Row]
    loss_scale: float | None
    growth: int | None


def listed(title: str, saved: Any) -> list[Variable]:
    """List the variables in their order, from a list, a store or a mapping.

    Raises:
      TypeError, ValueError: another kind of object; keys of a store that are missing.
    """
    if isinstance(saved, Mapping):
        values = by_number(saved)
        if values is not None:
            return [Variable(None, value) for value in values]
        return [Variable(str(name), value) for name, value in saved.items()]
    if isinstance(saved, Sequence) and not isinstance(saved, str):
        return [Variable(_name_of(value), value) for value in saved]
    raise mistyped(
        "saved",
        f"the variables of an optimizer of {title}: a list, or a mapping from their "
        "numbers or paths",
        type(saved),
    )


_NUMBER = re.compile(r"(arr_)?([0-9]{1,9})")
"""A key that is a number; `np.savez(file, *weights)` calls its arrays "arr_0" ..."""


def by_number(saved: Mapping[Any, Any]) -> list[Any] | None:
    """Return the values in the order of their keys; None if the keys are no numbers.

    The order of a file is another one: "10" comes before "2".

    Raises:
      ValueError: a number that is missing or there twice.
    """
    found = [_NUMBER.fullmatch(str(key)) for key in saved]
    if len({match[1] if match else "" for match in found}) > 1 or None in found:
        return None
    values = {
        int(match[2]): value
        for match, value in zip(found, saved.values(), strict=True)
        if match
    }
    if sorted(values) != list(range(len(saved))):
        raise invalid(
            "saved",
            f"a store with the keys '0' to '{len(saved) - 1}'",
            sorted(map(str, saved)),
            "The file is damaged.",
        )
    return [values[i] for i in range(len(values))]


def _name_of(value: Any) -> str | None:
    name = getattr(value, "path", None) or getattr(value, "name", None)
    return name if isinstance(name, str) else None


def sorted_out(
    title: str,
    variables: Sequence[Variable],
    count: int,
    options: Options,
) -> Sorted:
    """Tell the variables apart; `count` is the number of parameters here.

    Raises:
      ValueError: another number of variables than these options make.
    """
    names = [variable.name for variable in variables]
    for name in names:
        refuse_other(title, name or "")
    if variables and all(name is not None for name in names):
        options = _told(options, [name or "" for name in names])
    total, blocks = len(variables), _blocks(options)
    head = total - blocks * count
    heads = [5, 6] if options.scales else [1, 2]
    if options.scales is None:
        heads = [1, 2, 5, 6] if is_scaled(variables) else [1, 2]
    if head not in heads:
        raise ValueError(
            f"The saved state has {total} variables, and {title}'s AdamW with "
            f"{_spelled(options)} has {blocks} for each parameter and "
            f"{' or '.join(map(str, heads))} beside; `params` has {count}. "
            f"{_advice(total, count)}"
        )
    values = [variable.value for variable in variables]
    iteration = _count("iteration", values[head - 1 if head in (1, 5) else head - 2])
    places = _places(count, options)
    _check_names(title, variables, head, places)
    rows = _rows(variables[head:], places)
    if head < 5:
        return Sorted(iteration, rows, None, None)
    growth = _count("step_counter", values[2])
    loss_scale = float(to_numpy("dynamic_scale", values[3]).reshape(-1)[0])
    if not SMALLEST <= loss_scale <= LARGEST:
        raise at_leaf(
            "dynamic_scale",
            f"it must be in [2**-126, 2**126]; got {loss_scale!r}.",
            "Leave nothing of this state: the run was broken when it was saved.",
        )
    return Sorted(iteration, rows, loss_scale, growth)


def is_scaled(variables: Sequence[Variable]) -> bool:
    """Whether a LossScaleOptimizer's come first: count, rate, count, scale, count."""
    if len(variables) < 5:
        return False
    arrays = [to_numpy("a variable", variable.value) for variable in variables[:5]]
    kinds = [array.dtype.kind if array.shape == () else "" for array in arrays]
    return [kind in "iu" and kind != "" for kind in kinds] == [1, 0, 1, 0, 1]


def _count(name: str, value: Any) -> int:
    """Return a counter; one that is no integer is another variable."""
    array = to_numpy(name, value)
    if array.dtype.kind not in "iu":
        raise at_leaf(
            name,
            f"it must be an integer; got {array.dtype}{list(array.shape)}.",
            "The saved state has other variables, or another order, than was said.",
        )
    return whole(name, array)


def _told(options: Options, names: Sequence[str]) -> Options:
    """Add the options that the names tell to those that are given."""

    def has(field: str) -> bool:
        return any(told_apart(name)[0] == field for name in names)

    scales = any(name.rpartition("/")[2] == "dynamic_scale" for name in names)
    told = Options(has("nu_max"), has("ema"), has("accumulator"), scales)
    for option, said, found in zip(Options._fields, options, told, strict=True):
        if said is not None and said != found:
            raise ValueError(
                f"`{option}` is {said}, and by the names of the saved variables it is "
                f"{found}. They differ in this option."
            )
    return told


def _stem(name: str | None) -> str | None:
    return None if name is None else told_apart(name)[1]


def _check_names(
    title: str,
    variables: Sequence[Variable],
    head: int,
    places: Sequence[Mapping[str, int]],
) -> None:
    """Refuse variables whose names, if all have one, say that they are others."""
    names = [variable.name for variable in variables if variable.name is not None]
    if len(names) < len(variables):
        return
    fields: list[str | None] = [None] * len(variables)
    for row in places:
        for field, place in row.items():
            fields[head + place] = field
    for name, wanted in zip(names, fields, strict=True):
        if told_apart(name)[0] != wanted:
            ends = {held: f"the {end}" for end, held in SUFFIXES.items()}
            due = ends[wanted] if wanted else "a counter or the rate"
            raise ValueError(
                f"'{name}' stands in the place of {due} among the saved "
                f"variables of {title}'s AdamW. Pass those of AdamW or Adam, in the "
                "order of optimizer.variables; jax.tree.map and many files sort names."
            )


def _places(count: int, options: Options) -> list[dict[str, int]]:
    """Return for each parameter the places of its variables behind the head."""
    where: list[dict[str, int]] = [{} for _ in range(count)]
    at = 0
    if options.use_ema:
        for i in range(count):
            where[i]["ema"] = at + i
        at += count
    if options.accumulates:
        for i in range(count):
            where[i]["accumulator"] = at + i
        at += count
    for i in range(count):
        where[i]["mu"], where[i]["nu"] = at + 2 * i, at + 2 * i + 1
    at += 2 * count
    if options.amsgrad:
        for i in range(count):
            where[i]["nu_max"] = at + i
    return where


def _rows(
    variables: Sequence[Variable], where: Sequence[Mapping[str, int]]
) -> list[Row]:
    return [
        Row(
            label=f"variable {i}" + _shown(_stem(variables[places["mu"]].name)),
            name=_stem(variables[places["mu"]].name),
            buffers={field: variables[k].value for field, k in places.items()},
        )
        for i, places in enumerate(where)
    ]


def _shown(name: str | None) -> str:
    return "" if name is None else f" ('{name}')"


def _blocks(options: Options) -> int:
    extra = (options.use_ema, options.accumulates, options.amsgrad)
    return 2 + sum(bool(option) for option in extra)


def _spelled(options: Options) -> str:
    names = {
        "amsgrad": options.amsgrad,
        "use_ema": options.use_ema,
        "gradient_accumulation_steps": options.accumulates,
    }
    chosen = [name for name, is_on in names.items() if is_on]
    return ", ".join(chosen) or "none of amsgrad, use_ema, gradient_accumulation_steps"


def _advice(total: int, count: int) -> str:
    """Say which options would make this number of variables."""
    numbers = set()
    for head in (1, 2, 5, 6):
        blocks, rest = divmod(total - head, count)
        if rest == 0 and 2 <= blocks <= 5:
            numbers.add(blocks - 2)
    if not numbers:
        return "Pass the parameters that it was built with."
    return (
        f"It would be that of {' or '.join(map(str, sorted(numbers)))} of the three "
        "options: say which with amsgrad=, use_ema=, gradient_accumulation_steps=, or "
        "pass `tx`."
    )
