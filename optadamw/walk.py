"""The walk: the only place that maps rules over the tree of parameters.

`Composition` holds the composed rules. One step computes their scalars once, walks
the tree once for each global norm that a rule asks for, and once more to run all
rules on each parameter: decode the buffers, apply the rules, commit the parameter,
encode the buffers. The leaf functions are jitted and take every number as an
argument, so leaves of one shape and dtype are traced once, whatever their number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p

from optadamw.aliases import Array, PyTree
from optadamw.commit import Commit, Nearest, Site
from optadamw.hyperparameters import Clock
from optadamw.numerics import (
    as_reals,
    compute_dtype,
    from_reals,
    rescaled_norm,
    saturating_increment,
    sum_of_squares,
    total_norm,
)
from optadamw.paths import (
    Leaves,
    check_parameters,
    flatten,
    gradients_for,
    match_leaves,
)
from optadamw.rule import Leaf, Rule, Scalar, Slot, Stage
from optadamw.state import SLOTS, State, first_step

Emit = Literal["param", "update"]
"""What a leaf function returns: the new parameter, or the update that leads to it."""


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
    def is_whole(self) -> bool:
        """Whether the chain ends in a learning rate: its update moves a parameter."""
        return any(rule.stage == Stage.RATE for rule in self.rules)

    def init(self, params: PyTree) -> State:
        """The state before the first step."""
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
        work = self._work(grads, state, params)
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
        scalars: dict[Any, list[dict[str, Array]]],
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
        return _run_leaf(program, item.grad, item.param, item.buffers, chosen, site)

    def program(self, chosen: tuple[bool, ...], upto: int, emit: Emit) -> "Program":
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

    def _work(self, grads: PyTree, state: State, params: PyTree | None) -> "Work":
        if params is None:
            self._refuse_missing_params()
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

    def _refuse_missing_params(self) -> None:
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

    def _scalars(
        self, work: "Work", step: Array, extra: Mapping[str, Any]
    ) -> dict[Any, list[dict[str, Array]]]:
        """The scalars of each rule, for each dtype of computation in the tree."""
        dtypes = {item.dtype for item in work.items if item.grad is not None}
        number = saturating_increment(step)
        scalars = {}
        for dtype in dtypes:
            clock = Clock(step=step, number=number, dtype=dtype)
            look = _Look(self.rules, clock)
            scalars[dtype] = [
                {k: jnp.asarray(v, dtype) for k, v in look.of(i).items()}
                for i in range(len(self.rules))
            ]
        for i, rule in enumerate(self.rules):
            if rule.reads_norm and dtypes:
                norm = self._norm(i, work, scalars, extra)
                for dtype, rows in scalars.items():
                    derived = rule.norm_scalars(norm.astype(dtype), rows[i])
                    rows[i] |= {k: jnp.asarray(v, dtype) for k, v in derived.items()}
        return scalars

    def _norm(
        self,
        index: int,
        work: "Work",
        scalars: dict[Any, list[dict[str, Array]]],
        extra: Mapping[str, Any],
    ) -> Array:
        """The norm over the tree of the updates that reach rule `index`."""
        given = extra.get("grad_norm")
        items = [item for item in work.items if item.grad is not None]
        if all(rule.stage == Stage.GRADIENT for rule in self.rules[:index]):
            # Only the gradients matter: fewer operands to trace and to keep alive.
            items = [item._replace(param=None, buffers={}) for item in items]
        widest = np.result_type(*(item.dtype for item in items))
        if given is not None and index == 0:
            return jnp.asarray(given).astype(widest)

        def measure(i: int, squares: Array | None) -> Array:
            item = items[i]
            program = work.program(self, item.chosen, index, "update")
            if not item.buffers:
                program = replace(program, slots=())
            chosen = _chosen(scalars[item.dtype][:index], item)
            return _measure(
                program, item.grad, item.param, item.buffers, chosen, squares
            )

        squares = [measure(i, None) for i in range(len(items))]
        return total_norm(
            [part.astype(widest) for part in squares],
            lambda i: measure(i, squares[i]).astype(widest),
        )


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
    programs: dict[Any, "Program"] = field(default_factory=dict)

    def program(
        self,
        composition: Composition,
        chosen: tuple[bool, ...],
        upto: int,
        emit: Emit,
    ) -> "Program":
        key = (chosen, upto, emit)
        if key not in self.programs:
            self.programs[key] = composition.program(chosen, upto, emit)
        return self.programs[key]


@dataclass(frozen=True)
class Program:
    """What a leaf function does, without any number: its compilation key."""

    rules: tuple[Rule, ...]
    slots: tuple[Slot, ...]
    commit: Commit
    is_whole: bool
    update_dtype: np.dtype | None
    emit: Emit


class _Look:
    """Scalars of the rules of one chain, computed on demand and once each."""

    def __init__(self, rules: tuple[Rule, ...], clock: Clock):
        self._rules = rules
        self._clock = clock
        self._known: dict[int, dict[str, Scalar]] = {}

    def of(self, index: int) -> dict[str, Scalar]:
        if index not in self._known:
            self._known[index] = self._rules[index].scalars(self._clock, self)
        return self._known[index]

    def has(self, name: str) -> bool:
        return self._publisher(name) is not None

    def __call__(self, name: str) -> Scalar:
        index = self._publisher(name)
        if index is None:
            raise LookupError(f"no rule of this chain publishes `{name}`")
        return self.of(index)[name]

    def _publisher(self, name: str) -> int | None:
        for index, rule in enumerate(self._rules):
            if name in rule.publishes:
                return index
        return None


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


def _chosen(rows: Sequence[dict[str, Array]], item: Item) -> tuple[Any, ...]:
    return tuple(r for r, c in zip(rows, item.chosen, strict=False) if c)


def _no_update(param: Any | None, composition: Composition) -> Any | None:
    if param is None:
        return None
    # Negative zero is the number that leaves every parameter as it is, -0.0 too.
    dtype = composition.update_dtype or param.dtype
    return jnp.full(param.shape, -0.0, dtype)


def _start(
    program: Program, grad: Array, param: Array | None, buffers: dict[str, Any]
) -> Leaf:
    like = grad if param is None else param
    decoded = {s.name: s.store.decode(buffers[s.name], like) for s in program.slots}
    gradient = as_reals(grad, compute_dtype(like.dtype))
    return Leaf(
        numerator=gradient,
        denominator=None,
        drift=None,
        gradient=gradient,
        second=None,
        second_is_corrected=False,
        param=None if param is None else program.commit.read(param, decoded),
        buffers=decoded,
    )


@partial(jax.jit, static_argnums=0)
def _measure(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    squares: Array | None,
) -> Array:
    """The sum of squares of a leaf's update, or, knowing that sum, the norm."""
    leaf = _start(program, grad, param, buffers)
    for rule, values in zip(program.rules, scalars, strict=True):
        leaf = rule.apply(leaf, values)
    update = leaf.value()
    if squares is None:
        return sum_of_squares(update)
    return rescaled_norm(update, squares)


@partial(jax.jit, static_argnums=0)
def _run_leaf(
    program: Program,
    grad: Array,
    param: Array | None,
    buffers: dict[str, Any],
    scalars: tuple[Mapping[str, Array], ...],
    site: Site | None,
) -> tuple[Array, dict[str, Any]]:
    """One parameter through the rules, and its buffers."""
    leaf = _start(program, grad, param, buffers)
    for rule, values in zip(program.rules, scalars, strict=True):
        leaf = rule.apply(leaf, values)
    like = grad if param is None else param
    if param is None:
        output = from_reals(leaf.value(), program.update_dtype or like.dtype)
    else:
        output, leaf = _finish(program, leaf, param, scalars, site)
    encoded = {
        s.name: s.store.encode(leaf.buffers[s.name], like) for s in program.slots
    }
    return output, encoded


def _finish(
    program: Program,
    leaf: Leaf,
    param: Array,
    scalars: tuple[Mapping[str, Array], ...],
    site: Site | None,
) -> tuple[Array, Leaf]:
    """Commit the parameter, run what follows from it, and shape the output."""
    commit, before, update = program.commit, leaf.param, leaf.value()
    assert before is not None
    if not program.is_whole:
        # A direction, not a move: what the next part of an optax.chain will scale.
        update = as_reals(
            from_reals(update, program.update_dtype or param.dtype), before.dtype
        )
    written, kept = commit.write(before + update, param, leaf.buffers, site)
    leaf = leaf._replace(buffers=kept)
    overwrites = []
    for rule, values in zip(program.rules, scalars, strict=True):
        committed = commit.read(written, leaf.buffers)
        leaf, overwrite = rule.after_commit(committed, leaf, values)
        if overwrite is not None:
            overwrites.append(overwrite.when)
            target = jnp.where(overwrite.when, overwrite.value, committed)
            written, kept = commit.write(target, param, leaf.buffers, site)
            leaf = leaf._replace(buffers=kept)
    if program.emit == "param":
        return _like_weak(written, param), leaf
    move = commit.read(written, leaf.buffers) - before
    narrow = jnp.finfo(param.dtype).nmant < jnp.finfo(before.dtype).nmant
    if not (narrow and program.is_whole):
        for when in overwrites:
            update = jnp.where(when, move, update)
        move = update
    return from_reals(move, program.update_dtype or param.dtype), leaf


def _like_weak(written: Array, param: Array) -> Array:
    """Keep the weak type of a parameter that began as a Python number.

    Losing it would change the signature of the step and compile it a second time.
    """
    if not param.weak_type:
        return written
    return convert_element_type_p.bind(
        written, new_dtype=written.dtype, weak_type=True, sharding=None
    )
