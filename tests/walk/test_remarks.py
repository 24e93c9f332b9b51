"""Settings that train nothing, or less than was meant, are named at `init`."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import adamw, describe, interchange, schedules
from optadamw.dialects import torch

HALF = {"w": jnp.ones((4, 4), jnp.bfloat16), "b": jnp.ones(4)}
FULL = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}


def warned(tx, params):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tx.init(params)
    return [str(warning.message) for warning in caught]


# --- 16-bit parameters ---------------------------------------------------------------

SILENT = {
    "asked for": (adamw(6e-4, commit="nearest"), HALF),
    "asked for inside a wrapper": (
        optadamw.skip_nonfinite(adamw(6e-4, commit="nearest")),
        HALF,
    ),
    "asked for by with_commit": (optadamw.with_commit(adamw(6e-4), "nearest"), HALF),
    "asked for inside a chain": (
        optadamw.chain(adamw(6e-4, commit="nearest"), optadamw.ema_params(0.9)),
        HALF,
    ),
    "stochastic": (adamw(6e-4, commit="stochastic"), HALF),
    "kahan": (adamw(6e-4, commit="kahan"), HALF),
    "master": (adamw(6e-4, commit="master"), HALF),
    "compact": (adamw(6e-4, precision="compact"), HALF),
    "float32": (adamw(6e-4), FULL),
    "schedule-free": (optadamw.schedule_free_adamw(6e-4), HALF),
    "without a rate": (optadamw.scale_by_adam(), HALF),
}
LOUD = {
    "default": adamw(6e-4),
    "after the one that asked": adamw(6e-4),
    "full": adamw(6e-4, precision="full"),
    "wrapped": optadamw.skip_nonfinite(adamw(6e-4)),
    "chain": optadamw.chain(
        optadamw.scale_by_adam(), optadamw.scale_by_learning_rate(6e-4)
    ),
    "dialect": torch.AdamW(lr=6e-4),
    "inside optax": optax.chain(optax.clip(1.0), adamw(6e-4)),
}


@pytest.mark.parametrize("case", SILENT)
def test_nothing_is_said_of_a_rounding_that_was_chosen_or_does_not_happen(case):
    assert warned(*SILENT[case]) == []


@pytest.mark.parametrize("case", LOUD)
def test_16_bit_parameters_that_are_rounded_to_nearest_are_named(case):
    (text,) = warned(LOUD[case], HALF)
    assert "'w' is bfloat16 and is rounded to nearest" in text
    assert "0.0006, moves no weight larger than 0.25" in text
    assert "commit='stochastic'" in text and "with_commit(tx, 'stochastic')" in text
    assert "precision='compact' to adamw" in text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rate", [6e-4, 1e-3, 0.01, 2.0**-9])
def test_the_size_that_is_named_is_the_size_that_stalls(rate, dtype):
    (text,) = warned(adamw(rate), {"w": jnp.ones(2, dtype)})
    size = float(re.search(r"no weight larger than ([\d.]+)\. Pass", text)[1])
    larger = size * (1 + jnp.finfo(dtype).eps)
    start = jnp.asarray([larger, larger, size], dtype).astype(jnp.float32)
    after = (start + rate * jnp.asarray([1, -1, -1])).astype(dtype)
    is_tie = rate == 2.0**-9  # which goes to the even neighbor, back to `size`
    assert (after == start).tolist() == [True, True, is_tie]


def test_the_rate_that_is_named_is_that_of_the_group():
    params = {"w": jnp.ones(4), "h": jnp.ones(2, jnp.float16)}
    for rate, groups in (
        (1e-3, {"w": {"learning_rate": 10.0}}),
        (10.0, {"h": {"learning_rate": 1e-3}}),
    ):
        (text,) = warned(adamw(rate, groups=groups), params)
        assert "as long as the learning rate, 0.001," in text


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_parameters_of_8_bits_are_named_whatever_the_commit(dtype):
    params = {"v": jnp.ones(2, dtype), **HALF}
    for commit in (None, "stochastic", "kahan", "master"):
        texts = warned(adamw(2.0**-5, commit=commit), params)
        assert len(texts) == (2 if commit is None else 1)
        assert f"'v' is {dtype} and is rounded to nearest, whatever" in texts[0]
        assert "precision='compact'" in texts[0]
    size = float(re.search(r"no weight larger than ([\d.]+)\. Keep", texts[0])[1])
    with pytest.warns(UserWarning, match="float8"):
        state = adamw(2.0**-5, weight_decay=0.0).init(params["v"])
    tx = adamw(2.0**-5, weight_decay=0.0)
    stalled = jnp.full(2, 2 * size, dtype)
    after, _ = tx.step(jnp.ones(2, dtype), state, stalled)
    assert (after == stalled).all()
    assert not warned(adamw(2.0**-5, commit="nearest"), params)
    frozen = {"v": {"freeze": True}}
    assert not warned(adamw(2.0**-5, commit="nearest", groups=frozen), params)
    assert len(warned(adamw(2.0**-5, commit="master", groups=frozen), params)) == 0


def test_a_cautious_decay_of_zero_is_named():
    tx = adamw(0.1, weight_decay=0.0, cautious_weight_decay=True)
    (text,) = warned(tx, FULL)
    assert "`cautious_weight_decay` has no effect, because `weight_decay` is 0" in text
    assert text in describe(tx, FULL).replace("\n", " ")
    groups = {"kernel": {"weight_decay": 0.1}}
    for options in ({"groups": groups}, {"weight_decay": lambda step: 0.0 * step}):
        options = {"weight_decay": 0.0, **options}
        assert not warned(adamw(0.1, cautious_weight_decay=True, **options), FULL)


def test_two_parameters_of_one_path_train_and_are_named():
    params = {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(3)}
    tx = adamw(0.1, mask="a/b")
    (text,) = warned(tx, params)
    assert "2 parameters are called 'a/b'" in text and "Rename one" in text
    after, _ = tx.step(params, tx.init(params), params)
    assert all((x < 1).all() for x in jax.tree.leaves(after))
    with pytest.raises(ValueError, match=r"has two leaves called 'a/b'.* Rename"):
        interchange.to_torch(tx.init(params), params, tx=tx)


def test_a_training_without_a_parameter_that_trains_is_named():
    (text,) = warned(adamw(0.1, groups={"*": {"freeze": True}}), FULL)
    assert "freezes all of the 2 parameters, so nothing trains" in text
    assert not warned(optadamw.freeze(), FULL)
    assert not warned(adamw(0.1, groups={"!bias": {"freeze": True}}), FULL)


def test_schedules_and_several_parameters():
    params = {"v": HALF["w"].astype(jnp.float16), "w": HALF["w"]}
    (text,) = warned(adamw(schedules.constant_schedule(0.1)), params)
    assert "'v' is float16 (1 more is 16-bit too) and" in text
    assert "compact" not in text  # which bfloat16 alone has
    assert "in its last place. Pass commit=" in text


def test_the_warning_points_at_the_line_of_the_user_and_comes_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            adamw(6e-4).init(HALF)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_remedy_moves_what_the_default_does_not():
    grads = jax.tree.map(jnp.ones_like, HALF)
    moved = {}
    for commit in ("nearest", "stochastic"):
        tx = adamw(6e-4, commit=commit)
        params, state = HALF, tx.init(HALF)
        step = jax.jit(tx.step)
        for _ in range(20):
            params, state = step(grads, state, params)
        moved[commit] = int((params["w"] != 1).sum())
    assert moved["nearest"] == 0 and moved["stochastic"] > 12


def test_describe_says_how_parameters_are_rounded():
    assert "!  Parameter 'w' is bfloat16" in describe(adamw(6e-4), HALF)
    text = describe(adamw(6e-4, commit="nearest"), HALF)
    assert "-  with_commit: commit='nearest'" in text and "!" not in text
    assert "with_commit: commit='master'" in describe(
        adamw(6e-4, precision="mixed"), HALF
    )
    assert "!" not in describe(adamw(6e-4), FULL)


# --- Functions that choose nothing ---------------------------------------------------


def nothing(path, array):
    return "kernels" in path


CHOICES = {
    "mask": adamw(0.1, mask=nothing),
    "a function of the tree": adamw(
        0.1, mask=lambda params: jax.tree.map(lambda x: x.ndim > 2, params)
    ),
    "groups": adamw(0.1, groups=[(nothing, {"weight_decay": 0.0})]),
    "groups['few']": optadamw.with_stats(adamw(0.1), groups={"few": nothing}),
    "keep": adamw(0.1, mu_dtype=optadamw.blockwise(keep=nothing)),
}


@pytest.mark.parametrize("case", CHOICES)
def test_a_function_that_chooses_nothing_is_named(case):
    (text,) = warned(CHOICES[case], FULL)
    name = "mask" if case == "a function of the tree" else case
    assert text.startswith(f"`{name}`: the function <function ")
    assert "chooses none of the 2 parameters" in text and "'bias'" in text
    assert f"!  {text}" in describe(CHOICES[case], FULL)


@pytest.mark.parametrize(
    "choice",
    [False, {"kernel": False, "bias": False}, ("!kernel", "!bias"), ("k*", "!k*")],
    ids=str,
)
def test_a_group_of_no_parameter_is_named(choice):
    tx = adamw(0.1, groups=[("bias", {"b1": 0.5}), (choice, {"b2": 0.5})])
    (text,) = warned(tx, FULL)
    assert text.startswith("`groups[") and "chooses none of the 2 parameters" in text
    assert warned(tx, {}) == []


def test_a_long_choice_is_shortened():
    many = {f"layer{i}": jnp.ones(3) for i in range(200)}
    tx = adamw(0.1, groups=[(dict.fromkeys(many, False), {"b2": 0.5})])
    (text,) = warned(tx, many)
    assert len(text) < 500 and " ... " in text and "Leave the group out" in text


@pytest.mark.parametrize(
    ("mask", "params"),
    [
        (False, FULL),
        ({"kernel": False, "bias": False}, FULL),
        (lambda path, array: array.ndim > 1, FULL),
        (nothing, {}),
    ],
)
def test_nothing_is_said_of_an_empty_choice_that_was_meant(mask, params):
    assert warned(adamw(0.1, mask=mask), params) == []


def test_a_function_may_be_meant_for_parameters_that_are_hidden():
    tx = adamw(0.1, mask=lambda path, array: array.ndim > 1)
    both = optax.multi_transform({"a": tx, "b": tx}, {"kernel": "a", "bias": "b"})
    assert warned(both, FULL) == []


# --- A mask inside optax.inject_hyperparams ------------------------------------------


@pytest.mark.parametrize(
    "mask",
    [
        lambda path, array: array.ndim > 1,
        lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        lambda params: {"kernel": True, "bias": False},
    ],
    ids=["predicate", "of the tree", "constant tree"],
)
@pytest.mark.parametrize("static", [(), ("mask",)], ids=str)
def test_inject_hyperparams_keeps_a_mask_that_is_a_function(mask, static):
    make = optax.inject_hyperparams(adamw, static_args=static)
    tx = make(learning_rate=0.5, weight_decay=0.25, mask=mask)
    grads = jax.tree.map(jnp.zeros_like, FULL)
    updates, _ = tx.update(grads, tx.init(FULL), FULL)
    np.testing.assert_allclose(updates["kernel"], -0.125, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


def test_a_mask_that_was_passed_by_position_is_kept_too():
    args = (0.5, 0.9, 0.999, 1e-8, 0.0, None, 0.25, lambda path, array: array.ndim > 1)
    tx = optax.inject_hyperparams(adamw)(*args)
    grads = jax.tree.map(jnp.zeros_like, FULL)
    updates, _ = tx.update(grads, tx.init(FULL), FULL)
    np.testing.assert_allclose(updates["kernel"], -0.125, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


# --- Names of other libraries --------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"lr": 1e-3}, r"'lr' \(lr=0\.001\)\. Use `learning_rate`"),
        ({"betas": (0.9, 0.95)}, r"Use b1=0\.9, b2=0\.95\."),
        ({"betas": 0.9}, "Use `b1` and `b2`"),
        ({"wd": 0.1}, "Use `weight_decay`"),
        ({"weight_decay_mask": "*"}, "Use `mask`"),
        ({"epsilon": 1e-7}, "Use `eps`"),
        ({"max_grad_norm": 1.0}, "Use `clip_global_norm`"),
        ({"gradient_accumulation_steps": 4}, "Use `accumulate_steps`"),
        ({"param_groups": []}, "Use `groups`"),
        ({"weight_decy": 0.1}, "Did you mean `weight_decay`"),
        ({"unheard": 0.1}, r"help\(optadamw\.adamw\) lists"),
    ],
)
def test_an_option_of_another_library_is_refused_with_our_word(given, remedy):
    with pytest.raises(TypeError, match=remedy):
        adamw(1e-3, **given)


def test_a_group_knows_the_names_of_other_libraries_too():
    with pytest.raises(ValueError, match=r"'lr' is .* Did you mean `learning_rate`"):
        adamw(1e-3, groups={"*/bias": {"lr": 1e-4}})


def test_no_name_of_another_library_is_an_option():
    options = optadamw.transforms.options
    parts = (*options.ATOMS, *options.WRAPPERS)
    known = {option.name for part in parts for option in part.options}
    foreign = {n for part in parts for o in part.options for n in o.elsewhere}
    assert foreign and not foreign & known
