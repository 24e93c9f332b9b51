"""Optimized HLO, as text, without what changes when a function moves to another file.

The names of instructions and computations come from the names of Python functions and
from counters, and metadata hold files and lines. Two programs are the same if they
agree once all of these are gone.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

_METADATA = re.compile(
    r""",\ metadata=\{ (?: [^{}"] | "(?:\\.|[^"\\])*" | \{[^{}]*\} )* \}""", re.VERBOSE
)
_NAME = re.compile(r"%[\w.\-]+")
_MODULE = re.compile(r"^HloModule [^\s,]+")
_PARAMETER = re.compile(r"[\w.\-]+(?=: )")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?(?P<name>%[\w.\-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")


def program(text: str) -> list[str]:
    """Return the lines of a module, without metadata, tables of files, and names.

    Names are replaced by numbers in the order in which they appear.
    """
    numbers: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"%{len(numbers)}")

    return [_NAME.sub(numbered, line) for line in _lines(text)]


def _lines(text: str) -> list[str]:
    """Return the lines of the program, with names, without metadata."""
    found, is_inside = [], False
    for line in text.splitlines():
        is_head = line.endswith("{") and line.startswith(("%", "ENTRY"))
        is_inside |= is_head  # the tables of files and functions stand before
        if line.startswith("HloModule"):
            found.append(_MODULE.sub("HloModule", line))
        elif is_head:
            found.append(_PARAMETER.sub("", line))
        elif is_inside and line:
            found.append(_METADATA.sub("", line))
    return found


def opcodes(text: str) -> Counter[str]:
    """Count the instructions of a module, by opcode."""
    matches = (_INSTRUCTION.match(line) for line in _lines(text))
    found = (_OPCODE.search(f" {match['rest']}") for match in matches if match)
    return Counter(match[1] for match in found if match)


def graph(text: str) -> str:
    """Return a digest of what a module computes, whatever the order of its lines.

    An instruction's digest is that of its text, with the digests of its operands and of
    the computations that it calls, all of which stand before it, in place of their
    names. The module's is that of its last root.
    """
    digests: dict[str, str] = {}
    inside, root = "", ""

    def digest_of(match: re.Match[str]) -> str:
        return digests.get(match[0], match[0])

    for line in _lines(text):
        if match := _INSTRUCTION.match(line):
            content = _NAME.sub(digest_of, match["rest"])
            digest = hashlib.sha256(content.encode()).hexdigest()
            digests[match["name"]] = digest
            if match["root"]:
                digests[inside] = root = digest
        elif line.endswith("{") and (name := _NAME.search(line)):
            inside = name[0]
    return root


def difference(old: str, new: str) -> str | None:
    """Say how two modules differ, or return None where they are the same."""
    lines = program(old), program(new)
    if lines[0] == lines[1]:
        return None
    if lines[0][0] != lines[1][0]:
        return f"layout or aliasing: {_first(*(line[0].split(', ') for line in lines))}"
    if graph(old) == graph(new):
        return "the same instructions stand in another order"
    if changed := counts(opcodes(old), opcodes(new)):
        return f"instructions: {changed}"
    return f"as many of each instruction, but {_first(*lines)}"


def counts(old: Counter[str], new: Counter[str]) -> str:
    """Say which counts changed: `+2 add, -1 copy`, or nothing."""
    names = sorted(old.keys() | new.keys())
    return ", ".join(
        f"{new[name] - old[name]:+d} {name}" for name in names if new[name] != old[name]
    )


def _first(old: Sequence[str], new: Sequence[str]) -> str:
    """Name the first two lines that differ, and how many do."""
    pairs = [pair for pair in zip_longest(old, new, fillvalue="") if len(set(pair)) > 1]
    before, after = (line.strip()[:100] for line in pairs[0])
    return f"{len(pairs)} lines differ, the first: `{before}` is now `{after}`"
