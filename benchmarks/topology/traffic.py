"""The bytes that a compiled module moves between main memory and cores."""

import dataclasses
from collections import Counter
from collections.abc import Iterator

from benchmarks.topology.modules import Array, Instruction, Module

# Names, views and control: they touch no element.
_FREE = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency", "iota", "domain"),
}
_COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "ragged-all-to-all", "collective-broadcast"),
)
# A copy of a number between memories is none of an array.
_BIG = 1 << 14


@dataclasses.dataclass
class Traffic:
    """Bytes that a module's instructions read and write in the device's main memory.

    Each instruction that is scheduled reads its operands once and writes its results
    once; what stays inside a fusion or in the memory of a core is not counted.

    Attributes:
        least: Bytes, with the branch of each conditional that moves the fewest.
        most: Bytes, with the branch that moves the most.
        in_loops: Bytes of `least` inside of loops, each of which is counted once: the
            step of a guard or of a window is a loop of at most one turn.
        fusions: Number of fused kernels.
        copies: Number of instructions that only copy an array inside of main memory.
        loops: Number of loops.
        branches: Number of conditionals.
        collectives: How many there are of each kind.
        collective_bytes: The bytes of their results on each device.
    """

    least: int = 0
    most: int = 0
    in_loops: int = 0
    fusions: int = 0
    copies: int = 0
    loops: int = 0
    branches: int = 0
    collectives: Counter[str] = dataclasses.field(default_factory=Counter)
    collective_bytes: Counter[str] = dataclasses.field(default_factory=Counter)


def of(module: Module) -> Traffic:
    """Adds up what a module moves."""
    return _Reader(module).computation(module.entry)


class _Reader:
    """Adds up computations; a channel is one collective, wherever it stands."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._channels: set[tuple[str, str]] = set()

    def computation(self, name: str) -> Traffic:
        found = Traffic()
        instructions = self._module.computations[name]
        made = {i.name: i.results for i in instructions}
        for instruction in instructions:
            opcode = instruction.opcode
            if opcode == "while":
                self._loop(found, instruction)
            elif opcode == "conditional":
                self._conditional(found, instruction)
            elif opcode == "call":
                for called in instruction.called.get("to_apply", ()):
                    _add(found, self.computation(called))
            elif opcode in _FREE or opcode.endswith("-done"):
                continue
            elif collective := self._collective(instruction):
                self._communicate(found, *collective)
            else:
                self._move(found, instruction, made)
        return found

    def _loop(self, found: Traffic, instruction: Instruction) -> None:
        found.loops += 1
        for body in instruction.called["body"]:
            inside = self.computation(body)
            inside.in_loops = inside.least
            _add(found, inside)

    def _conditional(self, found: Traffic, instruction: Instruction) -> None:
        found.branches += 1
        words = ("branches", "true_computation", "false_computation")
        names = [n for word in words for n in instruction.called.get(word, ())]
        inside = [self.computation(name) for name in names]
        least = min(inside, key=lambda branch: branch.least)
        most = max(branch.most for branch in inside)
        for branch in inside:
            if branch is not least:
                branch.least = branch.in_loops = 0
            branch.most = 0
            _add(found, branch)
        found.most += most

    def _collective(
        self, instruction: Instruction
    ) -> tuple[str, str | None, tuple[Array, ...]] | None:
        """Names the kind of a collective, its channel and its results."""
        name, results = instruction.opcode.removesuffix("-start"), instruction.results
        if name in _COLLECTIVES:
            if name != instruction.opcode and len(results) > 1:
                # An asynchronous collective lists its operand beside its result.
                pick = min if name == "reduce-scatter" else max
                results = (pick(results, key=lambda array: array.size),)
            return name, instruction.channel, results
        if name in ("fusion", "async"):
            for called in instruction.called.get("calls", ()):
                for inner in self._module.computations.get(called, ()):
                    if inner.opcode not in _COLLECTIVES:
                        continue
                    # On a TPU a reduce-scatter is a fusion around an all-reduce, and
                    # several of them can have the channel of one.
                    if "all-reduce-scatter" in called:
                        return "reduce-scatter", instruction.channel, results
                    # A gather that overlaps several kernels is in each of them.
                    channel = instruction.channel or inner.channel
                    return inner.opcode, channel, inner.results
        return None

    def _communicate(
        self,
        found: Traffic,
        kind: str,
        channel: str | None,
        results: tuple[Array, ...],
    ) -> None:
        if channel is not None:
            key = kind, channel
            if key in self._channels:
                return
            self._channels.add(key)
        found.collectives[kind] += 1
        found.collective_bytes[kind] += sum(array.content for array in results)

    def _move(
        self,
        found: Traffic,
        instruction: Instruction,
        made: dict[str, tuple[Array, ...]],
    ) -> None:
        opcode, results = instruction.opcode, instruction.results
        if opcode == "copy-start":  # (destination, source, context)
            ends, size = results[:2], min(array.size for array in results[:2])
        elif opcode in ("slice-start", "async-start") and len(results) > 1:
            # ((source), destination, context): only the part is read
            ends, size = results[:2], results[1].size
        else:
            read = _arrays(dict.fromkeys(instruction.operands), made)
            moved = sum(array.size for array in (*results, *read) if array.in_hbm)
            found.least += moved
            found.most += moved
            found.fusions += opcode == "fusion"
            whole = results and results[0].in_hbm and results[0].size >= _BIG
            found.copies += bool(opcode == "copy" and whole)
            return
        sides = sum(array.in_hbm for array in ends)
        found.least += size * sides
        found.most += size * sides
        found.copies += sides == 2 and size >= _BIG


def _arrays(
    names: dict[str, None], made: dict[str, tuple[Array, ...]]
) -> Iterator[Array]:
    for name in names:
        yield from made.get(name, ())


def _add(total: Traffic, part: Traffic) -> None:
    for field in dataclasses.fields(Traffic):
        both = getattr(total, field.name) + getattr(part, field.name)
        setattr(total, field.name, both)
