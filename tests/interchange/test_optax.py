"""Optax's saved states."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import interchange
from tests.interchange import cases
from tests.interchange.saving import refused, saved_by
from tests.support import trees


def test_optax_masked_parameters():
    params = cases.tree()
    mask = jax.tree.map(lambda x: x.ndim > 0, params)
    theirs = optax.masked(cases.into(), mask)
    saved = theirs.init(params)
    call = interchange.from_optax
    refused(ValueError, "no counterpart of 'scale'", call, saved, params)
    state = call(saved, params, missing="zeros")
    assert state.mu["scale"].shape == ()
    to, tx = interchange.to_optax, cases.adamw()
    moved = to(state, params, tx=tx, into=theirs)
    assert jax.tree.structure(moved) == jax.tree.structure(saved)
    state = cases.trained(tx, params, 1)[1]
    refused(ValueError, "`into` has no place", to, state, params, tx=tx, into=theirs)


def test_optax_as_orbax_gives_it_back():
    """Without a target, records come back as dicts and tuples as lists."""
    saved, params, tx = saved_by("optax")
    plain = [dict(saved[0]._asdict()), {}, None]
    state = cases.trained(tx, cases.tree(), 2)[1]
    trees.assert_same_bits(interchange.from_optax(plain, params, tx=tx), state)


def test_optax_states_that_do_not_fit():
    saved, params, tx = saved_by("optax")
    call, to = interchange.from_optax, interchange.to_optax
    refused(ValueError, "holds 2 states of an Adam", call, (saved, saved), params)
    refused(
        ValueError,
        "holds 0 states of an Adam",
        call,
        optax.sgd(1.0).init(params),
        params,
    )
    refused(TypeError, "`use_grad_mean`", call, saved, params, use_grad_mean=1)
    state = cases.trained(tx, cases.tree(), 2)[1]
    refused(TypeError, "`into` must be", to, state, params, tx=tx, into=3)
    refused(ValueError, "differ in amsgrad", to, state, params, into=optax.amsgrad(1.0))
    twice = optax.MultiSteps(
        optax.MultiSteps(cases.into(), 2).gradient_transformation(), 2
    ).gradient_transformation()
    refused(ValueError, "one inside another", call, twice.init(params), params)


OTHERS = {
    "trace": (lambda: optax.trace(0.9), "TraceState"),
    "ema": (lambda: optax.ema(0.9), "EmaState"),
    "rms": (lambda: optax.scale_by_rms(), "ScaleByRmsState"),
    "stddev": (lambda: optax.scale_by_stddev(), "ScaleByRStdDevState"),
    "plateau": (
        lambda: optax.contrib.reduce_on_plateau(),
        "ReduceLROnPlateauState",
    ),
    "noise": (lambda: optax.add_noise(0.1, 0.1, 0), "AddNoiseState"),
    "belief": (lambda: optax.scale_by_belief(), "ScaleByBeliefState"),
    "masked": (lambda: optax.masked(optax.trace(0.9), True), "TraceState"),
}


@pytest.mark.parametrize(("make", "kind"), OTHERS.values(), ids=OTHERS)
def test_optax_beside_other_states(make, kind):
    call, params, tx = interchange.from_optax, cases.tree(), cases.adamw()
    saved = optax.chain(make(), cases.into()).init(params)
    refused(ValueError, f"numbers of {kind} at '0", call, saved, params, tx=tx)
    where = "0/inner_state" if hasattr(saved[0], "inner_state") else "0"
    found = call(saved, params, tx=tx, drop=(where,))
    trees.assert_same_bits(found, tx.init(params))
    refused(ValueError, "`drop` must be", call, saved, params, drop=(where, "1"))
    # As Orbax gives it back, without classes.
    if kind not in ("AddNoiseState", "ScaleByBeliefState"):
        plain = unclassed(saved)
        refused(ValueError, "numbers of dict at '0'", call, plain, params, tx=tx)
        trees.assert_same_bits(call(plain, params, tx=tx, drop=["0"]), found)


def unclassed(node: Any) -> Any:
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return {k: unclassed(v) for k, v in node._asdict().items()}
    if isinstance(node, tuple):
        return [unclassed(child) for child in node]
    return node


def test_optax_inside_other_states():
    call, params = interchange.from_optax, cases.tree()
    theirs = optax.contrib.schedule_free(cases.into(), 0.5, b1=0.9)
    refused(
        ValueError,
        "numbers of ScheduleFreeState at '.the root.', around those of Adam",
        call,
        theirs.init(params),
        params,
    )
    refused(
        ValueError,
        "numbers of ArrayImpl at '1'",
        call,
        (cases.into().init(params), jnp.ones(2)),
        params,
    )
    refused(
        TypeError, "`drop` must be", call, cases.into().init(params), params, drop=""
    )


UNDERSTOOD = {
    "schedule": lambda: optax.adamw(lambda step: 0.5),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(lambda step: 0.5),
    "finite": lambda: optax.apply_if_finite(cases.into(), 3),
    "windows": lambda: optax.MultiSteps(
        cases.into(), 2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), cases.into()),
    "no NaN": lambda: optax.chain(optax.zero_nans(), cases.into()),
    "named": lambda: optax.named_chain(("count", cases.into())),
    "partition": lambda: optax.partition(
        {"a": cases.into(), "b": optax.set_to_zero()}, "a"
    ),
    "sometimes": lambda: optax.transforms.conditionally_transform(
        cases.into(), lambda step: True
    ),
}


@pytest.mark.parametrize("make", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_optax_with_states_that_only_count(make):
    params, tx = cases.tree(), cases.adamw()
    saved = make().init(params)
    for kept in (saved, unclassed(saved)):
        found = interchange.from_optax(kept, params, tx=tx)
        trees.assert_same_bits(found, tx.init(params))


def test_optax_lookalikes():
    call, params = interchange.from_optax, cases.tree()
    text = "ScaleByBeliefState at '0' has such fields and is another"
    refused(ValueError, text, call, optax.adabelief(1.0).init(params), params)
    refused(ValueError, "Novograd", call, optax.novograd(1.0).init(params), params)
    saved = optax.adamw(1.0).init(params)
    more = [{**saved[0]._asdict(), "kappa": 1.0}]
    refused(ValueError, "What stands at '0'", call, more, params)

    class ScaleByAdamState(NamedTuple):
        count: Any
        mu: Any
        nu: Any

    mine = ScaleByAdamState(*saved[0])
    refused(ValueError, "test_optax.ScaleByAdamState", call, mine, params)
    state = cases.adamw().init(params)
    refused(
        ValueError,
        "holds 0 states",
        interchange.to_optax,
        state,
        params,
        into=optax.adabelief(1.0),
    )


def test_optax_sums():
    """`use_grad_mean=False` keeps the sum, as we do."""
    tx = optadamw.multi_steps(cases.adamw(), 4, use_grad_mean=False)
    params, state = cases.trained(tx, cases.tree(), 6)
    into = optax.MultiSteps(cases.into(), 4, use_grad_mean=False)
    into = into.gradient_transformation()
    saved = interchange.to_optax(state, params, tx=tx, into=into, use_grad_mean=False)
    np.testing.assert_array_equal(
        saved.acc_grads["dense"]["bias"], state.accumulator["dense"]["bias"]
    )
    found = interchange.from_optax(saved, params, use_grad_mean=False)
    trees.assert_same_bits(found.accumulator, state.accumulator)


def test_states_with_numbers_of_their_own_start_afresh():
    """The count of `optax.ema` is that of its average, whose bias it corrects."""
    params, tx = {"w": jnp.ones(2)}, optadamw.adamw(1e-3)
    state = tx.init(params)
    for _ in range(3):
        state = tx.update(params, state, params)[1]
    into = optax.chain(optax.adamw(lambda step: 1e-3), optax.ema(0.9))
    adam, average = interchange.to_optax(state, params, tx=tx, into=into)
    assert int(adam[0].count) == int(adam[2].count) == 3 and int(average.count) == 0


@pytest.mark.parametrize("is_window", [False, True])
def test_other_names_and_shapes(is_window):
    """The trees of the new state are those of a model that names and turns them so."""
    options = {"accumulate_steps": 2} if is_window else {}
    tx = optadamw.adamw(1e-3, **options)
    params = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.arange(2.0)}
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.step(params, state, params)
    into = optax.adamw(1e-3)
    if is_window:
        into = optax.MultiSteps(into, 2).gradient_transformation()

    def turned(path, x):
        return x.T

    options = {"tx": tx, "into": into, "layout": turned}
    for names, there in (
        (None, {"a": params["a"].T, "b": params["b"]}),
        (
            {"a": "fc/kernel", "b": "fc/bias"},
            {"fc": {"kernel": params["a"].T, "bias": params["b"]}},
        ),
    ):
        saved = interchange.to_optax(state, params, names=names, **options)
        trees.assert_same_types(saved, into.init(there))
        back = interchange.from_optax(
            *(saved, params), tx=tx, layout=turned, names=names
        )
        trees.assert_same_bits(back, state)
        into.update(there, saved, there)


def test_other_names_of_shapes_and_of_float64():
    """Parameters that are not turned are given to `into.init` as they are."""
    tx = optadamw.adamw(1e-3)
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state, names = tx.init(params), {"a": "fc/kernel", "b": "fc/bias"}
    expected = interchange.to_optax(state, params, tx=tx, names=names)
    shapes = jax.eval_shape(lambda: params)
    found = interchange.to_optax(state, shapes, tx=tx, names=names)
    trees.assert_same_bits(found, expected)
    wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layout in (None, lambda path, x: x):
            found = interchange.to_optax(
                *(state, wide), tx=tx, names=names, layout=layout
            )
            trees.assert_same_bits(found, expected)
    with pytest.raises(TypeError, match=r"Leaf 'a': .*shape alone.*Pass the param"):
        interchange.to_optax(state, shapes, tx=tx, layout=lambda path, x: x.T)
