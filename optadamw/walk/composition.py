"""The walk: the only place that maps rules over the tree of parameters.

`Composition` holds the composed rules and what decides whether a step is taken. One
call takes the gradients in (unscale, check, accumulate), computes the scalars of the
rules once, walks the tree once for each global norm that something asks for, and once
more to run all rules on each parameter: decode the buffers, apply the rules, commit
the parameter, encode the buffers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.hyperparameters import Clock, Constant, Dynamic, real_scalar
from optadamw.base.numerics import saturating_increment
from optadamw.base.random_bits import step_key
from optadamw.base.tree import Leaves, flatten, gradients_for, match_leaves
from optadamw.base.types import Array, PyTree
from optadamw.commit.commit import Commit, Nearest
from optadamw.control.control import Control
from optadamw.control.signals import Finding, found
from optadamw.control.statistics import NORMS
from optadamw.leaf.leaf import Emit, Kernel, Program
from optadamw.rules.groups import Group, Variant, members
from optadamw.rules.order import check_order
from optadamw.rules.rule import Lookups, Rule, Stage
from optadamw.store.slot import Slot
from optadamw.store.state import State, check_small, placed
from optadamw.walk.accumulate import Intake, accumulated, emptied, partial_window, whole
from optadamw.walk.conditional import (
    Operand,
    Outcome,
    Pass,
    no_update,
    stepped,
    taken,
    updated,
)
from optadamw.walk.counters import ruled
from optadamw.walk.inputs import (
    Choice,
    Work,
    check_buffers,
    check_fields,
    gathered,
    parameters,
    split,
)
from optadamw.walk.measure import finished, recorded
from optadamw.walk.norms import Norms, Scalars, chosen_rows


@dataclass(frozen=True)
class Composition:
    """Rules in the order in which they apply, and how a step is taken with them."""

    rules: tuple[Rule, ...]
    commit: Commit = field(default_factory=Nearest)
    update_dtype: np.dtype | None = None
    control: Control = field(default_factory=Control)
    groups: tuple[Group, ...] = ()
    """Parameters with rules of their own; the last holds the rest."""
    seed: Constant | Dynamic = field(default_factory=lambda: Constant(0.0))
    """Of the random bits, where something is rounded at random."""
    kernel: Kernel | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The rules of each group; without groups those of all parameters."""
        return tuple(group.rules for group in self.groups) or (self.rules,)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The buffers that rules and commit keep."""
        own = tuple(slot for rule in self.rules for slot in rule.slots)
        return own + self.commit.slots

    @property
    def kept(self) -> tuple[Slot, ...]:
        """All buffers in the state, the accumulator too."""
        accumulation = self.control.accumulation
        if accumulation is None:
            return self.slots
        return (*self.slots, Slot("accumulator", accumulation.store))

    @property
    def draws(self) -> bool:
        """Whether anything is rounded at random."""
        return self.commit.draws or any(slot.store.draws for slot in self.slots)

    @property
    def needs_guard(self) -> bool:
        """Whether a value that is not finite would spoil others in the state."""
        return any(slot.store.has_scales for slot in self.slots)

    @property
    def is_traced(self) -> bool:
        """Whether a hyperparameter is a tracer, which must not outlive its trace."""
        rules = [rule for rules in self.variants for rule in rules if rule is not None]
        is_seeded = isinstance(self.seed, Dynamic) and self.seed.is_traced
        around = self.control.is_traced or is_seeded
        return around or any(rule.is_traced for rule in rules)

    @property
    def is_bare(self) -> bool:
        """Whether it is its rules and nothing else."""
        return replace(self, rules=(), update_dtype=None) == Composition(())

    @property
    def is_whole(self) -> bool:
        """Whether the chain ends in a learning rate: its update moves a parameter."""
        return any(rule.stage == Stage.RATE for rule in self.rules)

    def init(self, params: PyTree) -> State:
        """The state before the first step."""
        check_order(self.rules)
        leaves = parameters(params)
        self.commit.check([a.dtype for a in leaves.arrays], leaves.paths)
        self._check_guard()
        self.choices(leaves, params)
        self._measured_groups(leaves, params)
        fields = {}
        rows = self.kept_by(leaves, params)
        for i, slot in enumerate(self.kept):
            stores = [row[i].store for row in rows]
            made = [
                (store.copy if slot.start == "param" else store.zeros)(array)
                for store, array in zip(stores, leaves.arrays, strict=True)
            ]
            if slot.name == "accumulator":
                made = [emptied(buffer) for buffer in made]
            for name, column in split(slot, made).items():
                fields[name] = leaves.treedef.unflatten(column)
        small = jax.tree.map(
            lambda value: placed(leaves.arrays, value), self.control.small()
        )
        return State(**fields, **small)

    def choices(self, leaves: Leaves, params: PyTree) -> list[Choice]:
        """For each leaf, its group, which of the rules there apply, and its stores."""
        count = len(leaves.paths)
        tables = []
        for rules in self.variants:
            columns = [_applies(rule, leaves, params) for rule in rules]
            tables.append(list(zip(*columns, strict=True)) or [()] * count)
        numbers = members(self.groups, leaves, params)
        slots = [row[: len(self.slots)] for row in self.kept_by(leaves, params)]
        return [
            Choice(n, tables[n][leaf], slots[leaf]) for leaf, n in enumerate(numbers)
        ]

    def kept_by(self, leaves: Leaves, params: PyTree) -> list[tuple[Slot, ...]]:
        """For each leaf, all buffers in the state, with the stores of that leaf."""
        columns = [
            [
                slot._replace(store=store)
                for store in slot.store.resolved(slot.name, leaves, params)
            ]
            for slot in self.kept
        ]
        return list(zip(*columns, strict=True)) or [()] * len(leaves.paths)

    def _check_guard(self) -> None:
        """Refuse to let what is not finite into a buffer where it spoils others."""
        if self.needs_guard and self.control.watch is None:
            names = [s.name for s in self.slots if s.store.has_scales]
            raise ValueError(
                f"`{names[0]}` is kept in blocks of 8 bits, where one number that is "
                "not finite spoils its whole block, and nothing refuses such "
                "gradients. Put skip_nonfinite(...) around the chain, as adamw does by "
                "itself."
            )

    def _measured_groups(
        self, leaves: Leaves, params: PyTree
    ) -> tuple[tuple[int, ...], ...]:
        """For each group of the statistics, which leaves are in it."""
        statistics = self.control.statistics
        if statistics is None:
            return ()
        chosen = [
            where.resolve(f"groups[{name!r}]", leaves, params)
            for name, where in statistics.groups
        ]
        return tuple(tuple(i for i, is_in in enumerate(row) if is_in) for row in chosen)

    def advance(
        self,
        grads: PyTree,
        state: State,
        params: PyTree | None,
        extra: Mapping[str, Any],
        emit: Emit,
    ) -> tuple[PyTree, State]:
        """One call: the new parameters or the updates, and the next state."""
        work, clock = self._begin(grads, state, params, emit)
        control = self.control
        if control.accumulation is None:
            intake = whole(control, work, state, clock, extra)
        else:
            given = extra.get("grad_norm")

            def norm_of(work: Work, scale: Array | None) -> Array:
                is_scaled = control.loss_scale is not None
                norms = self._norms(
                    work, scale, is_scaled=is_scaled, given=given, rules=()
                )
                return norms.of_gradients()[0]

            intake = accumulated(control, work, state, clock, extra, norm_of)
            extra = {}
        return self._conclude(intake, state, clock, extra, params, emit)

    def flush(
        self, state: State, params: PyTree, like: PyTree | None
    ) -> tuple[PyTree, State]:
        """Take the step of a window that is not full; without one, change nothing."""
        if self.control.accumulation is None:
            check_fields(state, self._fields(self.control.small()))
            return params, state
        if isinstance(params, State):
            raise TypeError(
                "`params` is a State; the order of the arguments is (state, params)."
            )
        check_fields(state, self._fields(self.control.small()))
        leaves = parameters(params)
        check_buffers(state, leaves, self.kept[-1:])
        accumulators = match_leaves(state.accumulator, leaves, "state.accumulator")
        sums = accumulators
        if like is not None:
            marks = gradients_for(leaves, like)
            sums = [
                None if mark is None else total
                for mark, total in zip(marks, accumulators, strict=True)
            ]
        grads = leaves.treedef.unflatten(sums)
        work, clock = self._begin(grads, state, params, "param")
        intake = partial_window(
            self.control, work, state, clock, accumulators, look=like is None
        )
        return self._conclude(intake, state, clock, {}, params, "param")

    def _begin(
        self, grads: PyTree, state: State, params: PyTree | None, emit: Emit
    ) -> tuple[Work, Clock]:
        """Check everything that a call is given."""
        if isinstance(params, State):
            raise TypeError(
                "`params` is a State; the order of the arguments is (grads, state, "
                "params)."
            )
        # Again here: an atom that is chained by others was never checked.
        check_order(self.rules)
        if params is None:
            self._refuse_missing_params(emit)
            leaves = flatten(grads, keep_none=True)
        else:
            leaves = parameters(params)
        matched = gradients_for(leaves, grads)
        small = self.control.small()
        self._check_guard()
        check_fields(state, self._fields(small))
        check_small(state, small)
        choices = self.choices(leaves, grads if params is None else params)
        work = gathered(leaves, matched, params, state, self.slots, choices)
        # With x64 on, scalars are float64 until the leaves get them: 1 - b2 of a
        # float64 array must not be formed in float32.
        wide = jnp.dtype(jax.dtypes.canonicalize_dtype(np.float64))
        number = saturating_increment(state.step)
        return work, Clock(step=state.step, number=number, dtype=wide)

    def _fields(self, small: Mapping[str, Any]) -> tuple[str, ...]:
        """The fields of State that are not None."""
        return (*(name for slot in self.kept for name in split(slot, ())), *small)

    def _refuse_missing_params(self, emit: Emit) -> None:
        if emit == "param":
            raise ValueError(
                "`params` is missing, and a step returns the next ones. Call "
                "tx.step(grads, state, params)."
            )
        for rule in self.rules:
            if rule.needs_params:
                raise ValueError(
                    f"`params` is missing, and {rule.verb} needs the current value of "
                    "the parameters. Call tx.update(grads, state, params)."
                )

    def _conclude(
        self,
        intake: Intake,
        state: State,
        clock: Clock,
        extra: Mapping[str, Any],
        params: PyTree | None,
        emit: Emit,
    ) -> tuple[PyTree, State]:
        """Take the step if it is due and its gradient good, and count what happened."""
        control, work = self.control, intake.work
        norms = self._norms(
            work,
            intake.scale,
            # What was accumulated is unscaled.
            is_scaled=control.loss_scale is not None and control.accumulation is None,
            ready=intake.ready,
            given=extra.get("grad_norm"),
            groups=self._measured_groups(work.leaves, params),
        )
        go, findings = self._allowed(intake, state, norms)
        looks = [Lookups(rules, clock) for rules in self.variants]
        scalars, read = self._scalars(norms, looks, clock)
        if control.watch is not None:
            # Kept gradients are finite; their sum, as a clip measures it, may not be.
            for norm in read:
                go = go & jnp.isfinite(norm)
            # A constant was checked when it was given; a schedule may go astray.
            for rules, look in zip(self.variants, looks, strict=True):
                for rule in rules:
                    rates = {} if rule is None else rule.report(clock, look)
                    for rate in rates.values():
                        go = go & jnp.isfinite(rate) & (jnp.asarray(rate) >= 0)
        record = None
        if control.statistics is not None:
            record = recorded(
                control.statistics, self.variants[-1], norms, scalars, clock, looks[-1]
            )
        outcome = self._pass(intake, state, scalars, norms.groups, go, emit)
        fields = ruled(
            control,
            intake,
            state,
            findings,
            go,
            None if record is None else record.clipped,
        )
        if record is not None:
            assert state.stats is not None
            fields["stats"] = finished(record, outcome.measured, go, state.stats)
        if intake.accumulators is not None:
            fields["accumulator"] = work.tree(intake.accumulators)
        outputs, columns = self._spread(work, outcome, emit)
        buffers = {
            name: work.tree(column)
            for slot in self.slots
            for name, column in split(slot, columns[slot.name]).items()
        }
        step = clock.number
        if control.is_gated:
            step = jnp.where(go, step, state.step)
        return work.tree(outputs), State(step=step, **buffers, **fields)

    def _allowed(
        self, intake: Intake, state: State, norms: Norms
    ) -> tuple[Array, list[Finding]]:
        """Whether to take the step, as far as the gradient's norm and loss tell."""
        control, watch = self.control, self.control.watch
        go = jnp.ones((), bool)
        if intake.weight is not None:
            assert intake.ready is not None
            go = intake.ready & (intake.weight > 0)
        elif intake.bad is not None:
            go = ~intake.bad
        findings = list(intake.findings)
        if watch is None or not norms.work.moving:
            return go, findings
        norm, most = norms.of_gradients()[0], norms.work.largest_norm
        if control.accumulation is not None and watch.drops:
            # Each gradient that was kept is good; their sum may overflow all the same.
            return go & (norm <= most), findings
        finding = found(control, state, "grad_norm", norm, go, most)
        return go & ~finding.bad, [*findings, finding]

    def _norms(
        self,
        work: Work,
        scale: Array | None,
        *,
        is_scaled: bool,
        ready: Array | None = None,
        given: Any = None,
        groups: tuple[tuple[int, ...], ...] = (),
        rules: tuple[Rule, ...] | None = None,
    ) -> Norms:
        return Norms(
            rules=self.rules if rules is None else rules,
            work=work,
            program=self._programs("update"),
            scale=scale,
            ready=ready,
            given=None if given is None else real_scalar("grad_norm", given),
            rescued=self.control.watch is None or is_scaled,
            groups=groups,
        )

    def _scalars(
        self, norms: Norms, looks: Sequence[Lookups], clock: Clock
    ) -> tuple[Scalars, list[Array]]:
        """What the leaves of each group share, and the norms that rules read."""
        items = norms.work.items
        used = {items[i].key for i in norms.work.moving}
        scalars: Scalars = {key: [] for key in sorted(used, key=str)}
        read = []
        for i, rule in enumerate(self.rules):
            found = {}
            if rule.reads_norm and used:
                norm = norms.before(i, scalars)
                read.append(norm)
                found = rule.norm_scalars(norm.astype(clock.dtype), looks[0].of(i))
            for (dtype, group), rows in scalars.items():
                row = looks[group].of(i) | found
                rows.append({k: jnp.asarray(v, dtype) for k, v in row.items()})
        return scalars, read

    def _programs(self, emit: Emit) -> Callable[[Choice, int], Program]:
        """The leaf function of the first `upto` rules, as far as they apply."""
        known: dict[tuple[Choice, int], Program] = {}
        statistics = self.control.statistics

        def program(choice: Choice, upto: int) -> Program:
            if (choice, upto) not in known:
                own = self.variants[choice.group][:upto]
                rules = zip(own, choice.applies, strict=False)
                known[choice, upto] = Program(
                    rules=tuple(
                        r.skeleton() for r, yes in rules if r is not None and yes
                    ),
                    slots=choice.slots,
                    commit=self.commit,
                    is_whole=self.is_whole,
                    update_dtype=self.update_dtype,
                    emit=emit,
                    measures=statistics is not None and statistics.norms,
                    is_bounded=self._is_bounded,
                    kernel=self.kernel,
                )
            return known[choice, upto]

        return program

    @property
    def _is_bounded(self) -> bool:
        """Whether gradients that reach the moments have finite squares."""
        early = [rule for rule in self.rules if rule.stage == Stage.GRADIENT]
        return self.control.watch is not None and all(r.shrinks for r in early)

    def _pass(
        self,
        intake: Intake,
        state: State,
        scalars: Scalars,
        groups: tuple[tuple[int, ...], ...],
        go: Array,
        emit: Emit,
    ) -> Outcome:
        """Run the rules on every leaf that has a gradient, where `go`."""
        work, program = intake.work, self._programs(emit)
        programs, operands = [], []
        for i in work.moving:
            item = work.items[i]
            programs.append(program(item.choice, len(self.rules)))
            own = chosen_rows(scalars[item.key], item)
            scale = None if intake.scale is None else intake.scale.astype(item.dtype)
            present = None if intake.present is None else intake.present[i]
            operands.append(
                Operand(item.grad, item.param, item.buffers, own, scale, present)
            )
        measured = None
        members: tuple[tuple[int, ...], ...] = ()
        statistics = self.control.statistics
        if statistics is not None and statistics.norms:
            assert state.stats is not None
            members = work.rows_of([work.moving, *groups])
            rows = [state.stats[name] for name in statistics.names]
            measured = jnp.stack([row[-len(NORMS) :] for row in rows])
        key = Pass(tuple(programs), tuple(work.moving), members)
        bits = step_key(self.seed.value, state.step)
        if not self.control.is_gated:
            return taken(key, operands, bits)
        take = stepped if emit == "param" else updated
        return take(key, operands, bits, go, measured)

    def _spread(
        self, work: Work, outcome: Outcome, emit: Emit
    ) -> tuple[list[Any], dict[str, list[Any]]]:
        """Outputs and buffers of all leaves, those without a gradient among them."""
        outputs: list[Any] = []
        columns: dict[str, list[Any]] = {slot.name: [] for slot in self.slots}
        for i, item in enumerate(work.items):
            row = work.rows.get(i)
            if row is not None:
                output, kept = outcome.outputs[row], outcome.buffers[row]
            elif emit == "param" or item.param is None:
                output, kept = item.param, item.buffers
            else:
                output, kept = no_update(item.param, self.update_dtype), item.buffers
            outputs.append(output)
            for name, column in columns.items():
                column.append(kept[name])
        return outputs, columns


def _applies(rule: Rule | None, leaves: Leaves, params: PyTree) -> tuple[bool, ...]:
    """For each leaf, whether a rule applies to it."""
    if rule is None or rule.selector is None:
        return (rule is not None,) * len(leaves.paths)
    return rule.selector.resolve("mask", leaves, params)
