"""A deterministic covering array: every legal triple of options in few rows.

Two options that are right alone and wrong together are found by testing pairs; three
by triples. Testing every combination of the optimizer's factors would take over a
million rows, every triple a few hundred (Kuhn, Wallace and Gallo, Software Fault
Interactions, IEEE TSE 2004, found 90 % of faults to need no more than three).
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence

Row = dict[str, str]
Choice = tuple[str, str]
Triple = frozenset[Choice]


def legal_triples(
    factors: Mapping[str, Sequence[str]], legal: Callable[[Row], bool]
) -> set[Triple]:
    """Return each choice of values for three factors that `legal` does not refuse.

    `legal` gets rows with some factors absent and refuses those that no completion can
    make legal; constraints here involve two factors, so a legal triple has one.
    """
    return {
        frozenset(zip(names, values, strict=True))
        for names in itertools.combinations(factors, 3)
        for values in itertools.product(*(factors[name] for name in names))
        if legal(dict(zip(names, values, strict=True)))
    }


def triples_of(row: Row) -> set[Triple]:
    """Return the triples that a row covers."""
    return {frozenset(choices) for choices in itertools.combinations(row.items(), 3)}


def covering_array(
    factors: Mapping[str, Sequence[str]], legal: Callable[[Row], bool], seed: int = 0
) -> list[Row]:
    """Return rows that together cover every legal triple, greedily.

    Each row starts from a triple that is still missing and gives every other factor the
    value that covers most missing triples with what the row already holds.
    """
    generator = random.Random(seed)
    missing = legal_triples(factors, legal)
    rows = []
    # Sorted: the order of a set of frozensets of strings changes with the hash seed.
    for start in sorted(missing, key=sorted):
        if start not in missing:
            continue
        row = dict(sorted(start))
        others = [name for name in factors if name not in row]
        generator.shuffle(others)
        for name in others:
            row[name] = _best_value(name, factors[name], row, missing, legal)
        missing -= triples_of(row)
        rows.append({name: row[name] for name in factors})
    return rows


def _best_value(
    name: str,
    values: Sequence[str],
    row: Row,
    missing: set[Triple],
    legal: Callable[[Row], bool],
) -> str:
    pairs = list(itertools.combinations(row.items(), 2))

    def gain(value: str) -> int:
        return sum(frozenset((*pair, (name, value))) in missing for pair in pairs)

    return max((v for v in values if legal(row | {name: v})), key=gain)
