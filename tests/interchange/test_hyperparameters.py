"""A saved run with other hyperparameters than `tx` is converted with a warning."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import interchange
from optadamw.dialects import optimi, timm, torch

PARAMS = {"bias": jnp.ones(2), "w": jnp.ones(2)}
OPTIONS = {"lr": 0.5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def saved(*groups, maximum=False):
    """A state dict of PyTorch: one group for both parameters, or one for each."""
    moments = {"step": np.float32(3), "exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}
    moments |= {"max_exp_avg_sq": np.ones(2)} if maximum else {}
    members = [[0, 1]] if len(groups) == 1 else [[0], [1]]
    rows = [
        {**OPTIONS, **group, "params": own}
        for group, own in zip(groups, members, strict=True)
    ]
    return {"state": {0: moments, 1: moments}, "param_groups": rows}


def told(read, *arguments, **options):
    """Return the warnings of a conversion, each of which shows the line that calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(*arguments, **options)
    assert all(one.filename == __file__ for one in caught)
    return [str(one.message) for one in caught]


def from_torch(state, tx, **options):
    return told(lambda: interchange.from_torch(state, PARAMS, tx=tx, **options))


def test_equal_hyperparameters_are_no_news():
    tx = optadamw.adamw(1e-3, weight_decay=0.1)  # the rate may have been scheduled
    assert from_torch(saved({}), tx) == []
    # In float32, in which files of other libraries may keep them.
    single = {"betas": (np.float32(0.9), np.float32(0.999)), "eps": np.float32(1e-8)}
    assert from_torch(saved(single), tx) == []
    assert from_torch(saved({"betas": np.array([0.9, 0.999])}), tx) == []
    assert from_torch(saved({"betas": None, "weight_decay": None}), tx) == []
    for betas in ("ab", 0.9, (0.9,)):
        with pytest.raises(TypeError, match="betas of a group` must be a pair of num"):
            interchange.from_torch(saved({"betas": betas}), PARAMS, tx=tx)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weight_decay": 0.01}, "weight_decay=0.1, where `tx` has 0.01 for all"),
        ({"b1": 0.8}, "b1=0.9, where `tx` has 0.8 for all parameters"),
        ({"b2": 0.9999}, "b2=0.999, where `tx` has 0.9999 for all parameters"),
        ({"eps": 1e-6}, "eps=1e-08, where `tx` has 1e-06 for all parameters"),
        ({"mask": "w"}, "weight_decay=0.1, where `tx` has 0 for 'bias'. The"),
        (
            {"weight_decay_mode": "independent"},
            "weight_decay_mode='lr', where `tx` has 'independent' for all",
        ),
        ({"caution": True}, None),  # which PyTorch's groups do not have
    ],
)
def test_one_warning_names_option_and_both_values(options, text):
    tx = optadamw.adamw(1e-3, **{"weight_decay": 0.1, **options})
    found = from_torch(saved({}), tx)
    if text is None:
        assert found == []
        return
    (message,) = found
    assert message.startswith("The saved run of PyTorch had other hyperparameters than")
    assert text in message
    assert "The training continues with those of `tx`" in message


def test_a_number_beyond_float32_differs_without_a_word_of_numpy():
    """NumPy warns of its cast to infinity, in words that name no option."""
    tx = optadamw.adamw(1e-3, weight_decay=0.1)
    (text,) = from_torch(saved({"eps": 1e39}), tx)
    assert "eps=1e+39, where `tx` has 1e-08 for all parameters" in text


def test_all_differences_are_in_one_warning():
    tx = optadamw.adamw(1e-3, b1=0.8, eps=1e-5, weight_decay=0.1)
    (message,) = from_torch(saved({"weight_decay": 0.0}, {}), tx)
    assert "b1=0.9, where `tx` has 0.8 for all parameters; eps=1e-08" in message
    assert "weight_decay=0, where `tx` has 0.1 for 'bias'. The" in message
    assert "'w'" not in message


def test_groups_are_compared_parameter_by_parameter():
    state = saved({"weight_decay": 0.0}, {"amsgrad": True}, maximum=True)
    bias = [{"params": "bias", "weight_decay": 0.0, "amsgrad": False}]
    tx = torch.AdamW(bias, lr=1e-3, weight_decay=0.1, amsgrad=True)
    assert from_torch(state, tx) == []
    tx = torch.AdamW(lr=1e-3, weight_decay=0.1, amsgrad=True)
    (message,) = from_torch(saved({"amsgrad": False}, {}, maximum=True), tx)
    assert "amsgrad=False, where `tx` has True for 'bias'. The" in message
    tx = optadamw.adamw(1e-3, weight_decay=0.1)
    state = saved({"amsgrad": True}, maximum=True)
    assert from_torch(state, tx, drop=("nu_max",)) == []  # known, as it is dropped


def test_numbers_that_change_are_not_compared():
    fixed = {"b2": 0.999, "eps": 1e-8}
    scheduled = optadamw.adamw(1e-3, weight_decay=lambda step: 0.3, **fixed)
    assert from_torch(saved({}), scheduled) == []
    adjustable = optadamw.adamw(1e-3, weight_decay=optadamw.adjustable(0.3))
    (message,) = from_torch(saved({}), adjustable)
    assert "weight_decay=0.1, where `tx` has 0.3" in message
    array = optadamw.adamw(1e-3, weight_decay=jnp.float32(0.3))
    assert "where `tx` has 0.3" in from_torch(saved({}), array)[0]

    def traced(decay):
        tx = optadamw.adamw(1e-3, weight_decay=decay)
        found.extend(from_torch(saved({}), tx))
        return decay

    found = []
    jax.eval_shape(traced, jnp.float32(0.3))
    assert found == []


def test_parts_and_frozen_parameters_are_not_compared():
    assert from_torch(saved({}), optadamw.scale_by_adam()) == []  # the decay is outside
    assert "b1=0.9" in from_torch(saved({}), optadamw.scale_by_adam(b1=0.5))[0]
    groups = {"bias": {"freeze": True}}
    tx = optadamw.adamw(1e-3, weight_decay=0.1, groups=groups)
    assert from_torch(saved({"weight_decay": 0.7}, {}), tx) == []
    assert told(lambda: interchange.from_torch(saved({}), PARAMS)) == []  # no `tx`


def test_options_of_timm_and_optimi():
    tx = timm.AdamWLegacy(lr=0.1, weight_decay=0.1, caution=True)
    written = interchange.to_timm(tx.init(PARAMS), PARAMS, tx=tx)
    read = interchange.from_timm
    assert told(lambda: read(written, PARAMS, tx=tx)) == []
    plain = timm.AdamWLegacy(lr=0.1, weight_decay=0.1, corrected_weight_decay=True)
    (message,) = told(lambda: read(written, PARAMS, tx=plain))
    assert "caution=True, where `tx` has False" in message
    assert "weight_decay_mode='lr', where `tx` has 'corrected'" in message
    tx = optimi.AdamW(lr=0.1, decouple_lr=True, weight_decay=1e-4)
    written = interchange.to_optimi(tx.init(PARAMS), PARAMS, tx=tx)
    assert told(lambda: interchange.from_optimi(written, PARAMS, tx=tx)) == []
    tx = optimi.AdamW(lr=0.1, betas=(0.9, 0.98))
    (message,) = told(lambda: interchange.from_optimi(written, PARAMS, tx=tx))
    assert "b2=0.99, where `tx` has 0.98" in message
    assert "weight_decay=0.0001, where `tx` has 0.01" in message


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numbers_of_inject_hyperparams(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    inner = optax.inject_hyperparams(optax.adamw, static_args=("mask",))
    make = inner(
        learning_rate=optax.constant_schedule(0.5),
        b1=lambda step: 0.5,
        weight_decay=0.1,
        mask={"bias": False, "w": True},
    )
    state = optax.chain(optax.clip(1.0), make).init(params)

    def read(tx):
        return told(lambda: interchange.from_optax(state, params, tx=tx))

    # A mask is in no state of Optax: nobody can say whether 'bias' had a decay.
    # In bfloat16 both 0.999 and 1 are 1, and 0.1 is 0.1000977.
    options = {"commit": "nearest"}
    assert read(optadamw.adamw(1e-3, weight_decay=0.1, mask="w", **options)) == []
    (message,) = read(optadamw.adamw(1e-3, weight_decay=0.0, **options))
    assert "weight_decay=0.1" in message
    assert "where `tx` has 0 for all parameters" in message
    assert (
        told(
            lambda: interchange.from_optax(
                optax.adamw(1e-3, b1=0.5).init(params),  # which keeps no numbers
                params,
                tx=optadamw.adamw(1e-3, commit="nearest"),
            )
        )
        == []
    )
