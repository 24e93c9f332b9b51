"""Bad hyperparameters are refused at construction, in words that help (E1, E3).

Every message names the argument as the caller wrote it, the rule and what was received.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw

NON_NEGATIVE = r">= 0"
POSITIVE = r"> 0"
BETA = r"\[0, 1\)"
FRACTION = r"\[0, 1\]"

RATE = {"learning_rate": 1e-3}
AVERAGED = RATE | {"ema_decay": 0.9}


class Argument(NamedTuple):
    """An argument of a factory, and the other arguments that it needs."""

    factory: Any
    name: str
    rule: str
    others: Mapping[str, Any] = MappingProxyType({})

    def given(self, value: Any) -> Any:
        return self.factory(**self.others, **{self.name: value})

    def refuses(self, value: Any, error: Any, received: str, rule: str = "") -> None:
        """Assert an error of the form "`name` must be RULE; got VALUE."."""
        rule = rule or self.rule
        pattern = rf"(?s)`{self.name}` must be [^;]*{rule}[^;]*; got [^;]*{received}"
        try:
            made = self.given(value)
        except error as caught:
            assert re.search(pattern, str(caught)), f"{value!r}: {caught}"
        else:
            pytest.fail(f"{self.name}={value!r} was accepted: {made!r}")

    def __str__(self) -> str:
        return f"{self.factory.__name__}-{self.name}"


OPTIONAL = (
    Argument(optadamw.adamw, "clip_value", POSITIVE, RATE),
    Argument(optadamw.adamw, "clip_norm", POSITIVE, RATE),
    Argument(optadamw.adamw, "clip_global_norm", POSITIVE, RATE),
    Argument(optadamw.adamw, "ema_decay", FRACTION, RATE),
    Argument(
        optadamw.adamw,
        "max_learning_rate",
        POSITIVE,
        RATE | {"weight_decay_mode": "corrected"},
    ),
    Argument(
        optadamw.add_decoupled_weight_decay,
        "max_learning_rate",
        POSITIVE,
        {"mode": "schedule"},
    ),
)
REQUIRED = (
    Argument(optadamw.adamw, "learning_rate", NON_NEGATIVE),
    Argument(optadamw.adamw, "b1", BETA, RATE),
    Argument(optadamw.adamw, "b2", BETA, RATE),
    Argument(optadamw.adamw, "eps", NON_NEGATIVE, RATE),
    Argument(optadamw.adamw, "eps_root", NON_NEGATIVE, RATE),
    Argument(optadamw.adamw, "weight_decay", NON_NEGATIVE, RATE),
    Argument(optadamw.scale_by_adam, "b1", BETA),
    Argument(optadamw.scale_by_adam, "b2", BETA),
    Argument(optadamw.scale_by_adam, "eps", NON_NEGATIVE),
    Argument(optadamw.scale_by_adam, "eps_root", NON_NEGATIVE),
    Argument(optadamw.add_decoupled_weight_decay, "weight_decay", NON_NEGATIVE),
    Argument(optadamw.scale_by_learning_rate, "learning_rate", NON_NEGATIVE),
    Argument(optadamw.clip_by_value, "limit", POSITIVE),
    Argument(optadamw.clip_by_norm, "limit", POSITIVE),
    Argument(optadamw.clip_by_global_norm, "limit", POSITIVE),
    Argument(optadamw.ema_params, "decay", FRACTION),
)
each_number = pytest.mark.parametrize("argument", REQUIRED + OPTIONAL, ids=str)


# --- Numbers -------------------------------------------------------------------------

NOT_FINITE_OR_NEGATIVE = (
    (-0.5, r"-0\.5"),
    (-3, "-3"),
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    (float("-inf"), "-inf"),
    (np.float32(-0.5), r"-0\.5"),
    (np.array(-0.5), r"-0\.5"),
    (np.array(np.nan), "nan"),
    (jnp.array(-0.5), r"-0\.5"),
    (jnp.array(jnp.nan), "nan"),
    (jnp.array(jnp.inf), "inf"),
    (jnp.array(-0.5, jnp.bfloat16), r"-0\.5"),
)


@each_number
def test_numbers_that_are_negative_or_not_finite_are_refused(argument):
    for value, received in NOT_FINITE_OR_NEGATIVE:
        argument.refuses(value, ValueError, received)


@each_number
def test_ranges_are_exact_at_their_ends(argument):
    match argument.rule:
        case "> 0":
            within, beyond = (1e-30, 1, 1e30), (0, 0.0, -0.0, np.zeros(()))
        case r"\[0, 1\)":
            within, beyond = (0, 0.0, 1 - 2.0**-53), (1, 1.0, 1.5, jnp.ones(()))
        case r"\[0, 1\]":
            within, beyond = (0, 0.0, 1, 1.0), (1 + 2.0**-52, 2, jnp.array(1.5))
        case _:
            within, beyond = (0, -0.0, 1e30, np.float64(3.0)), (-1e-300,)
    for value in within:
        argument.given(value)
    for value in beyond:
        argument.refuses(value, ValueError, re.escape(str(value)))


@each_number
def test_numbers_that_float32_cannot_hold_are_refused(argument):
    """1e39 is infinity there, and a limit of 1e-60 is 0."""
    if argument.rule in (NON_NEGATIVE, POSITIVE):
        for value in (1e39, 10**39, np.float64(1e39)):
            argument.refuses(value, ValueError, "", "float32")
        argument.given(3e38)
    if argument.rule == POSITIVE:
        argument.refuses(1e-60, ValueError, "1e-60", "float32")
        argument.given(1e-30)


def test_a_norm_that_is_negative_is_refused_or_skipped():
    tx = optadamw.adamw(0.1, skip_nonfinite=True, clip_global_norm=1.0)
    params = jnp.ones(3)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"`grad_norm` must be >= 0; got -1\.0"):
        tx.step(params, state, params, grad_norm=-1.0)
    after, state = jax.jit(tx.step)(params, state, params, grad_norm=jnp.float32(-1))
    assert (after == params).all() and int(state.step) == 0
    assert int(optadamw.stats_of(state).nonfinite) == 1


def no_argument() -> float:
    """Look like a schedule that forgot the step."""
    return 0.1


def two_arguments(step: Any, extra: Any) -> float:
    """Look like a schedule that wants more than the step."""
    del step, extra
    return 0.1


NO_NUMBERS = (
    (True, "True"),
    (np.bool_(True), "True"),
    (np.array(True), "True"),
    (jnp.array(True), "True"),
    ("0.1", "'0.1'"),
    ([0.1], r"\[0\.1\]"),
    ((0.1,), r"\(0\.1,\)"),
    ({"value": 0.1}, "value"),
    (1j, "1j"),
    (jnp.array(1j), "complex64"),
    (jax.random.key(0), "key"),
    (jax.ShapeDtypeStruct((), jnp.float32), "ShapeDtypeStruct"),
    (np.ma.masked_array(0.5, mask=True), "MaskedArray"),
    (object(), "object"),
    (no_argument, "no_argument.*one argument, the step"),
    (two_arguments, "two_arguments.*one argument, the step"),
)


@each_number
def test_what_is_no_number_is_refused(argument):
    for value, received in NO_NUMBERS:
        argument.refuses(value, TypeError, received, "a number, a 0-d array or a sched")


@pytest.mark.parametrize("argument", REQUIRED, ids=str)
def test_none_is_refused_where_a_number_is_needed(argument):
    argument.refuses(None, TypeError, "None", "a number")


def test_an_integer_beyond_every_float_is_refused():
    REQUIRED[0].refuses(10**400, ValueError, "1000")


@each_number
def test_arrays_that_are_no_scalars_are_refused(argument):
    for shape in [(1,), (2,), (1, 1), (0,), (2, 3)]:
        for array in (np.full(shape, 0.5, np.float32), jnp.full(shape, 0.5)):
            argument.refuses(array, ValueError, re.escape(str(shape)), "a scalar")


def test_traced_arrays_that_are_no_scalars_are_refused():
    def refuses(rates: jax.Array) -> None:
        REQUIRED[0].refuses(rates, ValueError, r"\(3,\)", "a scalar")

    jax.jit(refuses)(jnp.full(3, 0.1))


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"learning_rate": -1e-3}, "negate the loss"),
        ({"learning_rate": None}, "negate the loss"),
        ({"learning_rate": np.ones(3)}, "vmap"),
        ({"learning_rate": no_argument}, "one argument, the step"),
        (RATE | {"weight_decay": None}, r"0\.0 for no decay"),
        (RATE | {"clip_norm": 0.0}, "Leave .* out"),
        (RATE | {"mask": ""}, r"'\*' matches all"),
    ],
)
def test_messages_end_in_the_remedy(options, remedy):
    with pytest.raises((ValueError, TypeError), match=rf"[.;] .*{remedy}"):
        optadamw.adamw(**options)


# --- Whole numbers, switches, names, dtypes ------------------------------------------


def every_other(step: Any) -> int:
    """Look like a schedule."""
    del step
    return 2


NO_WHOLE_NUMBERS = (
    (2.5, r"2\.5"),
    (np.float32(2.5), r"2\.5"),
    (jnp.float32(2.5), r"2\.5"),
    (0, "0"),
    (-1, "-1"),
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    (jnp.int32(0), "0"),
    (np.array([2]), r"\(1,\)"),
    (True, "True"),
    ("2", "'2'"),
)
WHOLE = Argument(
    optadamw.ema_params, "overwrite_every", "a whole number of steps", {"decay": 0.9}
)


@pytest.mark.parametrize(
    "argument",
    [
        WHOLE,
        WHOLE._replace(
            factory=optadamw.adamw, name="ema_overwrite_every", others=AVERAGED
        ),
    ],
    ids=str,
)
def test_a_number_of_steps_is_whole(argument):
    for value, received in NO_WHOLE_NUMBERS:
        argument.refuses(value, (ValueError, TypeError), received)
    for value in (1, 2, 3.0, np.int64(4), jnp.int32(5), lambda step: 3):
        argument.given(value)


SWITCHES = (
    Argument(optadamw.adamw, "maximize", "True", RATE),
    Argument(optadamw.adamw, "caution", "True", RATE),
    Argument(optadamw.adamw, "ema_debias", "True", AVERAGED),
    Argument(optadamw.adamw, "ema_warmup", "True", AVERAGED),
    Argument(optadamw.ema_params, "debias", "True", {"decay": 0.9}),
    Argument(optadamw.ema_params, "warmup", "True", {"decay": 0.9}),
)


@pytest.mark.parametrize("argument", SWITCHES, ids=str)
def test_switches_take_nothing_but_bools(argument):
    for value in (1, 0, "yes", "", 1.0, [], np.ones(()), no_argument):
        argument.refuses(value, TypeError, re.escape(repr(value)))


WORDED = (
    (Argument(optadamw.adamw, "bias_correction", "True", RATE), ("mu", "nu")),
    (Argument(optadamw.scale_by_adam, "bias_correction", "True"), ("mu", "nu")),
    (Argument(optadamw.adamw, "nesterov", "True", RATE), ("current",)),
    (Argument(optadamw.scale_by_adam, "nesterov", "True"), ("current",)),
)


@pytest.mark.parametrize(("argument", "words"), WORDED, ids=str)
def test_switches_with_words_take_bools_and_these(argument, words):
    for value in (1, 0, 1.0, [], np.ones(()), no_argument):
        argument.refuses(value, TypeError, re.escape(repr(value)))
    for value in ("yes", "", "Mu"):
        argument.refuses(value, ValueError, re.escape(repr(value)))
    for value in (True, False, *words):
        argument.given(value)


TYPOS = ("Raw", "LR", "inside", 1, 2.5, ["hat"], {"lr"}, b"raw")
FALSE = ("", 0, [])
MODES = (
    Argument(optadamw.scale_by_adam, "eps_mode", "'outside'"),
    Argument(optadamw.add_decoupled_weight_decay, "mode", "'independent'"),
    Argument(optadamw.amsgrad_max, "kind", "'corrected'"),
    Argument(optadamw.adamw, "eps_mode", "'outside'", RATE),
    Argument(optadamw.adamw, "weight_decay_mode", "'independent'", RATE),
    Argument(optadamw.adamw, "amsgrad", "'corrected'", RATE),
)


@pytest.mark.parametrize("argument", MODES, ids=str)
def test_modes_are_checked_and_listed(argument):
    for value in TYPOS:
        argument.refuses(value, (ValueError, TypeError), re.escape(repr(value)))


@pytest.mark.parametrize("argument", MODES, ids=str)
def test_an_empty_name_of_a_mode_is_not_the_default(argument):
    for value in FALSE:
        argument.refuses(value, (ValueError, TypeError), re.escape(repr(value)))


@pytest.mark.parametrize(
    "argument",
    [
        Argument(optadamw.adamw, "mu_dtype", "floating", RATE),
        Argument(optadamw.adamw, "update_dtype", "floating", RATE),
        Argument(optadamw.scale_by_adam, "mu_dtype", "floating"),
        Argument(optadamw.chain, "update_dtype", "floating"),
    ],
    ids=str,
)
def test_dtypes_must_be_floating(argument):
    names = ("int8", "int32", "bool", "bf16", "fp32", "", "learning_rate")
    types = (jnp.int32, np.dtype("int16"), int, bool, np.dtype("datetime64[s]"))
    # `mu_dtype` takes a complex dtype for that of its parts, as Optax's tests do.
    complexes = () if argument.name == "mu_dtype" else (jnp.complex64, np.complex128)
    for value in (*names, *types, *complexes, True, 3, 32.0):
        argument.refuses(value, (ValueError, TypeError), re.escape(repr(value)))


# --- Which parameters ----------------------------------------------------------------


def of_three(path: str, array: Any, extra: Any) -> bool:
    """Look like a predicate that wants too much."""
    del path, array, extra
    return True


NO_MASKS = (
    (3, "3"),
    (0.5, r"0\.5"),
    (b"*/bias", "bias"),
    (object(), "object"),
    ({"*/bias"}, "bias"),
    (np.ones(3, bool), r"array\("),
    (jnp.ones(3, bool), r"Array\("),
    (no_argument, "no_argument"),
    (of_three, "of_three"),
    ({"w": "yes"}, "'yes'"),
    ({"w": 1, "b": 0}, "[01] of type int"),
    ({"w": np.ones(2, bool)}, r"array\("),
    ({"w": jax.ShapeDtypeStruct((), bool)}, "ShapeDtypeStruct"),
    (["*/bias", True], r"'\*/bias'|True"),
)


@pytest.mark.parametrize(
    "argument",
    [
        Argument(optadamw.adamw, "mask", "", RATE),
        Argument(optadamw.add_decoupled_weight_decay, "mask", ""),
    ],
    ids=str,
)
def test_masks_of_a_wrong_type_are_refused(argument):
    for mask, received in NO_MASKS:
        argument.refuses(mask, TypeError, received)
    for mask in ("", "!", ["*/bias", ""], ["!"], [re.compile("x"), ""]):
        with pytest.raises(ValueError, match=r"`mask` has an empty pattern.*'\*'"):
            argument.given(mask)


@pytest.mark.parametrize(
    ("function", "patterns", "error", "words"),
    [
        (optadamw.only, (), ValueError, "at least one pattern; got none"),
        (optadamw.exclude, (), ValueError, "at least one pattern; got none"),
        (optadamw.only, ("",), ValueError, "empty pattern"),
        (optadamw.exclude, ("*/bias", ""), ValueError, "empty pattern"),
        (optadamw.only, (3,), TypeError, "strings.*; got 3"),
        (optadamw.only, (["*/bias"],), TypeError, r"strings.*; got \['\*/bias'\]"),
        (optadamw.exclude, (3,), TypeError, "strings.*; got 3"),
        (optadamw.exclude, (["a"],), TypeError, r".*; got \['a'\]"),
    ],
)
def test_only_and_exclude_take_patterns(function, patterns, error, words):
    with pytest.raises(error, match=rf"`patterns` .*{words}"):
        function(*patterns)


# --- Options that contradict each other, and arguments that do not exist --------------

CONTRADICTIONS = (
    (
        RATE | {"ema_overwrite_every": 2},
        "`ema_overwrite_every` .*without `ema_decay`; got ema_overwrite_every=2",
    ),
    (
        RATE | {"ema_debias": True},
        "`ema_debias` .*without `ema_decay`; got ema_debias=True",
    ),
    (
        RATE | {"ema_warmup": True},
        "`ema_warmup` .*without `ema_decay`; got ema_warmup=True",
    ),
    (
        RATE | {"max_learning_rate": 1e-3},
        "`max_learning_rate` has no meaning with .*'lr'; got 0.001.*'schedule'",
    ),
    (
        RATE | {"max_learning_rate": 0.5, "weight_decay_mode": "independent"},
        "`max_learning_rate` has no meaning with .*'independent'; got 0.5",
    ),
    (
        {"learning_rate": every_other, "weight_decay_mode": "schedule"},
        "`max_learning_rate` is missing.*'schedule'.*every_other.*Give it",
    ),
    (
        {"learning_rate": jnp.float32(1e-3), "weight_decay_mode": "corrected"},
        "`max_learning_rate` is missing.*'corrected'.*Give it",
    ),
    (
        RATE | {"amsgrad": "corrected", "eps_mode": "hat"},
        "'corrected'.*'hat'.*Use",
    ),
)


@pytest.mark.parametrize(("options", "words"), CONTRADICTIONS)
def test_contradicting_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        optadamw.adamw(**options)


def test_an_average_has_one_start():
    text = r"`debias` and `warmup` .*; got True for both\. Choose one"
    with pytest.raises(ValueError, match=text):
        optadamw.ema_params(0.9, debias=True, warmup=True)


def test_adamw_names_its_own_arguments_for_the_start_of_the_average():
    with pytest.raises(ValueError, match="`ema_debias` and `ema_warmup`"):
        optadamw.adamw(1e-3, ema_decay=0.9, ema_debias=True, ema_warmup=True)


@pytest.mark.parametrize(
    ("factory", "args", "kwargs", "name"),
    [
        (optadamw.adamw, (), {}, "learning_rate"),
        (optadamw.adamw, (), {"lr": 1e-3}, "lr"),
        (optadamw.adamw, (1e-3,), {"betas": (0.9, 0.999)}, "betas"),
        (optadamw.adamw, (1e-3,), {"beta_1": 0.9}, "beta_1"),
        (optadamw.adamw, (1e-3,), {"epsilon": 1e-7}, "epsilon"),
        (optadamw.adamw, (1e-3,), {"clipnorm": 1.0}, "clipnorm"),
        (optadamw.adamw, (1e-3,), {"decay": 0.1}, "decay"),
        (optadamw.adamw, (1e-3,), {"amsgrad_max": True}, "amsgrad_max"),
        (optadamw.adamw, (1e-3, *[0.5] * 8), {}, "positional"),
        (optadamw.scale_by_adam, (), {"mode": "hat"}, "mode"),
        (optadamw.clip_by_value, (), {}, "limit"),
        (optadamw.ema_params, (), {}, "decay"),
        (optadamw.add_decoupled_weight_decay, (0.1, None, "lr"), {}, "positional"),
        (optadamw.maximize, (True,), {}, "positional"),
        (optadamw.cautious, (), {"eps": 1e-3}, "eps"),
        (optadamw.chain, (), {"mask": None}, "mask"),
    ],
)
def test_arguments_that_do_not_exist_are_refused(factory, args, kwargs, name):
    with pytest.raises(TypeError, match=rf"{factory.__name__}\(\).*{name}"):
        factory(*args, **kwargs)


def test_at_least_forty_bad_values_are_tried():
    kinds = (NOT_FINITE_OR_NEGATIVE, NO_NUMBERS, NO_WHOLE_NUMBERS, TYPOS, NO_MASKS)
    assert sum(map(len, kinds)) + len(CONTRADICTIONS) >= 40
