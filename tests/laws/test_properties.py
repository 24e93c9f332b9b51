"""Laws that hold for every tree, option and gradient, tried on random ones (R7).

`OPTADAMW_HYPOTHESIS=long python -m pytest tests/laws/test_properties.py` tries 20,000
examples with fresh seeds; without it, 8 of each law that are the same each time. A
process of its own runs the laws on float64 and complex128, in the exact lane: without
fused multiply-adds, the bits do not depend on how XLA arranges a program.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import optadamw
from tests.laws.random_problems import (
    BAD,
    GRADIENTS,
    WIDE,
    Pair,
    PyTree,
    Setup,
    as_reals,
    bits,
    from_reals,
    leafwise,
    problems,
    real_of,
    run,
    setups,
    without_sign_of_zero,
)

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
    max_examples=10 if WIDE else 8,
    derandomize=True,
    database=None,
    **_EVERY_LANE,
)

settings.register_profile("long", max_examples=2500, **_EVERY_LANE)
law = settings.get_profile(LANE)


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
    # on the program; `rules` compares complex parameters with the oracle.

    @law
    @given(
        setups(by_leaf=True).filter(is_two_reals),
        problems(complex_only=True, gradients=GRADIENTS | BAD),
    )
    def test_a_complex_parameter_is_two_real_ones(setup, problem):
        params, grads = problem

        def parts(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.asarray(as_reals(x)), tree)

        # Complex parameters have no kernel, and a NaN may have another sign in one.
        tx = optadamw.with_kernels(setup.tx, "xla")
        ours = leafwise(run(tx, params, grads))
        theirs = leafwise(run(tx, parts(params), [parts(g) for g in grads]))
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
