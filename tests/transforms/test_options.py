"""`adamw`'s signature, docstring and page against the table of its options."""

import inspect
import re
from ast import literal_eval
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw.base.errors import renamed, reworded
from optadamw.transforms.options import (
    ATOMS,
    CHANGE_OTHERS,
    SEVERAL,
    SWITCH,
    WRAPPERS,
    group_options,
)

PARTS = (*ATOMS, *WRAPPERS)
PARAMETERS = inspect.signature(optadamw.adamw).parameters
OPTIONS = {option.name: option for part in PARTS for option in part.options}
ASKERS = {
    option.name: part.asked_by
    for part in PARTS
    for option in part.options
    if part.asked_by
}
PARAMS = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()


def documented() -> dict[str, str]:
    """Return the entries of `adamw`'s Args in their order."""
    doc = inspect.getdoc(optadamw.adamw)
    section = re.search(r"\nArgs:\n(.*?)\n\n", doc, re.S)
    entries = re.findall(r"(?m)^  (\w+): (.*(?:\n    .*)*)", section[1])
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def asking(name):
    """Return the options with which the part of the option `name` is built."""
    asker = ASKERS.get(name)
    if asker is None or asker.name == name:
        return {}
    return {asker.name: literal_eval(asker.example) if asker.example else True}


# --- Signature and docstring ---------------------------------------------------------


def test_the_signature_and_the_table_have_the_same_options():
    assert set(PARAMETERS) == {*OPTIONS, *CHANGE_OTHERS}


def test_options_that_may_be_none_default_to_none():
    for name, parameter in PARAMETERS.items():
        option = OPTIONS.get(name)
        if option is not None and option.is_needed:
            assert parameter.default is not None, name
        elif name != "nesterov":  # its default is Optax's
            assert parameter.default is None, name


def test_positions_are_those_of_optax():
    mine = [p.name for p in PARAMETERS.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    theirs = [
        p.name
        for p in inspect.signature(optax.adamw).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert mine == theirs[: len(mine)]


def test_the_docstring_has_every_option_in_the_order_of_the_signature():
    assert list(documented()) == list(PARAMETERS)


def test_the_docstring_says_what_none_means():
    for name, text in documented().items():
        if PARAMETERS[name].default is None:
            assert "None" in text, name


def test_the_docstring_names_the_atoms_and_wrappers_in_order():
    doc = inspect.getdoc(optadamw.adamw)
    chain = re.search(r"in this order:(.*?)\. Around", doc, re.S)
    assert re.findall(r"`(\w+)`", chain[1]) == [part.make.__name__ for part in ATOMS]
    around = re.search(r"Around the chain(.*?)\.\s+The docstring", doc, re.S)
    named = set(re.findall(r"`(\w+)`", around[1]))
    assert named == {part.make.__name__ for part in WRAPPERS} - {"chain"}


def test_the_docstring_names_what_no_group_sets():
    text = re.search(r"A group may set .*? share\.", documented()["groups"])[0]
    named = set(re.findall(r"`(\w+)`", text))
    in_chain = {option.name for part in ATOMS for option in part.options}
    average = {option.name for option in ATOMS[-1].options}
    assert named | average == in_chain - set(group_options())


# --- The atoms and wrappers ----------------------------------------------------------


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.make.__name__)
def test_a_row_names_arguments_that_exist(part):
    parameters = inspect.signature(part.make).parameters
    for option in part.options:
        if option.argument not in (SWITCH, SEVERAL):
            parameter = parameters[option.argument]
            left_out = not option.is_needed and not option.asks
            assert not left_out or parameter.default is not parameter.empty
    assert set(part.fields.values()) <= set(parameters)
    assert sum(option.asks for option in part.options) <= 1


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.make.__name__)
def test_the_page_lists_the_options_of_a_part(part):
    if part.make is optadamw.chain:
        row = "`update_dtype`"
        assert "The option `update_dtype` is the argument of `chain`" in PAGE
    else:
        name = part.make.__name__
        row = re.search(rf"(?m)^\| `{name}` \|([^|]*)\|", PAGE)[1]
    assert set(re.findall(r"`(\w+)`", row)) == {o.name for o in part.options}


def test_describe_shows_arguments_of_the_atoms_and_wrappers():
    tx = optadamw.adamw(
        0.1,
        mask="kernel",
        **{"mu_dtype": "bfloat16", "nu_dtype": "float32", "amsgrad": True},
        **{"clip_value": 1.0, "clip_norm": 1.0, "clip_global_norm": 1.0},
        **{"ema_decay": 0.9, "ema_dtype": "float32", "maximize": True},
        **{"accumulate_steps": 2, "accumulator_dtype": "bfloat16", "stats": True},
        **{"loss_scale": 2.0, "skip_spikes": True, "on_bad_micro_step": "wait"},
        **{"caution": True, "b3": 0.9, "max_consecutive": 3},
        **{"clip_update_rms": 1.0, "clip_update_keeps_decay": True},
        **{"zero1": "data"},
        offload="mu",
        reproducible_norms=True,
    )
    text = optadamw.describe(tx, PARAMS)
    lines = re.findall(r"(?m)^(?:\d+\.|- ) (\w+)(?:: (.*))?$", text)
    others = {"chain", "with_commit", "with_seed", "skip_nonfinite", "with_kernels"}
    assert {name for name, _ in lines} == {p.make.__name__ for p in PARTS} - others
    for name, arguments in lines:
        shown = set(re.findall(r"(?:^|, )(\w+)=", arguments))
        assert shown <= set(inspect.signature(getattr(optadamw, name)).parameters)
    assert "mask='kernel'" in text and "dtype='bfloat16'" in text
    assert "on_bad_micro_step='wait', max_consecutive=3.0" in text


def test_describe_shows_a_loss_scale_as_it_is_written():
    scale = optadamw.DynamicLossScale(growth_interval=7)
    text = optadamw.describe(optadamw.adamw(0.1, loss_scale=scale), PARAMS)
    assert f"with_loss_scale: loss_scale={scale!r}\n-  skip_nonfinite\n" in text


# --- Values --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in PARAMETERS if n != "learning_rate"])
def test_none_leaves_an_option_out_and_is_refused_for_a_number(name):
    given = {"learning_rate": 0.1} | {name: None}
    if name in OPTIONS and OPTIONS[name].is_needed:
        with pytest.raises(TypeError, match=f"`{name}` must be a number"):
            optadamw.adamw(**given)
    else:
        assert optadamw.adamw(**given) == optadamw.adamw(0.1)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_errors_say_the_name_of_the_option(name):
    given = {"learning_rate": 0.1} | asking(name) | {name: object()}
    with pytest.raises((TypeError, ValueError), match=f"^`{name}` .*object"):
        optadamw.adamw(**given)


@pytest.mark.parametrize("name", [n for n in OPTIONS if asking(n)])
def test_an_option_without_its_part_has_no_effect(name):
    if name in ("mu_dtype", "nu_dtype"):  # of `scale_by_adam` too, always there
        assert optadamw.adamw(0.1, **{name: "float32"}) is not None
        return
    asker = ASKERS[name].name
    with pytest.raises(ValueError, match=f"^`{name}` has no effect without") as caught:
        optadamw.adamw(0.1, **{name: 3})
    assert f"; got {name}=3. Give " in str(caught.value)
    assert f"`{asker}`" in str(caught.value)
    assert str(caught.value).endswith(", or leave it out.")
    remedy = ASKERS[name].remedy
    assert remedy in str(caught.value)


def test_a_guard_has_two_options_that_ask_for_it():
    message = (
        "`max_consecutive` has no effect without `skip_nonfinite` or `skip_spikes`; "
        "got max_consecutive=2. Give skip_nonfinite=True or skip_spikes=True, or leave "
        "it out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        optadamw.adamw(0.1, max_consecutive=2)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_consecutive": 4}, "max_consecutive"),
        ({"max_consecutive": np.int64(4)}, "max_consecutive"),
        ({"max_consecutive": 4.0}, "max_consecutive"),
        ({"max_consecutive": jnp.int32(4)}, "max_consecutive"),
        ({"max_consecutive": optadamw.adjustable(4)}, "max_consecutive"),
        ({"accumulate_steps": 2, "on_bad_micro_step": "wait"}, "on_bad_micro_step"),
    ],
)
def test_a_mapping_that_contradicts_an_option_is_refused(options, name):
    spikes = {"max_consecutive": 2, "on_bad_micro_step": "drop"}
    with pytest.raises(ValueError, match=f"^`{name}` is .* in the mapping of `skip_sp"):
        optadamw.adamw(0.1, skip_spikes=spikes, **options)


@pytest.mark.parametrize("given", [2, 2.0, np.int64(2), jnp.int32(2)], ids=repr)
def test_a_mapping_may_repeat_an_option(given):
    tx = optadamw.adamw(0.1, skip_spikes={"max_consecutive": given}, max_consecutive=2)
    assert tx.init(PARAMS) is not None


def test_words_are_listed():
    with pytest.raises(ValueError, match="must be True, False, None, 'raw' or 'corr"):
        optadamw.adamw(0.1, amsgrad="Raw")
    with pytest.raises(ValueError, match="must be True, False, None or 'norms'; got 1"):
        optadamw.adamw(0.1, stats=1)


SCHEDULED = (
    *("learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay", "clip_value"),
    *("clip_norm", "clip_global_norm", "clip_eps", "ema_decay"),
    *("ema_overwrite_every", "accumulate_steps"),
)


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_schedule_that_returns_no_number_is_named_as_its_option(name):
    def wordy(step):
        del step
        return name  # another schedule for each option: equal steps are one

    tx = optadamw.adamw(**({"learning_rate": 0.1} | asking(name) | {name: wordy}))
    with pytest.raises(TypeError, match=f"^`{name}`, as the schedule .*; got '{name}'"):
        jax.eval_shape(tx.step, PARAMS, tx.init(PARAMS), PARAMS)


def test_a_schedule_of_a_group_is_named_as_its_option():
    def wordy(step):
        del step
        return "1.0"

    tx = optadamw.adamw(0.1, groups={"bias": {"clip_value": wordy}})
    with pytest.raises(TypeError, match=r"^`clip_value`, as the schedule"):
        jax.eval_shape(tx.step, PARAMS, tx.init(PARAMS), PARAMS)


def test_a_group_is_named_in_errors_with_a_backslash_in_it():
    with pytest.raises(ValueError, match=r"^`groups\[.*\]`: `clip_value` must be"):
        optadamw.adamw(0.1, groups=[(re.compile(r"\d"), {"clip_value": -1.0})])


# --- Errors under other names --------------------------------------------------------


def test_names_are_put_in_the_place_of_whole_words_in_backticks():
    message = "`decay` and `decays` of decay; got 'decay'"
    assert renamed(message, {"decay": "ema_decay"}) == (
        "`ema_decay` and `decays` of decay; got 'decay'"
    )


def test_an_error_keeps_its_kind_and_its_place():
    with pytest.raises(TypeError, match=r"^`y` must be$") as caught:
        with reworded(lambda message: renamed(message, {"x": "y"})):
            raise TypeError("`x` must be")
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_errors_that_hold_more_than_their_message_are_left_alone():
    class Richer(ValueError):
        """An error with arguments of its own."""

    for error in (Richer("`x`", 3), UnicodeDecodeError("utf8", b"x", 0, 1, "`x`")):
        with pytest.raises(type(error)) as caught:
            with reworded(str.upper):
                raise error
        assert caught.value is error and "`X`" not in str(caught.value)
