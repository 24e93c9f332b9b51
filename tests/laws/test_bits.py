"""Laws of bits: one step is one number, in whatever program it is computed.

Compared with the trajectory of a jitted step, in XLA's default mode for the CPU. What
eager mode and another compiler may change is held in ULPs here; `test_modes.py` holds
it to the bit where the CPU contracts no products.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import optadamw
from optadamw.native.kernel import why_not_default
from tests.support import contracted, trajectories, trees
from tests.support.compilations import Compilations
from tests.support.over import over
from tests.support.trajectories import STEPS, assert_agree, narrow, stack
from tests.support.transformations import EVERYTHING, ROWS, WIDE, Row

each_row = over(ROWS)
REPRESENTATIVE = [r for r in ROWS if r in EVERYTHING or r.name == "adamw-plain"]
WITHOUT_UPDATE_DTYPE = [r for r in REPRESENTATIVE if "update_dtype" not in r.options]

EAGER_ULPS = 4
SUMMED_ULPS = 16  # 1e-6

ROUNDED = (
    *("scale_by_adam-options", "adamw-mu_dtype", "adamw-everything_elementwise"),
)
"""Rows with a first moment in 16 bits."""

IN_A_SCAN_OF_MIXED = ROUNDED if jax.__version_info__ >= (0, 12) else ()
"""Of them a small leaf may part in a scan by an ulp: its moments are formed twice, and
the sum of two products is contracted one way or the other."""

BY_XLA = why_not_default() is not None
"""Whether XLA runs all steps. A kernel computes alike in every program."""
IN_A_SCAN = {
    name: "the sum of two products, rate * gradient and decay * parameter, is "
    "contracted one way or the other"
    for name in ("add_decoupled_weight_decay-independent", "custom-momentum")
    if jax.__version_info__ >= (0, 12) and BY_XLA
}
UNROLLED = {
    name: "the sum of two products, of the moment and of the gradient, is contracted "
    "one way or the other"
    for name in ("adamw-nesterov", "adamw-nesterov-current")
    if BY_XLA
}
if jax.__version_info__ >= (0, 12) and BY_XLA:
    LOOKAHEAD = "keep * slow + take * parameter is contracted one way or the other"
    IN_A_SCAN["custom-lookahead"] = UNROLLED["custom-lookahead-16-bit"] = LOOKAHEAD
APART = {
    name: "an update that ends in a product is contracted with the addition in `step`"
    for name in ("scale_by_learning_rate", "ema_params-overwrite")
}


# --- jit = donated = scan = unrolled = vmap = split ----------------------------------


@each_row
def test_a_donated_step_is_the_same_and_equal_instances_share_it(row):
    run = trajectories.of(row)
    params, state = narrow(row, jax.tree.map(jnp.copy, (run.params, run.state)))
    given, compiled = jax.tree.leaves((params, state)), []
    # One instance per step, as when a script is run again in a session.
    steps = [jax.jit(row.make().step, donate_argnums=(1, 2)) for _ in run.grads]
    for step, grads, expected in zip(steps, run.grads, run.after, strict=True):
        with Compilations() as compilations:
            params, state = step(narrow(row, grads), state, params)
        assert_agree(row, (params, state), narrow(row, expected))
        compiled.append(compilations.count)
    assert compiled == [1] + [0] * (STEPS - 1)
    assert all(x.is_deleted() for x in given)


@over(ROWS, IN_A_SCAN)
def test_a_scan_is_the_same(row):
    run = trajectories.of(row)
    scan = jax.jit(functools.partial(jax.lax.scan, trajectories.scan_body(run.tx)))
    carry, grads, after = narrow(row, ((run.params, run.state), run.grads, run.after))
    assert_agree(row, scan(carry, stack(grads))[1], stack(after))


@over(ROWS, UNROLLED)
def test_steps_unrolled_into_one_program_are_the_same(row):
    run = trajectories.of(row)

    @jax.jit
    def unrolled(params: Any, state: Any, grads: Any) -> Any:
        for g in grads:
            params, state = run.tx.step(g, state, params)
        return params, state

    before, expected = (run.params, run.state, run.grads), run.after[-1]
    assert_agree(row, unrolled(*narrow(row, before)), narrow(row, expected))


@each_row
def test_vmap_is_the_same_as_a_loop(row):
    """Over parameters, states (each at another step) and gradients."""
    run = trajectories.of(row)
    befores = [
        (g, state._replace(step=jnp.int32(7 * i)), params)
        for i, (g, (params, state)) in enumerate(zip(run.grads, run.after, strict=True))
    ]
    expected = narrow(row, stack([run.step(*before) for before in befores]))
    vmapped = jax.jit(jax.vmap(run.tx.step))
    actual = tuple(vmapped(*stack(narrow(row, befores))))
    if row.name == "adamw-accumulate":
        # On jax 0.10 the scale of the mean is contracted into y - x of a running mean.
        trees.assert_same_types(actual, expected)
        assert trees.largest_difference(actual, expected) <= 1e-7
    elif contracted.may_differ(row):
        contracted.assert_within_an_ulp(actual, expected)
    else:
        assert_agree(row, actual, expected)


@pytest.mark.parametrize(
    "options", [{}, {"skip_nonfinite": True}, {"accumulate_steps": 2}], ids=str
)
def test_a_condition_under_vmap_moves_nu_by_a_few_units_in_the_last_place(options):
    """numerics.md says this much, and that without a condition nothing differs."""
    rate, count = 1e-2, 2
    tx = optadamw.adamw(rate, **options)
    draws = jax.random.normal(jax.random.key(0), (5, count, 64, 64))
    loop, vmapped = jax.jit(tx.step), jax.jit(jax.vmap(tx.step))
    each = [(p, tx.init(p)) for p in draws[0]]
    params, state = draws[0], jax.vmap(tx.init)(draws[0])
    for grads in draws[1:]:
        each = [loop(g, s, p) for g, (p, s) in zip(grads, each, strict=True)]
        params, state = vmapped(grads, state, params)
    alone, alone_state = stack(each)
    trees.assert_same_bits(state.mu, alone_state.mu)
    if not options:
        trees.assert_same_bits((params, state), (alone, alone_state))
        return
    off = np.abs(np.asarray(state.nu - alone_state.nu))
    assert np.all(off <= 3 * np.spacing(np.asarray(alone_state.nu)))
    assert np.mean(off > 0) <= 0.25
    moved = np.abs(np.asarray(params - alone))
    assert np.max(moved) <= 1e-4 * rate and np.mean(moved > 0) <= 0.03


def test_a_program_that_makes_the_state_too():
    """The number of each step is a constant there; numerics.md says what follows."""
    rate = 1e-2
    tx = optadamw.adamw(rate)
    params, *draws = jax.random.normal(jax.random.key(0), (4, 64, 64))
    alone, state, seen = params, tx.init(params), []
    for grads in draws:
        alone, state = jax.jit(tx.step)(grads, state, alone)
        seen.append((alone, state.mu, state.nu))

    @jax.jit
    def program(params: Any, draws: Any) -> Any:
        state, found = tx.init(params), []
        for grads in draws:
            params, state = tx.step(grads, state, params)
            found.append((params, state.mu, state.nu))
        return found

    for (a, *moments), (b, *expected) in zip(program(params, draws), seen, strict=True):
        trees.assert_same_bits(moments, expected)
        off = np.abs(np.asarray(a - b))
        assert np.all(off <= 1e-4 * rate)
        assert np.mean(off > 0) <= (0.1 if jax.__version__ < "0.11" else 0.0)


SPLIT = [row for row in WIDE if "parameter" not in row.sums and not row.draws]


@over(SPLIT)
def test_one_leaf_is_the_same_as_many(row):
    run = trajectories.of(row)
    params, state, grads, after = _in_pieces(
        narrow(row, (run.params, run.state, run.grads, run.after))
    )
    step = jax.jit(run.tx.step)
    for g, expected in zip(grads, after, strict=True):
        params, state = step(g, state, params)
        assert_agree(row, (params, state), expected)


def _in_pieces(tree: Any) -> Any:
    """`tree` with every kernel cut into two leaves of other shapes."""

    def cut(leaves: dict[str, Any]) -> dict[str, Any]:
        flat = leaves["kernel"].reshape(-1)
        return leaves | {"kernel": [flat[:6].reshape(2, 3), flat[6:]]}

    return trajectories.map_dicts(cut, tree)


def test_every_dtype_is_the_same_in_a_scan():
    (row,) = (row for row in EVERYTHING if row.is_elementwise)
    tx, params = row.make(), trees.normal(trees.MIXED, seed=0)
    grads = [trees.normal(trees.MIXED, seed=1 + i) for i in range(STEPS)]
    step, carry, after = jax.jit(tx.step), (params, tx.init(params)), []
    for g in grads:
        carry = tuple(step(g, carry[1], carry[0]))
        after.append(carry)
    scan = jax.jit(functools.partial(jax.lax.scan, trajectories.scan_body(tx)))
    _, scanned = scan((params, tx.init(params)), stack(grads))
    if row.name in IN_A_SCAN_OF_MIXED:
        trees.assert_same_types(scanned, stack(after))
        assert trees.largest_difference(scanned, stack(after)) <= 1e-6
    else:
        trees.assert_same_bits(scanned, stack(after))


# --- Eager ---------------------------------------------------------------------------

LANDS = {"schedule_free"}
"""Rows whose update is the difference of two parameters, a sum that cancels: the ULPs
are those of the parameter on which it lands."""


@each_row
def test_eager_is_within_ulps_of_the_jitted_update(row):
    """B3: 4 ULP of the update per step, from the same state.

    The gradients have the parameters' signs (turned, for ascent) and turn only where
    the moments outweigh them, so that no sum cancels: a cancelled sum has no accuracy
    in ULPs of its own.
    """
    run = trajectories.of(row)
    params = jax.tree.map(lambda p: p + jnp.sign(p), run.params)
    state, (update, apply) = run.tx.init(params), _programs(row)
    for index in range(STEPS):
        grads = jax.tree.map(
            functools.partial(_agreeing, index, -1 if row.ascends else 1), params
        )
        eager = run.tx.update(grads, state, params)
        jitted = update(grads, state, params)
        pair = eager, jitted
        if row.name in LANDS:
            pair = tuple((apply(params, made[0]), made[1]) for made in pair)
        worst = jax.tree.map(_ulps_apart, *pair)
        limit = EAGER_ULPS if row.is_elementwise else SUMMED_ULPS
        assert max(jax.tree.leaves(worst)) <= limit, worst
        updates, state = jitted
        params = apply(params, updates)


def _agreeing(index: int, sign: int, param: jax.Array) -> jax.Array:
    """A gradient with the sign of `param`; at the last step, some weakly against."""
    rng = np.random.default_rng(index)
    size = rng.uniform(0.5, 2.0, param.shape) * sign
    if index == STEPS - 1:
        size = np.where(rng.uniform(size=param.shape) < 0.3, -0.3 * size, size)
    return jnp.asarray(size, param.dtype) * jnp.sign(param)


def _ulps_apart(actual: jax.Array, expected: jax.Array) -> float:
    if jnp.issubdtype(actual.dtype, jnp.integer):
        return float(jnp.max(jnp.abs(actual - expected)))
    info = ml_dtypes.finfo(actual.dtype)
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    _, exponent = np.frexp(np.maximum(np.abs(expected), float(info.tiny)))
    ulp = 2.0 ** (exponent - 1 - info.nmant)
    return float(np.max(np.abs(actual - expected) / ulp))


# --- update + apply_updates = step ---------------------------------------------------


@functools.cache
def _programs_of(name: str) -> Any:
    row = next(row for row in ROWS if row.name == name)
    return jax.jit(row.make().update), jax.jit(optax.apply_updates)


def _programs(row: Row) -> Any:
    return _programs_of(row.name)


@each_row
def test_updates_applied_in_one_program_land_on_what_step_writes(row):
    run = trajectories.of(row)

    @jax.jit
    def together(grads: Any, state: Any, params: Any) -> Any:
        updates, state = run.tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    befores = [(run.params, run.state), *run.after[:-1]]
    for grads, before, expected in zip(run.grads, befores, run.after, strict=True):
        actual = together(grads, before[1], before[0])
        _assert_lands(row, before[0], actual, expected)


@over(ROWS, APART)
@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_updates_applied_by_another_program_land_on_what_step_writes(row, mode):
    run = trajectories.of(row)
    update, apply = _programs(row)
    befores = [(run.params, run.state), *run.after[:-1]]
    for grads, before, expected in zip(run.grads, befores, run.after, strict=True):
        params, state = before
        if mode == "eager":
            update, apply = run.tx.update, optax.apply_updates
            # Eagerly XLA contracts other products; a kernel is the jitted step.
            by_xla = optadamw.with_kernels(row.make(), "xla")
            expected = by_xla.step(grads, state, params)
        updates, state = update(grads, state, params)
        _assert_lands(row, params, (apply(params, updates), state), expected)


def _assert_lands(row: Row, before: Any, actual: Any, expected: Any) -> None:
    """To the bit, but for misses that the contract states."""
    if contracted.may_differ(row):
        contracted.assert_within_an_ulp(actual, expected)
        return
    if not row.is_elementwise:
        assert_agree(row, actual, expected)
        return
    trees.assert_same_bits(actual[1], expected[1])
    for name, p in before.items():
        a, e = np.asarray(actual[0][name]), np.asarray(expected[0][name])
        missed = a != e
        if _may_miss(row, e.dtype):
            missed &= _within_a_factor_of_two(p, e)
        assert not np.any(missed), (name, a[missed], e[missed])


def _may_miss(row: Row, dtype: Any) -> bool:
    """Whether the update is `target - parameter`, exact only near the parameter."""
    if row.options.get("update_dtype") is not None:
        return row.overwrites and dtype == np.float32
    narrow = ml_dtypes.finfo(dtype).bits == 16
    return row.overwrites or (narrow and row.is_whole)


def _within_a_factor_of_two(p: Any, target: Any) -> np.ndarray:
    p, target = (np.asarray(x, np.float64) for x in (p, target))
    return (target * p > 0) & (abs(target) <= 2 * abs(p)) & (abs(p) <= 2 * abs(target))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("update_dtype", [None, "float32"])
def test_sixteen_bit_updates_miss_only_beyond_a_factor_of_two(dtype, update_dtype):
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.normal(size=100_000), dtype) for _ in range(2))

    # Two programs, and no arrays that a program holds as constants: with both, XLA may
    # contract other products (docs/guides/native.md).
    def made(rate: jax.Array) -> Any:
        return optadamw.adamw(rate, weight_decay=0.1, update_dtype=update_dtype)

    @jax.jit
    def stepped(rate: jax.Array, grads: Any, state: Any, params: Any) -> Any:
        return made(rate).step(grads, state, params)[0]

    @jax.jit
    def updated(rate: jax.Array, grads: Any, state: Any, params: Any) -> Any:
        updates, _ = made(rate).update(grads, state, params)
        return optax.apply_updates(params, updates)

    state = made(jnp.float32(0)).init(params)
    # The shares that miss where the update is as narrow as the parameter: measured
    # for bfloat16 0.03, 0.3 and 3.3 %.
    for rate, share in ((1e-3, 1e-3), (1e-2, 1e-2), (0.1, 0.05)):
        given = jnp.float32(rate), grads, state, params
        target, applied = np.asarray(stepped(*given)), np.asarray(updated(*given))
        missed = target != applied
        if update_dtype is None:
            assert not np.any(missed & _within_a_factor_of_two(params, target))
            assert 0 < missed.mean() < share
        else:
            assert not np.any(missed)


@over(WITHOUT_UPDATE_DTYPE)
def test_float64_updates_land_on_what_step_writes(row):
    with jax.enable_x64(True):
        kinds = {"kernel": (jnp.float64, (3, 5)), "bias": (jnp.complex128, (4,))}
        tx, params = row.make(), trees.normal(kinds, seed=0)
        state, step = tx.init(params), jax.jit(tx.step)
        for i in range(STEPS):
            grads = trees.normal(kinds, seed=1 + i)
            updates, _ = jax.jit(tx.update)(grads, state, params)
            applied = optax.apply_updates(params, updates)
            params, state = step(grads, state, params)
            if row.is_elementwise and not row.overwrites:
                trees.assert_same_bits(applied, params)
            else:
                assert trees.largest_difference(applied, params) <= 1e-15


# --- The checks themselves -----------------------------------------------------------


def test_a_difference_of_one_bit_is_noticed():
    row = ROWS[0]
    one = {"a": jnp.ones(3)}
    other = {"a": jnp.ones(3).at[1].set(1 + 2.0**-23)}
    with pytest.raises(AssertionError, match="1 of 3 differ"):
        assert_agree(row, other, one)
    assert _ulps_apart(other["a"], one["a"]) == 1.0
