"""Selections of parameters in the peers' words: for weight decay, for param groups."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optadamw.base.errors import mistyped
from optadamw.base.masks import Predicate, Selector
from optadamw.base.patterns import Excluded, Patterns
from optadamw.rules.rule import Rule, Stage
from optadamw.transforms.transformation import Transformation, transformation


@dataclass(frozen=True)
class LastNameMatchesNone:
    """Whether the last key of a path matches none of the expressions."""

    expressions: tuple[str, ...]

    def __call__(self, path: str, array: Any) -> bool:
        del array
        last = path.rpartition("/")[2]
        return re.search("|".join(self.expressions), last) is None


def exactly(paths: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """Expressions that match these paths and no others."""
    return tuple(re.compile(f"^{re.escape(path)}$") for path in paths)


def searched(name: str, expressions: Any) -> tuple[re.Pattern[str], ...]:
    """Compile regular expressions that are searched in paths."""
    texts = names(name, expressions)
    found = []
    for text in texts:
        try:
            found.append(re.compile(text))
        except re.error as error:
            raise ValueError(
                f"`{name}` must be made of regular expressions; got {text!r}: {error}."
            ) from None
    return tuple(found)


def names(name: str, values: Any) -> tuple[str, ...]:
    """Check a list of strings; a single string would be read letter by letter."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or not values or not all(isinstance(v, str) for v in values):
        raise mistyped(
            name,
            "a list of strings, paths of parameters such as 'dense/bias'",
            values,
            "Arrays have no identity in JAX: name them by their paths.",
        )
    return tuple(values)


def leaving_out(paths: Any, expressions: Any, *, last: bool = False) -> Selector:
    """Select all parameters except exact paths and paths that an expression matches."""
    if paths is None and expressions is None:
        raise ValueError(
            "Neither `var_list` nor `var_names` is given: nothing would be excluded."
        )
    exact = () if paths is None else exactly(names("var_list", paths))
    if expressions is None:
        expressions = ()
    elif last:
        searched("var_names", expressions)
        if exact:
            raise ValueError(
                "`var_list` and `var_names` together have no form with bug_compatible."
            )
        return Predicate(LastNameMatchesNone(names("var_names", expressions)))
    else:
        expressions = searched("var_names", expressions)
    chosen = tuple(Excluded(p) for p in (*exact, *expressions))
    given = [name for name, p in (("var_list", exact), ("var_names", expressions)) if p]
    return Patterns(chosen, " or ".join(given))


def decaying(tx: Transformation, where: Selector) -> Transformation:
    """Restrict the weight decay of `tx` to the parameters that `where` selects."""
    if not isinstance(tx, Transformation):
        raise mistyped("optimizer", "a transformation of optadamw", tx)

    def changed(rule: Rule | None) -> Any:
        if rule is None or rule.stage != Stage.DECAY:
            return rule
        return replace(rule, where=where)  # type: ignore[call-arg]

    composition = tx.recipe.composition
    if not any(rule.stage == Stage.DECAY for rule in composition.rules):
        raise ValueError(f"There is no weight decay in {tx!r} to exclude from.")
    rules = tuple(changed(rule) for rule in composition.rules)
    groups = tuple(
        replace(group, rules=tuple(changed(rule) for rule in group.rules))
        for group in composition.groups
    )
    return transformation(replace(composition, rules=rules, groups=groups))


def param_groups(
    params: Any, translated: Callable[[str, Mapping[str, Any]], dict[str, Any]]
) -> list[tuple[Any, dict[str, Any]]] | None:
    """Translate PyTorch's `params` into groups of `adamw`; None if there are none.

    Raises:
      TypeError: arrays, or anything else that is not a choice of parameters.
      ValueError: an empty list, a group without "params".
    """
    if params is None or (isinstance(params, str) and params == "*"):
        return None
    is_list = isinstance(params, list | tuple)
    if not is_list or not all(isinstance(group, Mapping) for group in params):
        raise mistyped(
            "params",
            "None for all parameters, or a list of param groups such as "
            '{"params": "*/bias", "weight_decay": 0.0}',
            params,
            "The parameters themselves are given to tx.init(params).",
        )
    if not params:
        raise ValueError("optimizer got an empty parameter list: `params` is [].")
    groups = []
    for number, group in enumerate(params):
        if "params" not in group:
            raise ValueError(
                f"`params[{number}]` has no 'params'; got {dict(group)!r}. Say which "
                'parameters they are: {"params": "*/bias", ...}.'
            )
        where = group["params"]
        if isinstance(where, list | tuple) and not where:
            raise ValueError(
                f"`params[{number}]` got an empty parameter list; a pattern such as "
                "'*/bias' says which parameters they are."
            )
        own = {name: value for name, value in group.items() if name != "params"}
        groups.append((where, translated(f"params[{number}]", own)))
    return groups
