"""Numbers and bools of NumPy are arguments as those of Python are."""

import numpy as np
import pytest

import optadamw
from optadamw.integrations.expression import read_call, text_of

CALLS = {
    "restarts": lambda n: optadamw.cosine_warm_restarts(n(8), factor=n(2)),
    "decay": lambda n: optadamw.normalized_weight_decay(n(1), steps=np.int32(8)),
    "spikes": lambda n: optadamw.skip_spikes(
        optadamw.adamw(0.1), window=n(16), min_history=n(4)
    ),
    "interval": lambda n: optadamw.DynamicLossScale(growth_interval=n(8)),
    "residual": lambda n: optadamw.adamw(0.1, commit="master", residual_bits=n(8)),
    "power": lambda n: optadamw.schedule_free(weight_power=n(2)),
    "factor": lambda n: optadamw.adjustable(0.1) * n(2),
    "layers": lambda n: optadamw.layerwise_decay(
        {"a": np.ones(2, "f"), "b": np.ones(2, "f")}, 0.1, ["a", "b"], decay=n(1)
    ),
    "block": lambda n: optadamw.blockwise(block_size=n(32), axis=n(-1)),
    "points": lambda n: optadamw.random_points(n(3), learning_rate=(n(1), n(2), "log")),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_whole_number_of_numpy_is_one_of_python(name, kind):
    ours, wanted = CALLS[name](kind), CALLS[name](int)
    if name == "points":
        np.testing.assert_array_equal(ours["learning_rate"], wanted["learning_rate"])
    else:
        assert ours == wanted


@pytest.mark.parametrize("name", ["decay", "power", "factor", "layers"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_float_of_numpy_is_one_of_python(name, kind):
    assert CALLS[name](kind) == CALLS[name](int)


@pytest.mark.parametrize("name", ["stats", "amsgrad", "skip_spikes", "caution"])
@pytest.mark.parametrize("value", [True, False])
def test_a_bool_of_numpy_is_one_of_python(name, value):
    ours = optadamw.adamw(0.1, **{name: np.bool_(value)})
    assert ours == optadamw.adamw(0.1, **{name: value})
    assert read_call(text_of(ours)) == ours


@pytest.mark.parametrize("name", [*CALLS])
def test_what_is_no_number_is_refused(name):
    for wrong in (np.bool_(True), True, "8", np.ones(2)):
        with pytest.raises((TypeError, ValueError)):
            CALLS[name](lambda n, wrong=wrong: wrong)
