"""The walk: the only place that maps rules over the tree of parameters.

`Composition` holds the composed rules. One step computes their scalars once, walks
the tree once for each global norm that a rule asks for, and once more to run all
rules on each parameter: decode the buffers, apply the rules, commit the parameter,
encode the buffers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.aliases import Array, PyTree
from optadamw.commit import Commit, Nearest, Site
from optadamw.hyperparameters import Clock, real_scalar
from optadamw.leaf import Emit, Program, measure_leaf, run_leaf
from optadamw.numerics import (
    compute_dtype,
    kind_of,
    saturating_increment,
    total_norm,
)
from optadamw.order import check_order
from optadamw.paths import (
    Leaves,
    check_parameters,
    flatten,
    gradients_for,
    match_leaves,
)
from optadamw.rule import Lookups, Rule, Slot, Stage
from optadamw.state import SLOTS, State, check_counter, first_step

Scalars = dict[np.dtype, list[dict[str, Array]]]
"""The scalars of each rule, for each dtype of computation in the tree."""


@dataclass(frozen=True)
class Composition:
    """Rules in the order in which they apply, and how parameters are written."""

    rules: tuple[Rule, ...]
    commit: Commit = field(default_factory=Nearest)
    update_dtype: np.dtype | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        own = tuple(slot for rule in self.rules for slot in rule.slots)
        return own + self.commit.slots

    @property
    def is_traced(self) -> bool:
        """Whether a hyperparameter is a tracer, which must not outlive its trace."""
        return any(rule.is_traced for rule in self.rules)

    @property
    def is_whole(self) -> bool:
        """Whether the chain ends in a learning rate: its update moves a parameter."""
        return any(rule.stage == Stage.RATE for rule in self.rules)

    def init(self, params: PyTree) -> State:
        """The state before the first step."""
        check_order(self.rules)
        leaves = parameters(params)
        self.choices(leaves, params)
        buffers = {}
        for slot in self.slots:
            start = slot.store.copy if slot.start == "param" else slot.store.zeros
            made = [start(array) for array in leaves.arrays]
            buffers[slot.name] = leaves.treedef.unflatten(made)
        return State(step=first_step(leaves.arrays), **buffers)

    def choices(self, leaves: Leaves, params: PyTree) -> list[tuple[bool, ...]]:
        """For each leaf, which of the rules apply to it."""
        count = len(leaves.paths)
        columns = [
            (True,) * count
            if rule.selector is None
            else rule.selector.resolve("mask", leaves, params)
            for rule in self.rules
        ]
        return list(zip(*columns, strict=True)) if columns else [()] * count

    def advance(
        self,
        grads: PyTree,
        state: State,
        params: PyTree | None,
        extra: Mapping[str, Any],
        emit: Emit,
    ) -> tuple[PyTree, State]:
        """One step: the new parameters or the updates, and the next state."""
        if isinstance(params, State):
            raise TypeError(
                "`params` is a State; the order of the arguments is (grads, state, "
                "params)."
            )
        # Again here: an atom that is chained by others was never checked.
        check_order(self.rules)
        work = self._work(grads, state, params, emit)
        scalars = self._scalars(work, state.step, extra)
        outputs, buffers = [], []
        for index in range(len(work.items)):
            output, kept = self._visit(index, work, scalars, state.step, emit)
            outputs.append(output)
            buffers.append(kept)
        fields = {
            slot.name: work.treedef.unflatten([kept[slot.name] for kept in buffers])
            for slot in self.slots
        }
        step = saturating_increment(state.step)
        return work.treedef.unflatten(outputs), State(step=step, **fields)

    def _visit(
        self,
        index: int,
        work: "Work",
        scalars: Scalars,
        step: Array,
        emit: Emit,
    ) -> tuple[Any, dict[str, Any]]:
        item = work.items[index]
        if item.grad is None:
            untouched = item.param if emit == "param" else _no_update(item.param, self)
            return untouched, item.buffers
        program = work.program(self, item.chosen, len(self.rules), emit)
        site = Site(step, jnp.int32(index)) if self.commit.draws else None
        chosen = _chosen(scalars[item.dtype], item)
        return run_leaf(program, item.grad, item.param, item.buffers, chosen, site)

    def program(self, chosen: tuple[bool, ...], upto: int, emit: Emit) -> Program:
        """The leaf function of the first `upto` rules, as far as they apply."""
        rules = [r for r, c in zip(self.rules[:upto], chosen, strict=False) if c]
        return Program(
            rules=tuple(rule.skeleton() for rule in rules),
            slots=self.slots,
            commit=self.commit,
            is_whole=self.is_whole,
            update_dtype=self.update_dtype,
            emit=emit,
        )

    def _work(
        self, grads: PyTree, state: State, params: PyTree | None, emit: Emit
    ) -> "Work":
        if params is None:
            self._refuse_missing_params(emit)
            leaves = flatten(grads, keep_none=True)
        else:
            leaves = parameters(params)
        matched = gradients_for(leaves, grads)
        buffers = self._buffers(leaves, matched, state)
        chosen = self.choices(leaves, grads if params is None else params)
        arrays = [None] * len(matched) if params is None else leaves.arrays
        return Work(
            treedef=leaves.treedef,
            items=[
                Item(
                    grad=None if grad is None else jnp.asarray(grad),
                    param=array,
                    buffers=kept,
                    chosen=which,
                    dtype=compute_dtype((grad if array is None else array).dtype)
                    if grad is not None
                    else np.dtype(np.float32),
                )
                for grad, array, kept, which in zip(
                    matched, arrays, buffers, chosen, strict=True
                )
            ],
        )

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

    def _buffers(
        self, leaves: Leaves, grads: Sequence[Any], state: State
    ) -> list[dict[str, Any]]:
        if not isinstance(state, State):
            raise TypeError(
                f"`state` must be the State that tx.init(params) returned; got "
                f"{type(state).__name__}. A state of another library is not read "
                "here, and tx.init starts afresh."
            )
        check_counter(state.step)
        kept = {slot.name for slot in self.slots}
        for name in SLOTS:
            present = getattr(state, name) is not None
            if present != (name in kept):
                has = "holds" if present else "lacks"
                raise ValueError(
                    f"`state` {has} the buffer `{name}`, which this transformation "
                    f"{'does not keep' if present else 'keeps'}: it is the state of "
                    "another one. Use the state that this tx.init(params) returned."
                )
        columns = {}
        for slot in self.slots:
            tree = getattr(state, slot.name)
            columns[slot.name] = match_leaves(tree, leaves, f"state.{slot.name}")
            for path, buffer, array, grad in zip(
                leaves.paths, columns[slot.name], leaves.arrays, grads, strict=True
            ):
                if grad is not None:
                    slot.store.check(path, buffer, array)
        return [
            {name: column[i] for name, column in columns.items()}
            for i in range(len(leaves.paths))
        ]

    def _scalars(self, work: "Work", step: Array, extra: Mapping[str, Any]) -> Scalars:
        """What the rules of this step share over the tree."""
        used = {item.dtype for item in work.items if item.grad is not None}
        # With x64 on, scalars are float64 until the leaves get them: 1 - b2 of a
        # float64 array must not be formed in float32.
        wide = jnp.dtype(jax.dtypes.canonicalize_dtype(np.float64))
        clock = Clock(step=step, number=saturating_increment(step), dtype=wide)
        look = Lookups(self.rules, clock)
        scalars: Scalars = {dtype: [] for dtype in sorted(used, key=str)}
        for i, rule in enumerate(self.rules):
            row = look.of(i)
            if rule.reads_norm and used:
                norm = self._norm(i, work, scalars, extra)
                row = row | rule.norm_scalars(norm.astype(wide), row)
            for dtype, rows in scalars.items():
                rows.append({k: jnp.asarray(v, dtype) for k, v in row.items()})
        return scalars

    def _norm(
        self,
        index: int,
        work: "Work",
        scalars: Scalars,
        extra: Mapping[str, Any],
    ) -> Array:
        """The norm over the tree of the updates that reach rule `index`."""
        given = extra.get("grad_norm")
        items = [item for item in work.items if item.grad is not None]
        if all(rule.stage == Stage.GRADIENT for rule in self.rules[:index]):
            # Only the gradients matter: fewer operands to trace and to keep alive.
            items = [_gradient_only(item) for item in items]
        widest = np.result_type(*(item.dtype for item in items))
        if given is not None and index == 0:
            return real_scalar("grad_norm", given).astype(widest)

        programs, operands = [], []
        for item in items:
            program = work.program(self, item.chosen, index, "update")
            if item.param is None:
                program = replace(program, slots=())
            chosen = _chosen(scalars[item.dtype][:index], item)
            programs.append(program)
            operands.append((item.grad, item.param, item.buffers, chosen))
        return _tree_norm(tuple(programs), widest, operands)


class Item(NamedTuple):
    """One leaf of the tree: everything that its leaf function is given."""

    grad: Any | None
    param: Any | None
    buffers: dict[str, Any]
    chosen: tuple[bool, ...]
    dtype: np.dtype


@dataclass
class Work:
    """The leaves of one step, and the leaf functions made for them."""

    treedef: Any
    items: list[Item]
    programs: dict[Any, Program] = field(default_factory=dict)

    def program(
        self,
        composition: Composition,
        chosen: tuple[bool, ...],
        upto: int,
        emit: Emit,
    ) -> Program:
        key = (chosen, upto, emit)
        if key not in self.programs:
            self.programs[key] = composition.program(chosen, upto, emit)
        return self.programs[key]


@partial(jax.jit, static_argnums=(0, 1))
def _tree_norm(
    programs: tuple[Program, ...], widest: np.dtype, operands: list[tuple[Any, ...]]
) -> Array:
    """The norm of all updates, as one compiled function also when called eagerly."""
    squares = [
        measure_leaf(program, *leaf, None)
        for program, leaf in zip(programs, operands, strict=True)
    ]

    def rescaled(i: int) -> Array:
        return measure_leaf(programs[i], *operands[i], squares[i]).astype(widest)

    return total_norm([part.astype(widest) for part in squares], rescaled)


def parameters(params: PyTree) -> Leaves:
    """The leaves of a tree of parameters, checked, as JAX sees them."""
    leaves = flatten(params)
    check_parameters(leaves)
    return leaves._replace(arrays=tuple(_as_array(a) for a in leaves.arrays))


def _as_array(leaf: Any) -> Any:
    """Numbers and NumPy arrays as JAX sees them (float64 only with x64 on)."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    return jnp.asarray(leaf)


def _gradient_only(item: Item) -> Item:
    if item.grad is not None and compute_dtype(item.grad.dtype) != item.dtype:
        return item
    return item._replace(param=None, buffers={})


def _chosen(rows: Sequence[dict[str, Array]], item: Item) -> tuple[Any, ...]:
    return tuple(r for r, c in zip(rows, item.chosen, strict=False) if c)


def _no_update(param: Any | None, composition: Composition) -> Any | None:
    if param is None:
        return None
    # Negative zero is the number that leaves every parameter as it is, -0.0 too.
    dtype = kind_of(composition.update_dtype, param.dtype)
    return jnp.full(param.shape, -0.0, dtype)
