"""The leaf functions of a composition, shared by leaves with equal plans."""

from optadamw.leaf.program import Emit, Program
from optadamw.walk.composition import Composition
from optadamw.walk.plan import LeafPlan


class Programs:
    """The leaf functions of one composition; equal plans share one function."""

    def __init__(self, composition: Composition, emit: Emit):
        self._composition = composition
        self._emit = emit
        self._known: dict[tuple[LeafPlan, int], Program] = {}

    def of(self, row: LeafPlan, upto: int | None = None) -> Program:
        """Return the function of a leaf, with its first `upto` rules (None: all)."""
        upto = len(self._composition.rules) if upto is None else upto
        if (row, upto) not in self._known:
            self._known[row, upto] = self._made(row, upto)
        return self._known[row, upto]

    def _made(self, row: LeafPlan, upto: int) -> Program:
        composition = self._composition
        statistics = composition.control.statistics
        variant = composition.variants[row.group]
        rules = row.chosen(variant)
        whole = Program(
            rules=tuple(rule.skeleton() for rule in rules),
            slots=row.slots,
            commit=composition.commit,
            is_whole=composition.is_whole,
            update_dtype=composition.update_dtype,
            emit=self._emit,
            measures=statistics is not None and statistics.norms,
            is_bounded=composition.is_bounded,
            is_reproducible=composition.has_reproducible_norms,
            kernel=composition.kernel,
            sharding=row.sharding,
        )
        return whole.upto(len(row.chosen(variant[:upto])))
