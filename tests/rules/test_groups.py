"""Groups of parameters with numbers of their own: who is in one, and what it says."""

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint

PARAMS = {
    "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.arange(3.0)},
    "norm": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
}
GRADS = jax.tree.map(
    lambda p: jnp.cos(jnp.arange(p.size) + 1.0).reshape(p.shape), PARAMS
)
OWN = {"*/bias": {"weight_decay": 0.0}, "norm/*": {"learning_rate": 0.5}}


def after(tx, steps=3):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        params, state = jax.jit(tx.step)(GRADS, state, params)
    return params, state


def test_the_first_group_that_matches_counts():
    grouped, _ = after(optadamw.adamw(0.1, weight_decay=0.3, groups=OWN))
    plain, _ = after(optadamw.adamw(0.1, weight_decay=0.3))
    no_decay, _ = after(optadamw.adamw(0.1, weight_decay=0.0))
    fast, _ = after(optadamw.adamw(0.5, weight_decay=0.3))
    np.testing.assert_array_equal(grouped["dense"]["kernel"], plain["dense"]["kernel"])
    np.testing.assert_array_equal(grouped["dense"]["bias"], no_decay["dense"]["bias"])
    np.testing.assert_array_equal(grouped["norm"]["bias"], no_decay["norm"]["bias"])
    np.testing.assert_array_equal(grouped["norm"]["scale"], fast["norm"]["scale"])
    assert not np.array_equal(grouped["norm"]["scale"], plain["norm"]["scale"])


def test_a_group_of_every_form_of_choice():
    tree = jax.tree.map_with_path(lambda path, _: path[-1].key == "bias", PARAMS)
    expected, _ = after(optadamw.adamw(0.1, groups={"*/bias": {"b1": 0.5}}))
    for where in (
        ("dense/bias", "norm/bias"),
        re.compile("bias$"),
        lambda path, array: path.endswith("bias"),
        tree,
    ):
        found, _ = after(optadamw.adamw(0.1, groups=[(where, {"b1": 0.5})]))
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_one_norm_and_one_state_for_all_groups():
    tx = optadamw.adamw(0.1, clip_global_norm=0.5, groups={"*/bias": {"b1": 0.8}})
    _, state = after(tx, steps=1)
    norm = optax.tree.norm(GRADS)
    assert norm > 0.5
    clipped = GRADS["dense"]["bias"] * (0.5 / norm)
    np.testing.assert_allclose(state.mu["dense"]["bias"], 0.2 * clipped, rtol=1e-6)
    assert int(state.step) == 1


def test_a_part_that_one_group_has_alone():
    tx = optadamw.adamw(0.1, groups={"*/bias": {"amsgrad": True, "maximize": True}})
    params, state = after(tx)
    rising, _ = after(optadamw.adamw(0.1, amsgrad=True, maximize=True))
    np.testing.assert_array_equal(params["norm"]["bias"], rising["norm"]["bias"])
    assert float(jnp.max(state.nu_max["dense"]["kernel"])) == 0.0


def test_parts_in_the_middle_are_aligned():
    rest = optadamw.chain(
        optadamw.clip_by_value(1.0),
        optadamw.scale_by_adam(),
        optadamw.scale_by_learning_rate(0.1),
    )
    own = optadamw.chain(
        optadamw.maximize(),
        optadamw.clip_by_norm(0.2),
        optadamw.scale_by_adam(),
        optadamw.cautious(),
        optadamw.add_decoupled_weight_decay(0.1),
        optadamw.scale_by_learning_rate(0.2),
    )
    both, _ = after(optadamw.param_groups(rest, {"*/bias": own}))
    alone, _ = after(own)
    others, _ = after(rest)
    np.testing.assert_array_equal(both["norm"]["bias"], alone["norm"]["bias"])
    np.testing.assert_array_equal(both["norm"]["scale"], others["norm"]["scale"])


def test_wrappers_stand_around_groups():
    schedule = optax.linear_schedule(0.1, 0.0, 4)
    tx = optadamw.adamw(
        schedule,
        groups={"*/bias": {"learning_rate": lambda step: 0.5 * schedule(step)}},
        accumulate_steps=2,
        skip_nonfinite=True,
        stats="norms",
        ema_decay=0.9,
    )
    _, state = after(tx, steps=4)
    stats = optadamw.stats_of(state)
    assert int(stats.step) == 2
    # Of the parameters in no group.
    np.testing.assert_allclose(stats.learning_rate, schedule(1), rtol=1e-6)
    assert jnp.isfinite(stats.update_norm)


def test_a_guard_watches_the_rates_of_every_group():
    tx = optadamw.adamw(
        0.1,
        groups={"*/bias": {"learning_rate": lambda step: jnp.nan}},
        skip_nonfinite=True,
    )
    params, state = after(tx, steps=1)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    assert int(optadamw.stats_of(state).skipped) == 1


def test_arrays_and_traced_numbers_in_a_group():
    @jax.jit
    def run(rate):
        tx = optadamw.adamw(0.1, groups={"*/bias": {"learning_rate": rate}})
        return tx.step(GRADS, tx.init(PARAMS), PARAMS)[0]

    expected, _ = after(optadamw.adamw(0.25), steps=1)
    swept = jax.vmap(run)(jnp.array([0.25, 0.5]))
    np.testing.assert_allclose(
        swept["norm"]["bias"][0], expected["norm"]["bias"], rtol=1e-6
    )


def test_groups_are_values():
    make = lambda: optadamw.adamw(0.1, groups=OWN, stats=True)  # noqa: E731
    tx = make()
    assert tx == make() and hash(tx) == hash(make())
    assert tx != optadamw.adamw(0.1, stats=True)
    assert eval(f"optadamw.{tx!r}", {"optadamw": optadamw}) == tx
    assert pickle.loads(pickle.dumps(tx)) == tx == copy.deepcopy(tx)


def test_describe_shows_the_groups():
    text = optadamw.describe(optadamw.adamw(0.1, weight_decay=0.3, groups=OWN), PARAMS)
    assert "groups['*/bias'], 2 parameters: add_decoupled_weight_decay: " in text
    assert "groups['norm/*'], 1 parameter: scale_by_learning_rate: " in text
    rows = {line.split()[0]: line for line in text.splitlines() if "float32" in line}
    assert " 0.3 " in rows["dense/kernel"] and " 0.0 " in rows["dense/bias"]


def test_a_checkpoint_knows_what_its_groups_mean():
    tx = optadamw.adamw(0.1, groups={"*/bias": {"maximize": True}})
    _, state = after(tx)
    saved = checkpoint.to_portable(tx, state)
    same, _ = checkpoint.restore(tx, PARAMS, saved)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    with pytest.raises(ValueError, match="maximize"):
        checkpoint.restore(optadamw.adamw(0.1), PARAMS, saved)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({"*/bias": {"wieght_decay": 0}}, ValueError, "Did you mean `weight_decay`"),
        ({"*/bias": {"clip_global_norm": 1.0}}, ValueError, "'clip_global_norm' is no"),
        ({"*/bias": {"ema_decay": 0.9}}, ValueError, "'ema_decay' is no argument"),
        ({"*/bias": {"b1": 2}}, ValueError, r"`groups\['\*/bias'\]`: `b1` must be"),
        ({"*/bias": 3}, TypeError, r"`groups\['\*/bias'\]` must be a mapping"),
        (3, TypeError, "`groups` must be a mapping"),
        ({}, TypeError, "`groups` must be a mapping"),
        ([("a", {}, 3)], TypeError, "`groups` must be a mapping"),
    ],
)
def test_what_a_group_cannot_say(groups, error, message):
    with pytest.raises(error, match=message):
        optadamw.adamw(0.1, groups=groups)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"*/biass": {"b1": 0.5}}, "'\\*/biass' matches no parameter.*'norm/bias'"),
        ({"*": {}, "*/bias": {}}, r"every parameter of groups\['\*/bias'\] is in an"),
    ],
)
def test_a_group_without_a_parameter(groups, message):
    tx = optadamw.adamw(0.1, groups=groups)
    with pytest.raises(ValueError, match=message):
        tx.init(PARAMS)


def plain(*parts):
    return optadamw.chain(*parts, optadamw.scale_by_learning_rate(0.1))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (plain(), "scale_by_adam is a part of rest and not of groups"),
        (
            plain(optadamw.clip_by_global_norm(1.0), optadamw.scale_by_adam()),
            "clip_by_global_norm is a part of .* It concerns all parameters",
        ),
        (
            plain(optadamw.scale_by_adam(mu_dtype="bfloat16")),
            "stores its buffers in another format",
        ),
        (
            optadamw.multi_steps(plain(optadamw.scale_by_adam()), 2),
            "is more than a chain of rules",
        ),
    ],
)
def test_chains_of_another_form(own, message):
    rest = plain(optadamw.scale_by_adam())
    with pytest.raises(ValueError, match=message):
        optadamw.param_groups(rest, {"*/bias": own})


def test_parts_from_elsewhere_and_groups_inside_a_chain():
    rest = plain(optadamw.scale_by_adam())
    with pytest.raises(TypeError, match=r"groups\['\*/bias'\].*multi_transform"):
        optadamw.param_groups(rest, {"*/bias": optax.sgd(0.1)})
    grouped = optadamw.param_groups(rest, {"*/bias": rest})
    with pytest.raises(ValueError, match="Wrap the whole chain"):
        optadamw.chain(optadamw.clip_by_value(1.0), grouped)


def test_a_group_without_use_of_the_peak_leaves_it_to_the_others():
    decay = {"weight_decay_mode": "schedule", "max_learning_rate": 0.1}
    rate = optadamw.schedules.linear_schedule(0.1, 0.0, 10)
    own = {"weight_decay_mode": "lr"}
    tx = optadamw.adamw(rate, **decay, groups={"*/bias": own})
    told = {**own, "max_learning_rate": None}
    assert tx == optadamw.adamw(rate, **decay, groups={"*/bias": told})
    with pytest.raises(ValueError, match=r"\['\*/bias'\]`: `max_learning_rate` has no"):
        optadamw.adamw(
            rate, **decay, groups={"*/bias": {**own, "max_learning_rate": 0.2}}
        )


def test_an_error_names_a_group_only_if_the_group_has_the_option():
    groups = {"*/bias": {"learning_rate": 0.1}}
    with pytest.raises(ValueError, match=r"^`b1` must be in \[0, 1\); got 1\.5"):
        optadamw.adamw(1e-3, b1=1.5, groups=groups)
    with pytest.raises(ValueError, match=r"^`max_learning_rate` has no meaning with"):
        optadamw.adamw(1e-3, max_learning_rate=0.1, groups=groups)
    with pytest.raises(ValueError, match=r"^`groups\['\*/bias'\]`: `b1` must be in"):
        optadamw.adamw(1e-3, groups={"*/bias": {"b1": 1.5}})
