"""Laws that hold for every tree, option and gradient, tried on random ones (R7).

`OPTADAMW_HYPOTHESIS=long python -m pytest tests/test_properties.py` tries 20,000
examples with fresh seeds; without it, 400 that are the same each time. A process of its
own runs the laws on float64 and complex128, in the exact lane: without fused
multiply-adds, the bits do not depend on how XLA arranges a program.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import optadamw

PyTree = Any

WIDE = jax.config.read("jax_enable_x64")
NO_FMA = "--xla_cpu_max_isa=AVX"
EXACT = NO_FMA in os.environ.get("XLA_FLAGS", "")
LANE = os.environ.get("OPTADAMW_HYPOTHESIS", "commit")

# There are eight laws, so a lane tries eight times as many; compiling makes some slow.
_EVERY_LANE = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile(
    "commit",
    max_examples=15 if WIDE else 50,
    derandomize=True,
    database=None,
    **_EVERY_LANE,
)
settings.register_profile("long", max_examples=2500, **_EVERY_LANE)
law = settings.get_profile(LANE)


# --- Options -------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """A set of structural options, and how far a gradient reaches through it."""

    options: dict[str, Any]
    by_element: bool = True
    """Whether a result depends on the gradients of its own element alone."""
    by_leaf: bool = True
    """Whether it depends on those of its own leaf alone."""
    keeps: bool = True
    """Whether a parameter without gradient and decay stays; an overwrite moves it."""

    def __repr__(self) -> str:
        return f"adamw(..., {', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


CHAINS = (
    Chain({}),
    Chain({"nesterov": True, "mu_dtype": "bfloat16"}),
    Chain({"amsgrad": "raw", "eps_mode": "hat", "weight_decay_mode": "schedule"}),
    Chain({"amsgrad": "corrected", "nesterov": True, "ema_debias": True}),
    Chain(
        {"bias_correction": False, "maximize": True, "weight_decay_mode": "independent"}
    ),
    Chain({"clip_value": 1.0, "ema_warmup": True, "weight_decay_mode": "corrected"}),
    Chain({"ema_overwrite_every": 2, "eps_mode": "hat"}, keeps=False),
    Chain({"caution": True, "nesterov": True}, by_element=False),
    Chain({"clip_norm": 1.0, "amsgrad": True, "maximize": True}, by_element=False),
    Chain({"clip_global_norm": 1.0, "caution": True}, by_element=False, by_leaf=False),
)

UNIT = (0.0, 1e-8, 0.5, 0.9, 0.999, 0.9999999, 1 - 2.0**-53)
SIZES = (1e-30, 1e-16, 1e-8, 1e-3, 1.0, 1e30)
HYPERPARAMETERS = {
    "learning_rate": st.sampled_from((0.0, 1e-8, 1e-3, 1.0, 1e3)) | st.floats(0, 10),
    "b1": st.sampled_from(UNIT) | st.floats(0, 1, exclude_max=True),
    "b2": st.sampled_from(UNIT) | st.floats(0, 1, exclude_max=True),
    "eps": st.sampled_from((0.0, *SIZES)),
    "eps_root": st.sampled_from((0.0, 0.0, *SIZES)),
    "weight_decay": st.sampled_from((0.0, 1e-4, 0.1, 1.0, 100.0)),
    "ema_decay": st.sampled_from((0.0, 0.5, 0.999, 1.0)),
}


class Setup(NamedTuple):
    """One transformation, with everything that the laws need to know of it."""

    chain: Chain
    numbers: dict[str, float]

    @property
    def tx(self) -> Any:
        options = self.chain.options
        numbers = dict(self.numbers)
        if not any(name.startswith("ema") for name in options):
            del numbers["ema_decay"]
        if options.get("weight_decay_mode") in ("schedule", "corrected"):
            # The peak is the constant learning rate itself, which has to be positive.
            numbers["max_learning_rate"] = numbers["learning_rate"] or 1.0
        return optadamw.adamw(**numbers, **options)

    def shrinkage(self) -> float:
        """Return the share of itself that a parameter loses in a step."""
        rate, decay = self.numbers["learning_rate"], self.numbers["weight_decay"]
        match self.chain.options.get("weight_decay_mode", "lr"):
            case "schedule":
                return decay * (rate > 0)
            case "independent":
                return decay
            case _:
                return rate * decay

    def reach(self, t: int) -> float:
        """Return the largest magnitude that a direction can have in step t.

        Let w_k and v_k be the weights of the gradient of k steps ago in the numerator
        and under the root. By Cauchy and Schwarz

            sum w_k |g_k| = sum (w_k / sqrt v_k) (sqrt v_k |g_k|)
                         <= sqrt(sum w_k^2 / v_k) sqrt(sum v_k g_k^2),

        whose second factor is the denominator at eps = eps_root = 0; both only enlarge
        it, as AMSGrad's maximum does. Epsilon hat multiplies both sides by the same.
        Clips change the g_k and not the weights. Caution multiplies by at most 1000.
        """
        b1, b2, k = self.numbers["b1"], self.numbers["b2"], np.arange(t)
        options = self.chain.options
        corrected = options.get("bias_correction", True)
        w, v = (1 - b1) * b1**k, (1 - b2) * b2**k
        if options.get("nesterov"):
            w = b1 * w / (remaining(b1, t + 1) if corrected else 1)
            w[0] += (1 - b1) / (remaining(b1, t) if corrected else 1)
        elif corrected:
            w = w / remaining(b1, t)
        v = v / (remaining(b2, t) if corrected else 1)
        used = w > 0
        with np.errstate(divide="ignore", over="ignore"):
            bound = float(np.sqrt(np.sum((w[used] / np.sqrt(v[used])) ** 2)))
        return bound * (1000 if options.get("caution") else 1)


def remaining(beta: float, t: int) -> float:
    """Return 1 - beta**t, accurately."""
    return -np.expm1(t * np.log(beta)) if beta else 1.0


def setups(*, decay: bool = True, **wanted: bool) -> st.SearchStrategy[Setup]:
    """Draw a chain with the attributes `wanted`, and its hyperparameters."""
    chains = [c for c in CHAINS if all(getattr(c, k) == v for k, v in wanted.items())]
    numbers = dict(HYPERPARAMETERS)
    if not decay:
        numbers["weight_decay"] = st.just(0.0)

    def made(chain: Chain, numbers: dict[str, float]) -> Setup:
        if "mu_dtype" in chain.options:  # beyond, it would freeze, and is refused
            numbers = numbers | {"b1": min(numbers["b1"], 0.99)}
        return Setup(chain, numbers)

    return st.builds(made, st.sampled_from(chains), st.fixed_dictionaries(numbers))


# --- Trees and arrays ----------------------------------------------------------------


class Pair(NamedTuple):
    """A container with named fields."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Spec:
    """What a leaf will be. Few shapes, as each is compiled for each dtype and chain."""

    dtype: Any
    shape: tuple[int, ...]


if WIDE:
    REAL, COMPLEX = (np.float64, np.float32), (np.complex128, np.complex64)
else:
    REAL, COMPLEX = (np.float32, ml_dtypes.bfloat16, np.float16), (np.complex64,)
SHAPES = ((), (0,), (1,), (7,), (2, 3), (3, 0))

specs = st.builds(Spec, st.sampled_from(REAL + COMPLEX), st.sampled_from(SHAPES))
names = st.sampled_from(("a", "bias", "kernel", "value"))


def containers(children: st.SearchStrategy[PyTree]) -> st.SearchStrategy[PyTree]:
    several = st.lists(children, max_size=3)
    return st.one_of(
        several,
        several.map(tuple),
        st.dictionaries(names, children, max_size=3),
        st.builds(Pair, children, children),
    )


some_trees = st.recursive(specs | st.none(), containers, max_leaves=5)
trees = st.builds(lambda first, rest: {"first": first, "rest": rest}, specs, some_trees)


def real_of(dtype: Any) -> np.dtype:
    """Return the dtype of the real and imaginary parts."""
    return np.dtype(dtype).type(0).real.dtype if is_complex(dtype) else np.dtype(dtype)


def is_complex(dtype: Any) -> bool:
    return np.dtype(dtype).kind == "c"


def as_reals(x: Any) -> np.ndarray:
    """View an array on the host as reals; a complex one gains a last axis of two."""
    x = np.asarray(x)
    return np.stack([x.real, x.imag], axis=-1) if is_complex(x.dtype) else x


def from_reals(x: np.ndarray, dtype: Any) -> jax.Array:
    """Round to the real dtype of `dtype`, staying finite where `x` is."""
    most = float(ml_dtypes.finfo(real_of(dtype)).max)
    x = np.where(np.isfinite(x), np.clip(x, -most, most), x).astype(real_of(dtype))
    if is_complex(dtype):
        x = np.ascontiguousarray(x).view(dtype)[..., 0]
    return jnp.asarray(x)


def arrays(spec: Spec, elements: st.SearchStrategy[float]) -> Any:
    shape = (*spec.shape, 2) if is_complex(spec.dtype) else spec.shape
    drawn = hnp.arrays(np.float64, shape, elements=elements)
    return drawn.map(lambda x: from_reals(x, spec.dtype))


MOST, LEAST = (1e300, 1e-300) if WIDE else (3e38, 1e-38)
POWERS = st.floats(np.log10(LEAST), np.log10(MOST)).map(lambda e: 10.0**e)
SPECIAL = st.sampled_from((0.0, -0.0, 1.0, -1.0, MOST, -MOST, LEAST, 1e20, 3e-18))
GRADIENTS = SPECIAL | POWERS | POWERS.map(lambda x: -x) | st.floats(-2, 2)
BAD = st.sampled_from((np.nan, np.inf, -np.inf))
# XLA flushes subnormal float32 numbers on the CPU, so no parameter is one.
ORDINARY = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
VALUES = ORDINARY | st.sampled_from((0.0, -0.0, 1.0, 1e-4, 1e30, -1e30))


@st.composite
def fills(draw: Any, tree: PyTree, elements: st.SearchStrategy[float]) -> PyTree:
    """Draw an array for each spec of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([draw(arrays(spec, elements)) for spec in leaves])


@st.composite
def problems(
    draw: Any,
    *,
    gradients: st.SearchStrategy[float] = GRADIENTS,
    complex_only: bool = False,
) -> tuple[PyTree, list[PyTree]]:
    """Draw parameters, and the gradients of one to three steps."""
    tree = draw(trees)
    if complex_only:
        tree = jax.tree.map(lambda s: Spec(COMPLEX[0], s.shape), tree)
    count = draw(st.integers(1, 3))
    grads = [draw(fills(tree, gradients)) for _ in range(count)]
    return draw(fills(tree, VALUES)), grads


def without_sign_of_zero(x: jax.Array) -> jax.Array:
    return jnp.asarray(np.asarray(x) + np.zeros((), x.dtype))


def run(tx: Any, params: PyTree, grads: list[PyTree], state: Any = None) -> Any:
    """Take a step for each of `grads`."""
    state = tx.init(params) if state is None else state
    for g in grads:
        params, state = tx.step(g, state, params)
    return params, state


def bits(x: PyTree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(x)]


def leafwise(result: Any) -> list[list[Any]]:
    """Return, for each parameter, itself and its buffers."""
    params, state = result
    columns = [jax.tree.leaves(params)]
    for buffers in state[1:]:
        if buffers is not None:
            columns.append(jax.tree.leaves(buffers))
    return [list(row) for row in zip(*columns, strict=True)]


# --- The laws ------------------------------------------------------------------------


@law
@given(setups(), problems())
def test_finite_gradients_give_finite_results_within_reach(setup, problem):
    params, grads = problem
    if "mu_dtype" in setup.chain.options:
        # What happens beyond is a known fault with a test of its own, below.
        sizes = [np.abs(as_reals(g).astype(np.float64)) for g in jax.tree.leaves(grads)]
        assume(all((size < 1e38).all() for size in sizes))
    before, state = run(setup.tx, params, grads[:-1])
    after, state = run(setup.tx, before, grads[-1:], state)
    assert all(np.isfinite(as_reals(x)).all() for x in jax.tree.leaves(state.mu))
    assert all(np.isfinite(as_reals(x)).all() for x in jax.tree.leaves(state.nu))
    t = len(grads)
    rate = setup.numbers["learning_rate"]
    # A moment kept in bfloat16 is off by up to 2**-9 of itself in each step.
    slack = 1.02 if "mu_dtype" in setup.chain.options else 1.0001
    for index, (p, q, nu) in enumerate(
        zip(*map(jax.tree.leaves, (before, after, state.nu)), strict=True)
    ):
        kind = ml_dtypes.finfo(real_of(p.dtype))
        most, tiny = float(kind.max), float(kind.smallest_normal)
        past = [as_reals(jax.tree.leaves(g)[index]).astype(np.float64) for g in grads]
        p, q = as_reals(p).astype(np.float64), as_reals(q).astype(np.float64)
        # Squares below the normal numbers are flushed to zero, and the denominator
        # lacks them: no bound is promised where they are the most of it.
        kept = as_reals(nu).astype(np.float64) > 1e4 * np.finfo(as_reals(nu).dtype).tiny
        silent = np.all(np.stack(past) == 0, axis=0)
        with np.errstate(invalid="ignore"):
            reach = np.where(silent, 0.0, np.where(kept, setup.reach(t), np.inf))
        bound = np.where(reach > 0, rate * reach, 0.0) if rate else np.zeros_like(p)
        bound = slack * (bound + setup.shrinkage() * np.abs(p))
        fits = np.abs(p) + bound < 0.99 * most
        assert np.isfinite(q[fits]).all(), (p, q)
        if setup.chain.keeps:
            rounding = float(kind.eps) * (np.abs(p) + np.abs(np.where(fits, q, 0)))
            moved = np.abs(np.where(fits, q - p, 0))
            assert (moved <= bound + rounding + tiny)[fits].all(), (p, q, bound)


@law
@given(setups(), problems(gradients=GRADIENTS | BAD))
def test_structure_shapes_and_dtypes_are_a_fixed_point(setup, problem):
    params, grads = problem
    tx = setup.tx
    start = params, tx.init(params)

    def types(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)

    after = run(tx, params, grads)
    assert jax.tree.structure(after) == jax.tree.structure(start)
    assert types(after) == types(start)
    updates, state = tx.update(grads[0], start[1], params)
    assert types((updates, state)) == types(start)
    assert int(after[1].step) == len(grads)


@law
@given(
    setups(decay=False, keeps=True),
    problems(gradients=st.sampled_from((0.0, -0.0))),
)
def test_without_gradient_and_decay_parameters_keep_their_bits(setup, problem):
    signed, grads = problem
    params = jax.tree.map(without_sign_of_zero, signed)
    after, state = run(setup.tx, params, grads)
    assert bits(after) == bits(params)
    for moment in (state.mu, state.nu):
        assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(moment))
    updates, _ = setup.tx.update(grads[0], setup.tx.init(params), params)
    assert bits(jax.tree.map(jnp.add, params, updates)) == bits(params)


@law
@given(setups(), problems(), st.data())
def test_a_bad_element_spoils_nothing_else(setup, problem, data):
    params, grads = problem
    leaves, structure = jax.tree.flatten(grads[0])
    index = data.draw(st.integers(0, len(leaves) - 1))
    values = np.array(as_reals(leaves[index]))
    assume(values.size)
    place = data.draw(st.integers(0, values.size - 1))
    values.flat[place] = data.draw(BAD)
    leaves[index] = from_reals(values.astype(np.float64), leaves[index].dtype)
    spoiled = [structure.unflatten(leaves), *grads[1:]]
    clean = leafwise(run(setup.tx, params, grads))
    dirty = leafwise(run(setup.tx, params, spoiled))
    for i, (ours, theirs) in enumerate(zip(dirty, clean, strict=True)):
        for x, y in zip(ours, theirs, strict=True):
            if i == index:
                if setup.chain.by_element:
                    x, y = as_reals(x).ravel(), as_reals(y).ravel()
                    assert bits(np.delete(x, place)) == bits(np.delete(y, place))
            elif setup.chain.by_leaf:
                assert bits(x) == bits(y)
            else:
                # The clip is off in this step: other numbers, and still numbers.
                assert np.isfinite(as_reals(x)).all() or not np.isfinite(y).all()


@law
@given(setups(by_leaf=True), problems())
def test_a_leaf_does_not_depend_on_other_leaves(setup, problem):
    params, grads = problem
    together = leafwise(run(setup.tx, params, grads))
    each = [jax.tree.leaves(g) for g in grads]
    for i, p in enumerate(jax.tree.leaves(params)):
        (alone,) = leafwise(run(setup.tx, {"x": p}, [{"x": g[i]} for g in each]))
        assert bits(alone) == bits(together[i])


@law
@given(setups(by_leaf=True), problems(), st.data())
def test_order_and_nesting_do_not_change_numbers(setup, problem, data):
    params, grads = problem
    count = len(jax.tree.leaves(params))
    order = data.draw(st.permutations(range(count)))
    depth = data.draw(st.integers(0, 3))

    def rearranged(tree: PyTree) -> PyTree:
        leaves = jax.tree.leaves(tree)
        result: PyTree = [leaves[i] for i in order]
        for _ in range(depth):
            result = {"inner": Pair(result, None), "empty": ()}
        return result

    ours = leafwise(run(setup.tx, params, grads))
    theirs = leafwise(run(setup.tx, rearranged(params), [rearranged(g) for g in grads]))
    assert [bits(ours[i]) for i in order] == [bits(row) for row in theirs]


@law
@given(setups(), problems(gradients=GRADIENTS | BAD), st.data())
def test_none_for_a_gradient_leaves_all_bits_of_its_leaf(setup, problem, data):
    params, grads = problem
    before, state = run(setup.tx, params, grads)
    leaves, structure = jax.tree.flatten(grads[-1])
    absent = data.draw(st.lists(st.booleans(), min_size=len(leaves)))[: len(leaves)]
    some = [None if no else g for no, g in zip(absent, leaves, strict=True)]
    last = run(setup.tx, before, [structure.unflatten(some)], state)
    full = leafwise(run(setup.tx, before, [structure.unflatten(leaves)], state))
    rows = zip(absent, leafwise((before, state)), leafwise(last), full, strict=True)
    for no, old, new, whole in rows:
        if no:
            assert bits(new) == bits(old)
        elif setup.chain.by_leaf:
            assert bits(new) == bits(whole)
    assert int(last[1].step) == len(grads) + 1


def is_two_reals(setup: Setup) -> bool:
    """Return whether a complex parameter means exactly what two real ones mean."""
    # A norm adds in another order, and bfloat16 has no complex counterpart.
    return not {"clip_norm", "mu_dtype"} & set(setup.chain.options)


if EXACT:
    # In the default lane a sum of two products becomes one of two FMAs, which depends
    # on the program; test_reference.py compares complex parameters with the oracle.

    @law
    @given(
        setups(by_leaf=True).filter(is_two_reals),
        problems(complex_only=True, gradients=GRADIENTS | BAD),
    )
    def test_a_complex_parameter_is_two_real_ones(setup, problem):
        params, grads = problem

        def parts(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.asarray(as_reals(x)), tree)

        ours = leafwise(run(setup.tx, params, grads))
        theirs = leafwise(run(setup.tx, parts(params), [parts(g) for g in grads]))
        for mine, other in zip(ours, theirs, strict=True):
            assert [bits(as_reals(x)) for x in mine] == [bits(x) for x in other]


@pytest.mark.parametrize("mu_dtype", ["float32", "bfloat16"] if WIDE else ["float16"])
def test_a_gradient_beyond_the_range_of_mu_dtype_does_no_harm(mu_dtype):
    params = {"w": jnp.ones(2)}
    grads = [{"w": jnp.array([1e41 if WIDE else 1e6, 1.0])}] + [{"w": jnp.ones(2)}] * 3
    params, state = run(optadamw.adamw(1e-3, mu_dtype=mu_dtype), params, grads)
    assert np.isfinite(params["w"]).all()
    assert np.isfinite(state.mu["w"]).all()


@pytest.mark.parametrize("route", ["step", "update"])
def test_a_negative_zero_without_gradient_and_decay_keeps_its_sign(route):
    params, grads = {"w": jnp.array([-0.0])}, {"w": jnp.zeros(1)}
    tx = optadamw.adamw(0.1, weight_decay=0.0)
    if route == "step":
        params, _ = tx.step(grads, tx.init(params), params)
    else:
        updates, _ = tx.update(grads, tx.init(params), params)
        params = jax.tree.map(jnp.add, params, updates)
    assert bits(params) == bits({"w": jnp.array([-0.0])})


if not (WIDE or EXACT):

    def test_the_laws_hold_in_float64_and_without_fused_multiply_adds():
        flags = f"{os.environ.get('XLA_FLAGS', '')} {NO_FMA}".strip()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
            env=os.environ | {"JAX_ENABLE_X64": "1", "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            timeout=None if LANE == "long" else 600,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert "12 passed" in done.stdout
