"""Read the text of a compiled XLA module: computations, instructions, arrays."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_BITS |= {f"{sign}{bits}": bits for sign in "su" for bits in (2, 4, 8, 16, 32, 64)}
_BITS |= {name: 8 for name in ("f8e4m3fn", "f8e5m2", "f8e4m3b11fnuz", "f8e8m0fnu")}
_ARRAY = re.compile(rf"\b({'|'.join(_BITS)})\[([\d,]*)\](?:\{{([^}}]*)\}})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"([\w\-]+)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation)="
    r"%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_HOST_SPACE = "5"


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in the text of a module.

    Attributes:
        dtype: XLA's name of the dtype, such as "f32".
        shape: The lengths of its axes.
        content: The bytes of its elements.
        size: Its bytes in memory, with the padding of a TPU's tiles.
        in_hbm: Whether it is in the device's main memory; otherwise it is in a memory
            that belongs to a core (`S(1)` in a layout), which costs no bandwidth.
    """

    dtype: str
    shape: tuple[int, ...]
    content: int
    size: int
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: Its name.
        opcode: Its operation, such as "fusion".
        results: The arrays that it makes, those of a tuple in order.
        operands: The names of its operands.
        called: The computations that it calls, by the word before them.
        channel: The channel of a collective.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    called: Mapping[str, tuple[str, ...]]
    channel: str | None


@dataclasses.dataclass(frozen=True)
class Module:
    """The computations of a compiled module, by name, and the name of the entry."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str


def parse(text: str) -> Module:
    """Reads the text of a compiled module.

    Raises:
        ValueError: It has no entry computation, or a line is not understood.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = head[2]
                computations[current] = []
                entry = current if head[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            computations[current].append(_instruction(line))
    if entry is None:
        raise ValueError("the text has no ENTRY computation: no compiled module")
    return Module({name: tuple(found) for name, found in computations.items()}, entry)


def arrays(text: str) -> Iterator[Array]:
    """Reads the arrays that a type names, such as `(f32[8,128]{1,0}, s32[])`."""
    for dtype, lengths, layout in _ARRAY.findall(text):
        shape = tuple(int(n) for n in lengths.split(",") if n)
        counts = math.prod(shape), _padded(shape, layout)
        content, size = (-(-count * _BITS[dtype] // 8) for count in counts)
        space = re.search(r"S\((\d+)\)", layout)
        in_hbm = space is None or space[1] == _HOST_SPACE
        yield Array(dtype, shape, content, size, in_hbm)


def _instruction(line: str) -> Instruction:
    match = _INSTRUCTION.match(line)
    if match is None:
        raise ValueError(f"no instruction: {line.strip()[:100]!r}")
    made, rest = _split(match["rest"])
    opcode = _OPCODE.match(rest)
    if opcode is None:
        raise ValueError(f"no opcode: {line.strip()[:100]!r}")
    end = _closing(rest, opcode.end() - 1)
    inside, after = rest[opcode.end() : end], rest[end:]
    names: tuple[str, ...] = ()
    if opcode[1] not in ("constant", "parameter"):
        names = tuple(re.findall(r"%?([A-Za-z_][\w.\-]*)", _COMMENT.sub("", inside)))
    called: dict[str, tuple[str, ...]] = {}
    for word, name in _CALLED.findall(after):
        called[word] = (*called.get(word, ()), name)
    if branches := _BRANCHES.search(after):
        called["branches"] = tuple(re.findall(r"[\w.\-]+", branches[1]))
    channel = _CHANNEL.search(after)
    return Instruction(
        match["name"],
        opcode[1],
        tuple(arrays(made)),
        names,
        called,
        channel and channel[1],
    )


def _split(rest: str) -> tuple[str, str]:
    """Splits `TYPE opcode(...)`; a tuple's type has blanks in it."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    return rest[:end], rest[end:].lstrip()


def _closing(text: str, start: int) -> int:
    """Finds the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"a parenthesis is not closed: {text[:100]!r}")


def _padded(shape: tuple[int, ...], layout: str) -> int:
    """Counts the elements of an array with the padding of its tiles.

    The layout `1,0:T(8,128)` names the axes from the fastest to the slowest, and the
    lengths of a tile from the slowest to the fastest.
    """
    match = re.match(r"([\d,]*):T\(([\d,]+)\)", layout)
    if match is None or not shape:
        return math.prod(shape)
    lengths = [shape[int(axis)] for axis in match[1].split(",") if axis]
    tile = [int(n) for n in match[2].split(",")][::-1]
    lengths += [1] * (len(tile) - len(lengths))
    tile += [1] * (len(lengths) - len(tile))
    return math.prod(-(-n // t) * t for n, t in zip(lengths, tile, strict=True))
