"""Laws of company: a transformation does the same inside Optax's chains and wrappers.

Types are held over every row; numbers, which a wrapper could only change by what it
passes on, over the rows that have everything.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import optadamw
from optadamw.base.adjustable import Adjustable
from optadamw.store.state import SCALARS
from tests.support import trajectories, trees
from tests.support.compilations import Compilations
from tests.support.hyperparameters import cooling
from tests.support.over import over
from tests.support.transformations import ADAMW, EVERYTHING, NUMBERS, ROWS, WIDE

each_row = over(ROWS)
everything = over(EVERYTHING)

PARTED = [row for row in ADAMW if row.parts]
INJECTABLE = [row for row in (*ADAMW, *EVERYTHING) if row.options]


# --- Chains --------------------------------------------------------------------------


@over(PARTED)
def test_adamw_is_the_chain_of_its_atoms(row):
    atoms = [
        atom for part in row.parts for atom in (part if _is_group(part) else (part,))
    ]
    assert optadamw.chain(*atoms) == row.make()
    assert optadamw.chain(optadamw.chain(*atoms[:1]), *atoms[1:]) == row.make()


@over(PARTED)
def test_adamw_is_the_optax_chain_of_its_atoms(row):
    """To a few ULP of the largest update: Optax's chain rounds between the atoms.

    An update that overwrites is a difference of two rounded parameters, and good to
    a few ULP of those.
    """
    apart = optax.chain(
        *[optadamw.chain(*part) if _is_group(part) else part for part in row.parts]
    )
    tx, params = row.make(), trees.normal(trees.FLOATS, seed=0)
    state, other = tx.init(params), apart.init(params)
    for seed in range(3):
        grads = trees.normal(trees.FLOATS, seed=1 + seed)
        updates, state = tx.update(grads, state, params)
        theirs, other = apart.update(grads, other, params)
        following = optax.apply_updates(params, updates)
        if row.overwrites:
            theirs, updates = optax.apply_updates(params, theirs), following
        assert trees.largest_difference(theirs, updates) <= 4 * 2**-23
        params = following


def _is_group(part: Any) -> bool:
    return not isinstance(part, optax.GradientTransformation)


def test_foreign_parts_stand_on_both_sides():
    ours = optadamw.adamw(**NUMBERS)
    tx = optax.chain(optax.scale(2.0), ours, optax.scale(0.5))
    params, grads = _params_and_grads()
    doubled = jax.tree.map(lambda g: 2 * g, grads)
    expected, _ = ours.update(doubled, ours.init(params), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    halved = jax.tree.map(lambda u: (0.5 * u).astype(u.dtype), expected)
    trees.assert_same_bits(updates, halved)


@everything
def test_step_is_for_any_transformation_of_optax(row):
    """Ours steps in place; others go through `update` and `apply_updates`."""
    params, grads = _params_and_grads()
    ours = row.make()
    foreign = optax.chain(optax.identity(), ours)
    expected, _ = ours.step(grads, ours.init(params), params)
    direct, _ = optadamw.step(ours, grads, ours.init(params), params, loss=1.0)
    trees.assert_same_bits(direct, expected)
    apart, _ = optadamw.step(foreign, grads, foreign.init(params), params, loss=1.0)
    assert trees.largest_difference(apart, expected) <= 2**-8
    plain = optax.sgd(0.5)
    moved, _ = optadamw.step(plain, grads, plain.init(params), params)
    updates, _ = plain.update(grads, plain.init(params), params)
    trees.assert_same_bits(moved, optax.apply_updates(params, updates))


# --- Wrappers ------------------------------------------------------------------------


def _everywhere(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


def _labels(params: Any) -> Any:
    return jax.tree.map(lambda _: "all", params)


def _partitioned(tx: Any) -> Any:
    return optax.partition({"all": tx, "none": optax.set_to_zero()}, _labels)


def _multi_steps(tx: Any) -> Any:
    return optax.MultiSteps(tx, every_k_schedule=1).gradient_transformation()


def _injected_scale(tx: Any) -> Any:
    scale = optax.inject_hyperparams(optax.scale)(step_size=1.0)
    return optax.chain(scale, tx)


WRAPPERS = {
    "chain": optax.chain,
    "masked": partial(optax.masked, mask=_everywhere),
    "partition": _partitioned,
    "apply_if_finite": partial(optax.apply_if_finite, max_consecutive_errors=2),
    "MultiSteps": _multi_steps,
    "inject_hyperparams": _injected_scale,
}
each_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)


KEEPING_DTYPES = [row for row in ROWS if "update_dtype" not in row.options]
"""apply_if_finite needs updates of the gradients' dtypes."""


@over(KEEPING_DTYPES)
@each_wrapper
def test_types_are_a_fixed_point_inside_wrappers(row, wrapper):
    params = trees.normal(trees.PAIR, seed=0)
    bare, tx = row.make(), wrapper(row.make())
    state = tx.init(params)
    updates, after = jax.eval_shape(tx.update, params, state, params)
    trees.assert_same_types(after, state)
    wanted, _ = jax.eval_shape(bare.update, params, bare.init(params), params)
    assert _shapes_and_dtypes(updates) == _shapes_and_dtypes(wanted)
    trees.assert_same_types(jax.eval_shape(tx.init, params), state)


def _shapes_and_dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@everything
@each_wrapper
def test_numbers_are_the_same_inside_wrappers(row, wrapper):
    params, grads = (trees.normal(trees.FLOATS, seed=i) for i in range(2))
    bare, tx = row.make(), wrapper(row.make())
    expected, kept = bare.update(grads, bare.init(params), params)
    updates, state = tx.update(grads, tx.init(params), params)
    # Some wrappers compile the update into a `cond`, which may contract products.
    assert trees.largest_difference(updates, expected) <= 1e-6
    assert trees.largest_difference(_record_in(state), kept) <= 1e-6
    trees.assert_same_bits(optadamw.ema_of(state), _record_in(state).ema)


def _record_in(state: Any) -> optadamw.State:
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optadamw.State))
    (record,) = [node for node in nodes if isinstance(node, optadamw.State)]
    return record


@everything
def test_masked_parameters_have_no_buffers_and_keep_their_gradients(row):
    params, grads = _params_and_grads()
    tx = optax.masked(row.make(), {"kernel": True, "bias": False})
    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    trees.assert_same_bits(updates["bias"], grads["bias"])
    assert len(jax.tree.leaves(state.inner_state.nu)) == 1


def test_partition_gives_each_group_its_own():
    params, grads = _params_and_grads()
    groups = {
        "kernel": optadamw.adamw(0.1, weight_decay=0.2, amsgrad=True),
        "bias": optadamw.adamw(0.01, b1=0.8, ema_decay=0.9),
    }
    tx = optax.multi_transform(groups, {name: name for name in params})
    updates, _ = tx.update(grads, tx.init(params), params)
    for name, part in groups.items():
        p, g = {name: params[name]}, {name: grads[name]}
        alone, _ = part.update(g, part.init(p), p)
        trees.assert_same_bits(updates[name], alone[name])


def test_two_micro_steps_of_multi_steps_are_one_step_of_their_mean():
    params, grads = _params_and_grads()
    _, other = _params_and_grads(seed=7)
    ours = optadamw.adamw(0.1, weight_decay=0.2, ema_decay=0.9)
    tx = optax.MultiSteps(ours, every_k_schedule=2)
    state = tx.init(params)
    for g in (grads, other):
        updates, state = tx.update(g, state, params)
    mean = jax.tree.map(lambda a, b: ((a + b) / 2).astype(a.dtype), grads, other)
    expected, _ = ours.update(mean, ours.init(params), params)
    close = partial(np.testing.assert_allclose, rtol=1e-6)
    close(updates["kernel"], expected["kernel"])
    assert int(_record_in(state).step) == 1


def test_apply_if_finite_leaves_the_record_of_a_bad_step_as_it_was():
    params, grads = _params_and_grads()
    tx = optax.apply_if_finite(optadamw.adamw(**NUMBERS), max_consecutive_errors=5)
    before = tx.init(params)
    bad = grads | {"bias": grads["bias"].at[1].set(jnp.nan)}
    updates, after = tx.update(bad, before, params)
    assert not any(np.any(np.asarray(u)) for u in jax.tree.leaves(updates))
    trees.assert_same_bits(_record_in(after), _record_in(before))


@each_row
def test_tree_map_params_reaches_every_buffer_and_not_the_counter(row):
    tx, params = row.make(), trees.normal(trees.PAIR, seed=0)
    state = tx.init(params)
    marked = optax.tree_utils.tree_map_params(
        tx, lambda _: "buffer", state, transform_non_params=lambda _: "other"
    )
    assert marked.step == "other"
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    for name, tree in marked._asdict().items():
        wanted = {"other"} if name in SCALARS else {"buffer"}
        assert set(jax.tree.leaves(tree)) <= wanted, name


# --- Hyperparameters in the state ----------------------------------------------------


@over(INJECTABLE)
def test_inject_hyperparams_does_what_arrays_do(row):
    # `residual_bits` chooses the dtype of a buffer, so it is no array.
    static = ("mask", "residual_bits")
    tx = optax.inject_hyperparams(optadamw.adamw, static_args=static)(**row.options)
    params, grads = _params_and_grads()
    state = tx.init(params)
    arrays = {name: jnp.asarray(x) for name, x in state.hyperparams.items()}
    bare = optadamw.adamw(**(row.options | arrays))
    updates, after = tx.update(grads, state, params)
    expected, kept = bare.update(grads, bare.init(params), params)
    trees.assert_same_bits(updates, expected)
    trees.assert_same_bits(after.inner_state, kept)
    trees.assert_same_types(after, state)
    traced = jax.eval_shape(tx.update, grads, state, params)
    trees.assert_same_types(traced, (updates, after))
    numeric = {"learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"}
    # An adjustable number is in the inner state, and Optax sees no number.
    held = {k for k, v in row.options.items() if isinstance(v, Adjustable)}
    assert numeric - held <= set(state.hyperparams)
    assert not {"mask", "nesterov", "amsgrad", "eps_mode"} & set(state.hyperparams)


def test_a_new_injected_learning_rate_compiles_nothing():
    """C4, C9: a sweep is one program, whose arguments are in the state."""
    tx = optax.inject_hyperparams(optadamw.adamw)(learning_rate=0.1)
    params, grads = _params_and_grads()
    update, state = jax.jit(tx.update), tx.init(params)
    first, _ = update(grads, state, params)
    rates = [jnp.float32(0.2), jnp.float32(0.0)]
    with Compilations() as compilations:
        for rate in rates:
            state.hyperparams["learning_rate"] = rate
            last, _ = update(grads, state, params)
    assert compilations.count == 0
    assert np.any(np.asarray(first["kernel"])) and not np.any(
        np.asarray(last["kernel"])
    )


def test_injected_schedules_see_what_schedules_see():
    params, grads = _params_and_grads()
    injected = optax.inject_hyperparams(optadamw.adamw)(cooling, weight_decay=0.1)
    plain = optadamw.adamw(cooling, weight_decay=0.1)
    states = [tx.init(params) for tx in (injected, plain)]
    for _ in range(3):
        found = []
        for i, tx in enumerate((injected, plain)):
            updates, states[i] = tx.update(grads, states[i], params)
            found.append(updates["kernel"])
        np.testing.assert_allclose(*found, rtol=1e-5)


# --- Extra arguments -----------------------------------------------------------------


@each_row
def test_extra_arguments_are_accepted(row):
    params, grads = _params_and_grads()
    tx = row.make()
    chained = optax.chain(optax.identity(), tx)
    state = tx.init(params)
    for method in (tx.update, tx.step):
        plain = method(grads, state, params)
        extra = method(grads, state, params, loss=jnp.float32(1), nobody_knows="this")
        trees.assert_same_bits(tuple(extra), tuple(plain))
    chained.update(grads, chained.init(params), params, loss=1.0, value=2.0)


@pytest.mark.parametrize("name", ["weights", "wieghts", "Loss", "gradnorm"])
def test_a_keyword_that_is_almost_one_of_a_step_is_refused(name):
    params, grads = _params_and_grads()
    tx = optadamw.adamw(0.1, accumulate_steps=2, skip_nonfinite=True)
    state = tx.init(params)
    for step in (tx.step, jax.jit(tx.step)):
        with pytest.raises(TypeError, match=f"`{name}` is no argument of a step, and"):
            step(grads, state, params, **{name: 1.0})


@pytest.mark.parametrize(
    "name", ["grad_fn", "value_fn", "losses", "height", "weighting", "lr_weight"]
)
def test_a_keyword_of_another_transformation_is_ignored(name):
    params, grads = _params_and_grads()
    tx = optadamw.adamw(0.1)
    state = tx.init(params)
    expected = tx.step(grads, state, params)
    trees.assert_same_bits(tx.step(grads, state, params, **{name: 1.0}), expected)


@pytest.mark.parametrize(
    "norm", [4.4, np.float32(4.4), jnp.float32(4.4), jnp.bfloat16(4.375)], ids=type
)
def test_a_given_norm_is_used(norm):
    tx = optadamw.clip_by_global_norm(1.1)
    params, grads = _params_and_grads()
    factor = jnp.float32(1.1) / jnp.float32(norm)
    for method in (tx.update, jax.jit(tx.update)):
        updates, _ = method(grads, tx.init(params), params, grad_norm=norm)
        np.testing.assert_allclose(
            updates["kernel"], grads["kernel"] * factor, rtol=3e-7
        )
    moved, _ = optadamw.chain(tx, optadamw.scale_by_learning_rate(1.0)).step(
        grads, tx.init(params), params, grad_norm=norm
    )
    expected = params["kernel"] - updates["kernel"]
    np.testing.assert_allclose(moved["kernel"], expected, rtol=1e-6)


def test_a_given_norm_is_not_that_of_gradients_changed_before():
    tx = optadamw.chain(optadamw.clip_by_value(0.1), optadamw.clip_by_global_norm(0.2))
    params, grads = _params_and_grads()
    plain, _ = tx.update(grads, tx.init(params), params)
    given, _ = tx.update(grads, tx.init(params), params, grad_norm=1e9)
    trees.assert_same_bits(given, plain)


def test_the_true_norm_given_changes_nothing_that_rounding_does_not():
    row = EVERYTHING[-1]
    tx = optadamw.adamw(**{**NUMBERS, "clip_value": None, "clip_norm": None})
    run = trajectories.of(row)
    norm = optax.tree.norm(run.grads[0])
    plain = tx.update(run.grads[0], tx.init(run.params), run.params)
    given = tx.update(run.grads[0], tx.init(run.params), run.params, grad_norm=norm)
    assert trees.largest_difference(given, plain) <= 1e-6


# --- Transforms ----------------------------------------------------------------------


@over(WIDE)
def test_gradients_through_an_update_are_finite_at_zero(row):
    """N15: the root and the norms have a derivative at zero."""
    tx = row.make()
    params = {"kernel": jnp.asarray([0.5, -0.25, 0.0])}
    state = tx.init(params)

    def moved(grads: Any, params: Any) -> Any:
        updates, _ = tx.update(grads, state, params)
        return jnp.sum(updates["kernel"].astype(jnp.float32) * jnp.arange(1.0, 4.0))

    zeros = jax.tree.map(jnp.zeros_like, params)
    slopes = jax.jit(jax.grad(moved, argnums=(0, 1)))(zeros, params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    "learned",
    [
        ("learning_rate", "weight_decay", "b1", "b2", "eps", "eps_root"),
        ("clip_norm", "clip_global_norm"),
        ("clip_value",),
    ],
    ids=str,
)
def test_hyperparameters_can_be_learned(learned):
    """Hyperparameters are differentiable through steps, as in meta-learning."""
    params, grads = (trees.normal(trees.FLOATS, seed=i) for i in range(2))
    # The first gradient is within both limits, the second is not: if both were clipped
    # in both steps, Adam would divide the limits out.
    numbers = NUMBERS | {"clip_norm": 20.0, "clip_global_norm": 21.0}
    options = {name: jnp.float32(numbers[name]) for name in learned}

    def loss(options: Any) -> Any:
        tx = optadamw.adamw(**({"learning_rate": 0.1} | options))
        moved, state = tx.step(grads, tx.init(params), params)
        turned = jax.tree.map(lambda g: 0.5 - g, grads)
        moved, _ = tx.step(turned, state, moved)
        return jnp.sum(moved["kernel"] ** 2)

    slopes = jax.jit(jax.grad(loss))(options)
    for name, slope in slopes.items():
        assert np.isfinite(slope) and abs(slope) > 1e-3, (name, slope)


@everything
def test_checkify_finds_nothing_in_finite_steps(row):
    params, grads = _params_and_grads()
    tx = row.make()
    checks = checkify.float_checks
    step = jax.jit(checkify.checkify(tx.step, errors=checks))
    for g in (grads, jax.tree.map(jnp.zeros_like, grads)):
        error, _ = step(g, tx.init(params), params)
        assert error.get() is None


@everything
def test_cond_and_remat_are_the_step_or_nothing(row):
    run = trajectories.of(row)
    tx = run.tx

    @jax.jit
    def maybe(condition: Any, grads: Any, state: Any, params: Any) -> Any:
        step = jax.checkpoint(lambda: tuple(tx.step(grads, state, params)))
        return jax.lax.cond(condition, step, lambda: (params, state))

    before = run.params, run.state
    held = maybe(jnp.bool_(False), run.grads[0], run.state, run.params)
    trees.assert_same_bits(held, before)
    stepped = maybe(jnp.bool_(True), run.grads[0], run.state, run.params)
    trajectories.assert_agree(row, stepped, run.after[0])


def _params_and_grads(seed: int = 0) -> tuple[Any, Any]:
    return tuple(trees.normal(trees.PAIR, seed=seed + i) for i in range(2))
