"""The norm in C: the true norm, rounded once, with equal bits wherever it is called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import optadamw
from optadamw.native import kernel, library
from optadamw.native import norm as norms
from tests.native import running
from tests.support.compilations import Compilations

pytestmark = running.needs_compiler

SIZES = (0, 1, 63, 64, 65, 65_535, 65_536, 65_537, 200_001)
DTYPES = ("float32", "bfloat16", "float16")
CALL = 'custom_call_target="optadamw_norm_'
MOST = float(np.finfo(np.float32).max)


def gradients(dtype="float32", sizes=SIZES, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=n) * scale, dtype) for n in sizes]


def measuring(kernel="auto", **options):
    """A transformation that measures norms, without a pass over the leaves."""
    tx = optadamw.with_stats(optadamw.scale_by_learning_rate(1.0), **options)
    return optadamw.with_kernels(tx, kernel)


def measured(tx, grads):
    return optadamw.stats_of(tx.update(grads, tx.init(grads))[1])


def norm_of(grads):
    return measured(measuring(), grads).grad_norm


def true_norm(grads):
    wide = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(grads)]
    return np.sqrt(sum(x @ x for x in wide))


# --- its value -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_true_norm_rounded_once(dtype):
    for seed in range(4):
        grads = gradients(dtype, seed=seed)
        # An error in double of 1e-12 changes a rounding in one of 1e4 norms or so.
        assert norm_of(grads) == np.float32(true_norm(grads)), seed


def test_gradients_of_several_dtypes_count():
    pairs = zip(DTYPES, (5, 70, 300), strict=True)
    grads = [gradients(dtype, (n,))[0] for dtype, n in pairs]
    assert norm_of(grads) == np.float32(true_norm(grads))


def test_many_small_numbers_are_all_counted():
    """Ones that are added in float32 one by one stay at 2**24."""
    assert norm_of([jnp.ones(2**25)]) == np.float32(np.sqrt(2.0**25))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_seen(value):
    """The last number, and one of each lane of a sum."""
    for place in (0, 63, 64, 65_536, 200_000):
        grads = gradients(sizes=(3, 200_001))
        grads[1] = grads[1].at[place].set(value)
        actual = float(norm_of(grads))
        assert np.isnan(actual) if np.isnan(value) else actual == np.inf


def test_a_square_that_float32_cannot_hold():
    """Without a guard such gradients have a norm; a guard skips the step, as by XLA."""
    grads = [jnp.full(100, 1e30), jnp.ones(3)]
    assert norm_of(grads) == np.float32(1e31)
    assert norm_of([jnp.full(4, MOST)]) == np.inf
    for choice in ("auto", "xla"):
        tx = optadamw.skip_nonfinite(measuring(choice))
        assert measured(tx, grads).skipped == 1


def test_squares_below_the_normal_numbers_of_float32_count():
    """XLA's sum in float32 loses them. Denormal gradients count as zero in both."""
    assert norm_of([jnp.full(4, 1e-25)]) == np.float32(2e-25)
    assert np.asarray(norm_of([jnp.full(4, 1e-40)])) == 0.0


def test_xla_counts_squares_below_the_normal_numbers_as_zero():
    """XLA's norm is 0 then; the norm in C and the reproducible norm are right."""
    grads = {"w": jnp.full(100, 1e-20)}
    assert measured(measuring("xla"), grads).grad_norm == 0.0
    right = [measuring(), optadamw.with_reproducible_norms(measuring("xla"))]
    for tx in right:
        assert abs(measured(tx, grads).grad_norm / 1e-19 - 1) < 1e-6


def test_groups_have_norms_of_their_own():
    grads = {"a": gradients(sizes=(70,))[0], "b": gradients(sizes=(300,), seed=1)[0]}
    groups = measured(measuring(groups={"a": "a", "b": "b"}), grads).groups
    for name, group in groups.items():
        assert group.grad_norm == np.float32(true_norm(grads[name]))


def test_more_gradients_than_one_call_takes():
    grads = gradients(sizes=[3 + i % 7 for i in range(norms.GRADIENTS * 2 + 1)])
    assert norm_of(grads) == np.float32(true_norm(grads))
    tx = optadamw.clip_by_global_norm(1.0)
    text = compiled(jax.jit(tx.update), grads, tx.init(grads), grads)
    assert text.count(CALL) == 3


# --- where it is called --------------------------------------------------------------


def compiled(function, *arguments):
    return function.lower(*arguments).compile().as_text()


def trained(tx):
    """A function of one number whose result shows the norm of its gradients."""
    base = gradients(sizes=(7, 70_000))

    def found(factor):
        grads = [x * factor for x in base]
        return measured(tx, grads).grad_norm

    return found


def test_it_has_equal_bits_in_every_program():
    found, factors = trained(measuring()), jnp.asarray([0.3, 1.7, 2.9])
    alone = [jax.jit(found)(x) for x in factors]
    ways = {
        "eagerly": [found(x) for x in factors],
        "vmap": jax.vmap(found)(factors),
        "vmap of vmap": jax.vmap(jax.vmap(found))(factors.reshape(3, 1))[:, 0],
        "scan": lax.scan(lambda _, x: (None, found(x)), None, factors)[1],
        "jvp": [jax.jvp(found, (x,), (jnp.ones(()),))[0] for x in factors],
        "cond": [lax.cond(x > 0, found, lambda x: x, x) for x in factors],
    }
    for name, way in ways.items():
        assert np.array_equal(np.asarray(way), np.asarray(alone)), name


def test_without_jit_it_has_the_bits_of_jit():
    grads = gradients()
    expected = norm_of(grads)
    with jax.disable_jit():
        assert norm_of(grads) == expected


def test_a_batch_of_some_gradients_alone():
    one, many = gradients(sizes=(5, 70))
    rows = jnp.stack([many, 2 * many])
    actual = jax.vmap(lambda row: norm_of([one, row]))(rows)
    assert np.array_equal(actual, [norm_of([one, row]) for row in rows])


def test_its_derivative_is_that_of_xla():
    ways = [measuring(choice) for choice in ("auto", "xla")]
    actual, expected = (jax.grad(trained(tx))(1.3) for tx in ways)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_step_is_traced_once():
    tx = optadamw.adamw(1e-3, clip_global_norm=1.0, kernel="native")
    params = gradients(sizes=(7, 70))
    state, step = tx.init(params), jax.jit(tx.step)
    params, state = step(params, state, params)
    with Compilations() as seen:
        step(params, state, params)
    assert not seen.count


def test_an_exported_module_has_xla_s_norm():
    tx = optadamw.clip_by_global_norm(1.0)
    grads = gradients(sizes=(7, 70))
    update = jax.jit(lambda grads: tx.update(grads, tx.init(grads))[0])
    assert CALL in compiled(update, grads)
    exported = export.export(update)(grads)
    assert "optadamw_norm" not in exported.mlir_module()
    pairs = zip(exported.call(grads), update(grads), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_other_dtypes_have_xla_s_norm(dtype):
    with jax.enable_x64():
        grads = [jnp.ones(5, dtype), jnp.ones(3)]
        tx = optadamw.with_kernels(optadamw.clip_by_global_norm(1.0), "auto")
        update = jax.jit(tx.update)
        assert CALL not in compiled(update, grads, tx.init(grads), grads)


def test_without_kernels_it_is_xla_s(monkeypatch):
    grads = gradients(sizes=(7, 70))
    for choice, environment in (("xla", "1"), ("auto", "0")):
        monkeypatch.setenv(kernel.SWITCH, environment)
        tx = optadamw.with_kernels(optadamw.clip_by_global_norm(1.0), choice)
        update = jax.jit(lambda g, tx=tx: tx.update(g, tx.init(g))[0])
        assert CALL not in compiled(update, grads)


# --- faults --------------------------------------------------------------------------

FAULTS = {
    "the rest of a piece is left out": ("i + j < n;", "i + j + 1 < n;"),
    "a lane is left out": ("j < width;", "j + 1 < width;"),
    "sums in float32": ("double sums[LANES]", "float sums[LANES]"),
    "denormals are kept": ("old | 0x8040u", "old & ~0x8040u"),
    "a row is taken for another": ("piece->leaf % rows *", "0 *"),
    "the sums before are dropped": ("sum += more", "sum = more"),
}


def test_without_a_fault_the_norms_are_right():
    check_some_norms(70)


@pytest.mark.parametrize(("number", "name"), [*enumerate(FAULTS, 71)], ids=FAULTS)
def test_a_fault_in_the_source_is_noticed(number, name, monkeypatch):
    """Gradients of a size of their own are traced anew, with the fault."""
    old, new = FAULTS[name]
    source_of = library.source_of_norm

    def with_fault():
        source = source_of()
        assert old in source
        return source.replace(old, new)

    monkeypatch.setattr(norms, "source_of_norm", with_fault)
    norms.forget()
    try:
        with pytest.raises(AssertionError):
            check_some_norms(number)
    finally:
        norms.forget()


def check_some_norms(size):
    many = gradients(sizes=[size] * (norms.GRADIENTS + 1))
    assert norm_of(many) == np.float32(true_norm(many))
    # JAX itself takes a denormal for zero.
    assert np.asarray(norm_of([jnp.full(size, 1e-40)])) == 0.0
    large = [jnp.full(size, 1e30)]
    assert norm_of(large) == np.float32(true_norm(large))
    rows = jnp.stack([many[0], many[1]])
    found = jax.vmap(lambda x: norm_of([x]))(rows)
    assert np.array_equal(found, [np.float32(true_norm(x)) for x in rows])
