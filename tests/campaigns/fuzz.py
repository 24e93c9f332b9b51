"""Random trees, options, dtypes and gradients, by the laws that hold for all of them.

A tree is named by its lane and its number, from which it is drawn again. The full form
tries 20,000, with gradients from 1e-45 to the largest number, NaN and infinity among
them. Failures are kept in `fuzz_corpus.json` and tried first ever after.

Steps are eager, so that a leaf function is compiled once for a shape, a dtype and a
`Family`: a hundred trees that follow each other share the options that are structure
and eight kinds of leaves, and so a few dozen programs. Each tree draws its containers,
which of the kinds its leaves have, all numbers, parameters and gradients by itself. A
tree takes 50 ms then; with options and kinds of its own it took 1.6 s to compile.
"""

import contextlib
import functools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from tests.campaigns.campaign import Case
from tests.laws.random_problems import (
    CHAINS,
    UNIT,
    Chain,
    Pair,
    Setup,
    as_reals,
    bits,
    is_complex,
    real_of,
    run,
)

CORPUS = Path(__file__).with_name("fuzz_corpus.json")
TREES = 20_000
PER_FAMILY = 100
"""Trees with consecutive numbers that share one family."""
KINDS = 8
"""Kinds of leaves of one family."""
SHAPES = ((), (0,), (7,), (2, 3), (13, 1))


@dataclass(frozen=True)
class Lane:
    """The dtypes of one part of the trees, and how often it is taken."""

    dtypes: tuple[Any, ...]
    share: int
    mode: Callable[[], Any] = contextlib.nullcontext


LANES = {
    "float32": Lane((np.float32, ml_dtypes.bfloat16, np.float16, np.complex64), 4),
    "x64": Lane(
        (np.float64, np.float32, np.complex128), 2, partial(jax.enable_x64, True)
    ),
    "float8": Lane(
        (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.bfloat16), 1
    ),
    "subnormal": Lane((np.float32, np.complex64, np.float16), 1),
}


def cases(full: bool) -> Iterator[Case]:
    """The corpus, and then new trees, the lanes by turns."""
    kept = [tuple(entry) for entry in json.loads(CORPUS.read_text())]
    shares = [lane.share if full else 1 for lane in LANES.values()]
    turns = np.repeat(list(LANES), shares).tolist()
    per_turn = PER_FAMILY if full else 1
    count = TREES if full else len(turns)
    new = [(turns[i // per_turn % len(turns)], i) for i in range(count)]
    for lane, number in [*kept, *(name for name in new if name not in kept)]:
        yield Case(f"{lane} {number}", partial(tried, lane, number, keep=full))


def tried(lane: str, number: int, *, keep: bool = False) -> None:
    """Check all laws on one tree, and keep its name if it fails."""
    try:
        with LANES[lane].mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 16-bit parameters are rounded to nearest
            check(lane, number)
    except Exception:
        kept = json.loads(CORPUS.read_text())
        if keep and [lane, number] not in kept:
            CORPUS.write_text(json.dumps([*kept, [lane, number]]) + "\n")
        raise


def check(lane: str, number: int) -> None:
    """Draw a tree, options and gradients, and check the laws."""
    family = _family(lane, number // PER_FAMILY)
    rng = np.random.default_rng([list(LANES).index(lane), number])
    specs = _structure(rng, family)
    setup = _setup(rng, family)
    params = jax.tree.map(lambda s: _array(rng, s, _value), specs, is_leaf=_is_spec)
    tiny = lane == "subnormal"
    grads = [
        jax.tree.map(
            lambda s: _array(rng, s, partial(_gradient, tiny)), specs, is_leaf=_is_spec
        )
        for _ in range(rng.integers(1, 4))
    ]
    tx = setup.tx
    ran = Ran(tx, params, grads, tx.init(params))
    told = f"{setup}, {jax.tree.map(str, specs, is_leaf=_is_spec)}"
    before = run(tx, params, grads[:-1], ran.start)
    after = run(tx, before[0], grads[-1:], before[1])
    _types_are_fixed(ran, after, told)
    if not _is_bad(grads):
        _results_are_finite_and_bounded(setup, ran, before, after, told)
    if setup.chain.keeps:
        _nothing_moves_without_gradient_and_decay(setup, ran, told)
    _none_leaves_a_leaf_alone(rng, ran, told)


class Ran(NamedTuple):
    """A transformation, and what it is given."""

    tx: Any
    params: Any
    grads: list[Any]
    start: Any
    """The state before the first step."""


# --- Laws ----------------------------------------------------------------------------


def _types_are_fixed(ran: Ran, after: Any, told: str) -> None:
    start = ran.params, ran.start
    updates = ran.tx.update(ran.grads[0], ran.start, ran.params)
    for found in (after, updates):
        assert jax.tree.structure(tuple(found)) == jax.tree.structure(start), told
        assert _types(tuple(found)) == _types(start), told


def _types(tree: Any) -> Any:
    return [f"{x.shape} {x.dtype} {x.weak_type}" for x in jax.tree.leaves(tree)]


def _results_are_finite_and_bounded(
    setup: Setup, ran: Ran, begun: Any, ended: Any, told: str
) -> None:
    """A step is within the reach of Adam, or of what an eps of 1e-19 leaves of it."""
    (before, _), (after, state) = begun, ended
    grads = ran.grads
    in_range = all(np.max(np.abs(_wide(g)), initial=0) < 1e38 for g in _leaves(grads))
    if "mu_dtype" not in setup.chain.options or in_range:
        for moment in (state.mu, state.nu):
            assert all(np.isfinite(_wide(x)).all() for x in _leaves(moment)), told
    rate = setup.numbers["learning_rate"]
    slack = 1.02 if "mu_dtype" in setup.chain.options else 1.0001
    for index, (p, q, nu) in enumerate(
        zip(*map(_leaves, (before, after, state.nu)), strict=True)
    ):
        kind = ml_dtypes.finfo(real_of(p.dtype))
        least = 1e4 * float(np.finfo(as_reals(nu).dtype).tiny)
        past = np.stack([_wide(_leaves(g)[index]) for g in grads])
        p, q = _wide(p), _wide(q)
        silent = np.all(past == 0, axis=0)
        reach = np.where(_wide(nu) > least, setup.reach(len(grads)), np.inf)
        reach = np.where(silent, 0.0, reach)
        bound = np.where(reach > 0, rate * reach, 0.0) if rate else np.zeros_like(p)
        bound = slack * (bound + setup.shrinkage() * np.abs(p))
        fits = np.abs(p) + bound < 0.9 * float(kind.max)
        assert np.isfinite(q[fits]).all(), told
        if setup.chain.keeps:
            size = np.abs(p) + np.abs(np.where(fits, q, 0))
            rounding = float(kind.eps) * size + float(kind.smallest_normal)
            moved = np.abs(np.where(fits, q - p, 0))
            assert (moved <= bound + rounding)[fits].all(), told


def _nothing_moves_without_gradient_and_decay(
    setup: Setup, ran: Ran, told: str
) -> None:
    still = setup._replace(numbers=setup.numbers | {"weight_decay": 0.0})
    # Subnormal parameters are flushed where they are computed with.
    params = jax.tree.map(_without_subnormals, ran.params)
    zeros = [jax.tree.map(jnp.zeros_like, ran.grads[0])] * len(ran.grads)
    after, state = run(still.tx, params, zeros)
    assert bits(after) == bits(params), told
    assert all((_wide(x) == 0).all() for x in _leaves((state.mu, state.nu))), told


def _none_leaves_a_leaf_alone(rng: np.random.Generator, ran: Ran, told: str) -> None:
    leaves, structure = jax.tree.flatten(ran.grads[0])
    absent = int(rng.integers(len(leaves)))
    leaves[absent] = None
    start = ran.start
    after, state = run(ran.tx, ran.params, [structure.unflatten(leaves)], start)
    pairs = (ran.params, after), (start.mu, state.mu), (start.nu, state.nu)
    for old, new in pairs:
        old, new = (_leaves(tree)[absent] for tree in (old, new))
        assert bits(old) == bits(new), told


# --- Trees and numbers ---------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """The kind of a leaf."""

    dtype: Any
    shape: tuple[int, ...]


def _is_spec(node: Any) -> bool:
    return isinstance(node, Spec)


@dataclass(frozen=True)
class Family:
    """A set of options and leaf types; all random trees of a family share programs."""

    chain: Chain
    is_near: dict[str, bool]
    """Whether each weight of a running mean is at least 0.5, which is a form of it."""
    kinds: tuple[Spec, ...]


@functools.cache
def _family(lane: str, number: int) -> Family:
    seed = [list(LANES).index(lane), number, TREES]  # no tree has three numbers
    rng = np.random.default_rng(seed)
    dtypes = LANES[lane].dtypes
    every = [Spec(dtype, shape) for dtype in dtypes for shape in SHAPES]
    chosen = rng.choice(len(every), KINDS, replace=False)
    return Family(
        CHAINS[rng.integers(len(CHAINS))],
        {name: bool(rng.random() < 0.7) for name in ("b1", "b2", "ema_decay")},
        tuple(every[i] for i in chosen),
    )


def _structure(rng: np.random.Generator, family: Family) -> Any:
    def leaf() -> Spec:
        return family.kinds[rng.integers(len(family.kinds))]

    def node(depth: int) -> Any:
        children = [node(depth - 1) for _ in range(rng.integers(1, 3)) if depth]
        match int(rng.integers(6)) if children else 0:
            case 0:
                return leaf() if rng.random() < 0.9 else None
            case 1:
                return children
            case 2:
                return tuple(children)
            case 3:
                return Pair(children[0], children[-1])
            case _:
                names = ("kernel", "bias/b", "value", "")
                return dict(zip(names, children, strict=False))

    return {"first": leaf(), "rest": node(3)}


def _setup(rng: np.random.Generator, family: Family) -> Setup:
    def one_of(*values: float) -> float:
        return float(values[rng.integers(len(values))])

    def weight(name: str, *values: float) -> float:
        is_near = family.is_near[name]
        fit = [x for x in values if (x >= 0.5) == is_near]
        return one_of(*fit, 0.5 * rng.uniform() + 0.5 * is_near)

    numbers = {
        "learning_rate": one_of(0.0, 1e-8, 1e-3, 1.0, 1e3, rng.uniform(0, 10)),
        "b1": weight("b1", *UNIT),
        "b2": weight("b2", *UNIT),
        "eps": one_of(0.0, 1e-45, 1e-30, 1e-19, 1e-16, 1e-8, 1e-3, 1.0, 1e30),
        "eps_root": one_of(0.0, 0.0, 1e-45, 1e-30, 1e-8, 1.0, 1e30),
        "weight_decay": one_of(0.0, 1e-4, 0.1, 1.0, 100.0),
        "ema_decay": weight("ema_decay", 0.0, 0.5, 0.999, 1.0),
    }
    if "mu_dtype" in family.chain.options:  # beyond, it would freeze, and is refused
        numbers["b1"] = min(numbers["b1"], 0.99)
    return Setup(family.chain, numbers)


def _array(
    rng: np.random.Generator,
    spec: Spec,
    draw: Callable[[np.random.Generator, int, Any], np.ndarray],
) -> jax.Array:
    kind = real_of(spec.dtype)
    shape = (*spec.shape, 2) if is_complex(spec.dtype) else spec.shape
    info = ml_dtypes.finfo(kind)
    drawn = draw(rng, int(np.prod(shape)), info).reshape(shape)
    most = float(info.max)
    x = np.where(np.isfinite(drawn), np.clip(drawn, -most, most), drawn).astype(kind)
    if is_complex(spec.dtype):
        x = np.ascontiguousarray(x).view(spec.dtype)[..., 0]
    return jnp.asarray(x)


def _value(rng: np.random.Generator, count: int, info: Any) -> np.ndarray:
    most = min(float(info.max), 1e30)
    special = rng.choice([0.0, -0.0, 1.0, 1e-4, most, -most], count)
    return np.where(rng.random(count) < 0.5, rng.normal(size=count), special)


def _gradient(
    tiny: bool, rng: np.random.Generator, count: int, info: Any
) -> np.ndarray:
    most, least = float(info.max), float(info.smallest_subnormal)
    if tiny:
        most = 1e2 * float(info.smallest_normal)
    powers = 10.0 ** rng.uniform(np.log10(least), np.log10(most), count)
    special = rng.choice([0.0, -0.0, 1.0, most, least, 1e20, 3e-18, 1e-19], count)
    x = np.where(rng.random(count) < 0.6, powers, special)
    x = x * rng.choice([-1.0, 1.0], count)
    if rng.random() < 0.1:
        bad = rng.choice([np.nan, np.inf, -np.inf], count)
        x = np.where(rng.random(count) < 0.3, bad, x)
    return x


def _without_subnormals(x: jax.Array) -> jax.Array:
    least = float(ml_dtypes.finfo(real_of(x.dtype)).smallest_normal)
    reals = np.where(np.abs(_wide(x)) < least, 0.0, _wide(x)).astype(real_of(x.dtype))
    if is_complex(x.dtype):
        reals = np.ascontiguousarray(reals).view(x.dtype)[..., 0]
    return jnp.asarray(reals)


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree)


def _wide(x: Any) -> np.ndarray:
    return as_reals(x).astype(np.float64)


def _is_bad(grads: Any) -> bool:
    return not all(np.isfinite(_wide(g)).all() for g in _leaves(grads))
