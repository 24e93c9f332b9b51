"""The stages in which a tile of blocks is computed.

A stage computes what needs the largest numbers of blocks that the stage before it has
found; the first stage needs none. Elements that a later stage needs wait, unless they
follow from one that waits already. Results that need nothing but elements at hand in
the last stage are left to it. So the roots and quotients of a parameter are computed
beside the integers of codes, in another part of the CPU: the step takes 0.9 of the
time.
"""

from optadamw.native.flat import BLOCK, ELEMENT, Constant, Flat
from optadamw.native.statements import operands_of


class Stages:
    """Which operations each stage computes, and which wait for a later one."""

    def __init__(self, flat: Flat):
        self.flat = flat
        self.depths: dict[int, int] = {}
        for number in flat.used(flat.outputs):
            below = [self.depths[x] for x in operands_of(flat, [number])]
            is_largest = flat.operations[number].name == "reduce_max"
            self.depths[number] = max(below, default=0) + is_largest
        self._known: dict[int, set[int]] = {}
        self.count = 1 + max(self.depths.values(), default=0)
        self.waiting: set[int] = set()
        """Numbers of elements that are kept for a later stage."""
        self.elements = self._closures(are_early_left=True)
        """The operations on elements in each stage."""
        self.depths.update(dict.fromkeys(self._late(), self.count - 1))
        self.elements = self._closures()
        read = {
            x
            for numbers in self.elements
            for x in operands_of(flat, numbers)
            if flat.operations[x].level == BLOCK
        }
        largest = {n for n in self.depths if flat.operations[n].name == "reduce_max"}
        later = {
            x
            for n in self.depths
            if flat.operations[n].level == BLOCK and n not in largest
            for x in operands_of(flat, [n])
            if flat.operations[x].level == BLOCK and self.depths[x] < self.depths[n]
        }
        self.of_blocks = read | later | largest
        """Numbers of blocks that are kept."""

    def outputs(self, depth: int, level: int) -> list[tuple[int, int]]:
        """Return the places and numbers of the results of a stage."""
        return [
            (place, x)
            for place, x in enumerate(self.flat.outputs, start=1)
            if not isinstance(x, Constant)
            and self.flat.operations[x].level == level
            and self.depths[x] == depth
        ]

    def largest(self, depth: int) -> list[int]:
        """Return the largest numbers that the elements of a stage have."""
        return [
            n
            for n, of in self.depths.items()
            if self.flat.operations[n].name == "reduce_max" and of == depth + 1
        ]

    def _late(self) -> set[int]:
        """Return the operations of early results that the last stage can compute.

        They are all that no other stage needs, if they need nothing but arrays that
        these results overwrite, and numbers that the last stage has in any case.
        """
        flat, last = self.flat, self.count - 1
        taken = {n for numbers in self.elements for n in numbers}
        at_hand = self.waiting.union(self.elements[last])
        early = [x for d in range(last) for _, x in self.outputs(d, ELEMENT)]
        found: set[int] = set()
        while early:
            number = early.pop()
            if number in found or flat.operations[number].level != ELEMENT:
                continue
            if number in taken:
                if number not in at_hand:
                    return set()
                continue
            found.add(number)
            early += operands_of(flat, [number])
        # An array that another stage overwrites is not there any more.
        arrays = {flat.operations[n].detail for n in found if self._is_array(n)}
        kept = {place for place, x in enumerate(flat.outputs, start=1) if x in found}
        return found if arrays <= {0, *kept} else set()

    def _is_array(self, number: int) -> bool:
        return self.flat.operations[number].name == "input"

    def _closures(self, *, are_early_left: bool = False) -> list[list[int]]:
        """Return what each stage computes, and note what waits for a later one.

        Args:
          are_early_left: whether results of stages before the last are left out.
        """
        self.waiting = set()
        found: list[list[int]] = [[] for _ in range(self.count)]
        for depth in reversed(range(self.count)):
            is_left = are_early_left and depth < self.count - 1
            results = [] if is_left else [x for _, x in self.outputs(depth, ELEMENT)]
            found[depth] = self._closure(depth, results)
        return found

    def _closure(self, depth: int, results: list[int]) -> list[int]:
        """Return what a stage computes, and note what it needs of earlier ones."""
        flat = self.flat
        kept = [n for n in self.waiting if self.depths[n] == depth]
        waiting = [*results, *operands_of(flat, self.largest(depth)), *kept]
        found: set[int] = set()
        while waiting:
            number = waiting.pop()
            if number in found or flat.operations[number].level != ELEMENT:
                continue
            if self.depths[number] < depth and not self._follows(number):
                self.waiting.add(number)
                continue
            found.add(number)
            waiting += operands_of(flat, [number])
        return sorted(found)

    def _follows(self, number: int) -> bool:
        """Return whether a number is computed anew from at most one that waits."""
        return self._sources(number) != {number}

    def _sources(self, number: int) -> set[int]:
        """Return from which one number of the same element, if any, a number follows.

        One that follows from several is its own source, as are those in memory, which
        an earlier stage may have overwritten.
        """
        if number not in self._known:
            found: set[int] = set()
            for x in operands_of(self.flat, [number]):
                if self.flat.operations[x].level == ELEMENT:
                    found |= self._sources(x)
            if len(found) > 1 or self._is_array(number):
                found = {number}
            self._known[number] = found
        return self._known[number]
