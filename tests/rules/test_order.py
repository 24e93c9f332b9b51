"""Atoms chained where they would not mean what they say are refused, with the order."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw

ADAM = optadamw.scale_by_adam()
DECAY = optadamw.add_decoupled_weight_decay(0.1)
RATE = optadamw.scale_by_learning_rate(0.1)
MAXIMUM = optadamw.amsgrad_max()
CAUTION = optadamw.cautious()
AVERAGE = optadamw.ema_params(0.9)
CLIP = optadamw.clip_by_global_norm(1.0)
ASCENT = optadamw.maximize()

THE_ORDER = (
    "maximize, clips, scale_by_adam, amsgrad_max, add_slow_moment, cautious, "
    "add_decoupled_weight_decay, clip_update_by_rms, scale_by_learning_rate, "
    "schedule_free or ema_params"
)


def after(late: str, early: str) -> str:
    """Match the sentence that says which atom came too late, and the whole order."""
    return rf"{late}.* after {early}.*{THE_ORDER}"


ADAM_FIRST = r"scale_by_adam.*before.*optadamw\.chain\(scale_by_adam\(\.\.\.\)"

MISPLACED = {
    "decay before Adam": (
        (DECAY, ADAM, RATE),
        after("scale_by_adam", "add_decoupled_weight_decay"),
    ),
    "decay after the rate": (
        (ADAM, RATE, DECAY),
        after("add_decoupled_weight_decay", "scale_by_learning_rate"),
    ),
    "rate before Adam": (
        (RATE, ADAM),
        after("scale_by_adam", "scale_by_learning_rate"),
    ),
    "clip after decay": (
        (ADAM, DECAY, CLIP, RATE),
        after("clip_by_global_norm", "add_decoupled_weight_decay"),
    ),
    "clip after the rate": (
        (ADAM, RATE, CLIP),
        after("clip_by_global_norm", "scale_by_learning_rate"),
    ),
    "ascent after Adam": ((ADAM, ASCENT, RATE), after("maximize", "scale_by_adam")),
    "ascent after the rate": (
        (RATE, ASCENT),
        after("maximize", "scale_by_learning_rate"),
    ),
    "average before the rate": (
        (ADAM, AVERAGE, RATE),
        after("scale_by_learning_rate", "ema_params"),
    ),
    "average before Adam": ((AVERAGE, ADAM), after("scale_by_adam", "ema_params")),
    "average before decay": (
        (AVERAGE, DECAY),
        after("add_decoupled_weight_decay", "ema_params"),
    ),
    "caution after decay": (
        (ADAM, DECAY, CAUTION, RATE),
        after("cautious", "add_decoupled_weight_decay"),
    ),
    "maximum alone": ((MAXIMUM,), ADAM_FIRST),
    "maximum before Adam": ((MAXIMUM, ADAM), ADAM_FIRST),
    "maximum without Adam": ((CLIP, MAXIMUM, RATE), ADAM_FIRST),
    "caution alone": ((CAUTION,), ADAM_FIRST),
    "caution before Adam": ((CAUTION, ADAM), ADAM_FIRST),
    "caution without Adam": ((CLIP, CAUTION, RATE), ADAM_FIRST),
    "inside nested chains": (
        (optadamw.chain(CLIP, ADAM), optadamw.chain(RATE), optadamw.chain(DECAY)),
        after("add_decoupled_weight_decay", "scale_by_learning_rate"),
    ),
    "after a whole adamw": (
        (optadamw.adamw(0.1), CLIP),
        after("clip_by_global_norm", "add_decoupled_weight_decay"),
    ),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_a_misplaced_atom_is_refused_with_the_right_order(case):
    parts, words = MISPLACED[case]
    with pytest.raises(ValueError, match=words):
        optadamw.chain(*parts)


@pytest.mark.parametrize("between", [CLIP, CAUTION, DECAY, RATE])
def test_the_maximum_directly_follows_adam(between):
    with pytest.raises(ValueError, match=r"amsgrad_max.*right (before|after)"):
        optadamw.chain(ADAM, between, MAXIMUM)


def test_the_maximum_of_the_corrected_moment_has_no_epsilon_hat():
    hat = optadamw.scale_by_adam(eps_mode="hat")
    corrected = optadamw.amsgrad_max("corrected")
    with pytest.raises(ValueError, match=r"'corrected'.*'hat'.*Use"):
        optadamw.chain(hat, corrected)
    optadamw.chain(hat, optadamw.amsgrad_max("raw"))
    optadamw.chain(ADAM, corrected)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((ADAM, ADAM), r"scale_by_adam.*(twice|once|both)"),
        ((ADAM, RATE, AVERAGE, AVERAGE), r"ema_params.*(twice|once|both)"),
        ((ADAM, MAXIMUM, MAXIMUM), r"amsgrad_max.*(twice|once|both)"),
        ((optadamw.adamw(0.1), optadamw.adamw(0.1)), r"(twice|once|both)"),
        ((ADAM, RATE, RATE), r"scale_by_learning_rate.*(twice|once|both)"),
    ],
)
def test_what_there_is_room_for_once_is_refused_twice(parts, words):
    with pytest.raises(ValueError, match=words):
        optadamw.chain(*parts)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("independent", r"'independent'.*learning rate.*Put scale_by_learning_rate"),
        ("schedule", r"'schedule'.*learning rate.*Put scale_by_learning_rate"),
        ("corrected", r"'corrected'.*learning rate.*Put scale_by_learning_rate"),
    ],
)
def test_decay_that_must_see_the_rate_is_refused_without_one(mode, words):
    decay = optadamw.add_decoupled_weight_decay(0.1, mode=mode)
    with pytest.raises(ValueError, match=words):
        optadamw.chain(ADAM, decay)
    optadamw.chain(ADAM, decay, RATE)


def test_decay_by_the_schedule_needs_the_peak():
    decay = optadamw.add_decoupled_weight_decay(0.1, mode="schedule")
    rate = optadamw.scale_by_learning_rate(optax.linear_schedule(0.1, 0.0, 10))
    with pytest.raises(ValueError, match=r"`max_learning_rate` is missing.*Give it"):
        optadamw.chain(ADAM, decay, rate)


@pytest.mark.parametrize(
    "part",
    [
        optax.clip_by_global_norm(1.0),
        optax.adamw(1e-3),
        optax.identity(),
        optax.chain(ADAM, RATE),
        optax.masked(ADAM, True),
        optadamw.scale_by_adam,
        optadamw.Transformation,
        [ADAM, RATE],
        (ADAM.init, ADAM.update),
        "scale_by_adam",
        None,
        1e-3,
    ],
    ids=lambda part: type(part).__name__,
)
def test_foreign_parts_are_refused_with_the_way_to_combine_them(part):
    with pytest.raises(TypeError, match=r"(?s)optadamw; got .*optax\.chain"):
        optadamw.chain(ADAM, part)


# --- Alone, or beside foreign parts, an atom cannot be checked before `init` ----------

PARAMS = {"w": jnp.ones(3)}
GRADS = {"w": jnp.ones(3)}


def alone(atom: optax.GradientTransformation) -> None:
    """Use an atom as users of `optax.chain` do."""
    tx = optax.chain(ADAM, atom, RATE)
    tx.update(GRADS, tx.init(PARAMS), PARAMS)


def test_the_maximum_alone_is_refused():
    with pytest.raises(ValueError, match=r"amsgrad_max.*optadamw\.chain"):
        alone(MAXIMUM)


def test_caution_alone_is_refused():
    with pytest.raises(ValueError, match=r"cautious.*optadamw\.chain"):
        alone(CAUTION)


@pytest.mark.parametrize("mode", ["independent", "schedule", "corrected"])
def test_decay_that_must_see_the_rate_is_refused_alone(mode):
    decay = optadamw.add_decoupled_weight_decay(0.1, mode=mode)
    with pytest.raises(ValueError, match=rf"'{mode}'.*optadamw\.chain"):
        alone(decay)


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (ADAM,),
        (ADAM, MAXIMUM, CAUTION, DECAY, RATE, AVERAGE),
        (ASCENT, optadamw.clip_by_value(1.0), optadamw.clip_by_norm(1.0), CLIP, ADAM),
        (ADAM, CLIP, RATE),
        (optadamw.chain(ADAM, MAXIMUM), optadamw.chain(DECAY, RATE)),
        (optadamw.chain(ADAM), MAXIMUM, RATE),
        (DECAY, RATE),
        (RATE, AVERAGE),
    ],
)
def test_right_orders_are_accepted_and_step(parts):
    tx = optadamw.chain(*parts)
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert state.step == 1
    for name, update in updates.items():
        assert update.shape == PARAMS[name].shape and np.isfinite(update).all()
        # Along the gradient; a rate turns it around, and so does `maximize`.
        turns = sum(atom in repr(parts) for atom in ("learning_rate", "maximize"))
        assert (np.sign(update) == (-1) ** turns * np.sign(GRADS[name])).all()
