"""Saved states of optimi, torchao and bitsandbytes."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import interchange
from tests.interchange import cases
from tests.interchange.saving import refused, saved_by


def test_optimi_groups_and_steps():
    saved, params, tx = saved_by("optimi")
    call = interchange.from_optimi
    group = saved["param_groups"][0]
    assert group["beta1"] == cases.B1 and int(group["step"]) == 2
    lacking = {key: x for key, x in group.items() if key != "beta2"}
    broken = {**saved, "param_groups": [lacking]}
    refused(ValueError, "no 'beta2'", call, broken, params)
    lacking = {key: x for key, x in group.items() if key != "step"}
    broken = {**saved, "param_groups": [lacking]}
    refused(ValueError, "neither it nor its group", call, broken, params)
    split = [{**group, "params": [0, 1]}, {**group, "params": [2, 3, 4, 5], "step": 3}]
    broken = {**saved, "param_groups": split}
    refused(ValueError, "different numbers of steps", call, broken, params)
    own = {i: {**e, "step": 2} for i, e in saved["state"].items()}
    state = call({**saved, "state": own}, params, tx=tx)
    assert int(state.step) == 2
    to = interchange.to_optimi
    state = cases.trained(tx, cases.tree(), 2)[1]
    refused(ValueError, "lack 'beta1'", to, state, params, groups=[{"lr": 1.0}])


def test_optimi_compensation_is_not_lost_in_silence():
    saved, params, tx = saved_by("optimi")
    saved["state"][0]["kahan_comp"] = np.zeros(3, np.float32)
    saved["state"][1]["kahan_comp"] = np.zeros(1, np.uint8)
    interchange.from_optimi(saved, params, tx=tx)
    saved["state"][0]["kahan_comp"][0] = 1e-3
    refused(ValueError, "'kahan_comp'", interchange.from_optimi, saved, params, tx=tx)
    interchange.from_optimi(saved, params, tx=tx, drop=("kahan_comp",))


def low_bits(parts: dict[str, Any], count: int) -> Any:
    entries = {"step": np.float32(1), "exp_avg": parts, "exp_avg_sq": parts}
    saved = {"state": {0: entries}, "param_groups": [{"params": [0]}]}
    return saved, [jnp.zeros(count)]


def test_torchao_codes():
    table = np.arange(256, dtype=np.float32)
    parts = {"codes": np.array([1, 2, 3, 4], np.uint8), "scale": np.array([1.0, 0.5])}
    state = interchange.from_torchao(*low_bits(parts | {"qmap": table}, 4))
    assert state.mu[0].tolist() == [1.0, 2.0, 1.5, 2.0]
    four = {"codes": np.array([0x12, 0x3F], np.uint8), "scale": np.array([2.0])}
    four |= {"qmap": table[:16], "shape": (4,)}
    state = interchange.from_torchao(*low_bits(four, 4))
    assert state.mu[0].tolist() == [2.0, 4.0, 6.0, 30.0]
    eight = {"codes": np.array([1, 2], jnp.float8_e4m3fn), "scale": np.array([4.0])}
    state = interchange.from_torchao(*low_bits(eight, 2))
    assert state.mu[0].tolist() == [4.0, 8.0]


BAD_CODES = {
    "no scale": ({"scale": None}, "'codes' and 'scale'"),
    "no table": ({"qmap": None}, "no table, 'qmap'"),
    "uneven": ({"scale": np.ones(3)}, "do not divide into 3 blocks"),
    "beyond": ({"qmap": np.ones(2)}, "its table ends at 1"),
    "floats": ({"codes": np.ones(4)}, "must be uint8"),
    "nan": ({"scale": np.array([np.nan])}, "NaN or infinite"),
    "shape": ({"qmap": np.ones(16), "shape": (7,)}, "for the shape"),
}


@pytest.mark.parametrize(("change", "text"), BAD_CODES.values(), ids=BAD_CODES)
def test_torchao_codes_that_do_not_fit(change, text):
    parts = {
        "codes": np.array([1, 2, 3, 4], np.uint8),
        "scale": np.array([1.0]),
        "qmap": np.arange(256, dtype=np.float32),
    }
    saved, params = low_bits(parts | change, 4)
    refused((ValueError, TypeError), text, interchange.from_torchao, saved, params)


def eight_bits(size: int, blocks: int, **change: Any) -> Any:
    entries = {"step": 1}
    for number in "12":
        entries |= {
            f"state{number}": np.full(size, 2, np.uint8),
            f"qmap{number}": np.arange(256, dtype=np.float32),
            f"absmax{number}": np.arange(1, blocks + 1, dtype=np.float32),
        }
    entries |= change
    return {"state": {0: entries}, "param_groups": [{"params": [0]}]}


@pytest.mark.parametrize(("size", "blocks", "block"), [(600, 3, 256), (5000, 3, 2048)])
def test_bitsandbytes_blocks(size, blocks, block):
    saved = eight_bits(size, blocks)
    hidden = {k: v for k, v in saved["state"][0].items() if k != "step"}
    nested = {"step": 1, "__bnb_optimizer_quant_state__": hidden}
    for given in (saved, {**saved, "state": {0: nested}}):
        state = interchange.from_bitsandbytes(given, [jnp.zeros(size)])
        expected = 2.0 * (1 + np.arange(size) // block)
        np.testing.assert_array_equal(state.mu[0], expected)


def test_bitsandbytes_that_do_not_fit():
    call, params = interchange.from_bitsandbytes, [jnp.zeros(600)]
    refused(ValueError, "4 scales and 3 blocks", call, eight_bits(600, 4), params)
    lacking = eight_bits(600, 3, absmax2=None)
    refused(ValueError, "no 'absmax2'", call, lacking, params)
    whole = eight_bits(600, 3, max1=np.ones(1))
    refused(ValueError, "block_wise=False", call, whole, params)
