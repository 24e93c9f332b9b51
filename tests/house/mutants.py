"""Mutants of the numeric core, one token each, to see how many the suite notices (R8).

    python -m tests.house.mutants                     all of them (hours on two cores)
    python -m tests.house.mutants rules/adam.py       those of one file
    python -m tests.house.mutants --sample 40         a random choice, by --seed

`planted_faults` asks about thirty faults that people make; this asks about every
operator, comparison and number in the files that compute. A mutant that survives is
either equivalent (`ACCEPTED` says why) or a hole in the tests.
"""

import argparse
import ast
import concurrent.futures
import copy
import pathlib
import random
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from tests.house.planted_faults import ROOT, copy_to, run_tests

CORE = (
    "base/bounded.py",
    "base/means.py",
    "base/numerics.py",
    "commit/commit.py",
    "leaf/compute.py",
    "rules/adam.py",
    "rules/amsgrad.py",
    "rules/caution.py",
    "rules/clip.py",
    "rules/decay.py",
    "rules/ema.py",
    "rules/maximize.py",
    "rules/rate.py",
)

CONTROL = (
    "control/accumulation.py",
    "control/counters.py",
    "control/loss_scale.py",
    "control/spikes.py",
    "control/control.py",
    "walk/accumulate.py",
    "control/signals.py",
    "walk/norms.py",
    "walk/measure.py",
    "walk/decision.py",
    "walk/scalars.py",
    "walk/step.py",
    "walk/next_state.py",
)

SELECTIONS = (
    "rules/test_accuracy.py",
    "rules/test_knobs.py",
    "rules/test_field_faults.py",
    "support/test_oracle.py",
    "rules/test_order.py",
    "house/test_docs.py",
)
"""What is run against a mutant: minutes in all, stopped at the first failure."""

OF_CONTROL = (
    "control/test_calls.py",
    "laws/test_guard.py",
    "laws/test_accumulation.py",
    "control/test_loss_scale.py",
    "control/test_statistics.py",
    "control/test_refusals.py",
    "control/test_modes.py",
)
"""The tests that are run against a mutant of `CONTROL`."""

ACCEPTED: dict[str, str] = {
    # Lane "file: before -> after": why no test can see the difference.
    "walk/norms.py: self._known[index] = self._measured(index, scalars, self.scale, ())"
    "[0] -> self._known[index] = self._measured(index, scalars, self.scale, ())[1]": (
        "one norm without groups, and JAX clamps the index"
    ),
}

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


class Mutant(NamedTuple):
    """One file with one token changed."""

    path: str
    line: int
    name: str
    source: str


def mutants_of(path: str) -> Iterator[Mutant]:
    """Every mutant of one file of the package."""
    text = (ROOT / "optadamw" / path).read_text(encoding="utf-8")
    tree = ast.parse(text)
    idle = _declarations(tree)
    for index, original in enumerate(ast.walk(tree)):
        if original in idle:
            continue
        changed = copy.deepcopy(tree)
        node = list(ast.walk(changed))[index]
        before = _line(changed, node)
        if not _mutate(node):
            continue
        after = _line(changed, node)
        name = f"{path}: {before} -> {after}"
        yield Mutant(path, getattr(node, "lineno", 0), name, ast.unparse(changed))


def _declarations(tree: ast.AST) -> set[ast.AST]:
    """Annotations and decorators, which compute nothing."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts += getattr(node, "decorator_list", [])
        found.update(n for part in parts if part for n in ast.walk(part))
    return found


def _mutate(node: ast.AST) -> bool:
    """Change `node` in place, if it is of a kind that is changed."""
    match node:
        case ast.BinOp() | ast.BoolOp() if type(node.op) in _SWAPS:
            node.op = _SWAPS[type(node.op)]()
        case ast.Compare() if type(node.ops[0]) in _SWAPS:
            node.ops[0] = _SWAPS[type(node.ops[0])]()
        case ast.UnaryOp(op=ast.USub()):
            node.op = ast.UAdd()
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
        case ast.Call(func=ast.Attribute(attr="where"), args=[test, one, other]):
            node.args = [test, other, one]
        case _:
            return False
    return True


def _line(tree: ast.AST, node: ast.AST) -> str:
    """The statement around `node`, for the mutant's name."""
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
    around = [s for s in statements if any(n is node for n in ast.walk(s))]
    return ast.unparse(around[-1]).splitlines()[0] if around else ast.unparse(node)


def is_noticed(mutant: Mutant) -> bool:
    """Whether a test fails, or the package no longer imports, with the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        root = copy_to(pathlib.Path(folder))
        file = root / "optadamw" / mutant.path
        file.write_text(mutant.source, encoding="utf-8")
        tests = OF_CONTROL if mutant.path in CONTROL else SELECTIONS
        return any(run_tests(selection, root)[0] != 0 for selection in tests)


def main() -> int:
    """Try the mutants and print the share that is noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.house.mutants")
    parser.add_argument(
        "files", nargs="*", default=CORE + CONTROL, help="of the package"
    )
    parser.add_argument("--sample", type=int, help="so many, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments = parser.parse_args()
    mutants = [m for path in arguments.files for m in mutants_of(path)]
    if arguments.sample and arguments.sample < len(mutants):
        mutants = random.Random(arguments.seed).sample(mutants, arguments.sample)
    noticed = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = zip(mutants, pool.map(is_noticed, mutants), strict=True)
        for mutant, seen in results:
            noticed += seen or mutant.name in ACCEPTED
            reason = ACCEPTED.get(mutant.name, "")
            verdict = "noticed " if seen else f"SURVIVES {reason}"
            print(f"{verdict} {mutant.name}", flush=True)
    share = noticed / len(mutants)
    print(f"{noticed} of {len(mutants)} noticed or accepted: {share:.1%} (goal 95 %)")
    return 0 if share >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
