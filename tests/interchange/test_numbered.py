"""Weights that are called by numbers in a file, and those that are called by names."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import checkpoint, interchange
from tests.interchange.files import convert, written
from tests.interchange.saving import refused

COUNT = 6
PARAMS = {f"w{i}": jnp.ones(2) for i in range(COUNT)}
MOMENTS = [np.full(2, i + 1.0, np.float32) for i in range(2 * COUNT)]
PAIRS = [x for pair in zip(MOMENTS[:COUNT], MOMENTS[COUNT:], strict=True) for x in pair]
RATE = np.float32(1e-3)

WEIGHTS: dict[str, list[Any]] = {
    "keras": [np.int32(7), RATE, *PAIRS],
    "tensorflow": [np.int64(7), RATE, *PAIRS],
    "tensorflow-addons": [np.int64(7), *MOMENTS],
}


def _is_right(mu: Any, nu: Any) -> bool:
    firsts = [[float(tree[name][0]) for name in PARAMS] for tree in (mu, nu)]
    return firsts == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]


@pytest.mark.parametrize("prefix", ["", "arr_"])
@pytest.mark.parametrize("peer", WEIGHTS)
def test_weights_have_the_order_of_their_numbers(peer, prefix):
    """Files sort names as text, so that 10 comes before 2."""
    saved = {f"{prefix}{i}": x for i, x in enumerate(WEIGHTS[peer])}
    call = getattr(interchange, f"from_{peer.replace('-', '_')}")
    state = call(dict(sorted(saved.items())), PARAMS)
    assert int(state.step) == 7 and _is_right(state.mu, state.nu)
    del saved[f"{prefix}3"]
    refused(ValueError, "the keys '0' to", call, saved, PARAMS)


def _converted(folder: Any, *words: Any) -> int:
    written(folder / "p.safetensors", {k: np.asarray(x) for k, x in PARAMS.items()})
    (folder / "names.json").write_text(json.dumps(list(PARAMS)))
    more = ("--params", folder / "p.safetensors", "--names", folder / "names.json")
    return convert(*words, *more, "--out", folder / "out.npz", "--force")


@pytest.mark.parametrize("peer", WEIGHTS)
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_file_of_numbered_weights(peer, suffix, tmp_path):
    path = tmp_path / f"in.{suffix}"
    if suffix == "npz":
        np.savez(path, *WEIGHTS[peer])
    else:
        saved = {str(i): np.asarray(x) for i, x in enumerate(WEIGHTS[peer])}
        written(path, dict(sorted(saved.items())))
    assert _converted(tmp_path, peer, path, "--to", "optadamw") == 0
    arrays = checkpoint.load(tmp_path / "out.npz").arrays
    moments = ({n: arrays[f"{key}/{n}"] for n in PARAMS} for key in ("mu", "nu"))
    assert _is_right(*moments)


def _named() -> dict[str, Any]:
    slots = [f"AdamW/{name}/{slot}:0" for slot in "mv" for name in PARAMS]
    return dict(
        zip(["AdamW/iter:0", *slots], WEIGHTS["tensorflow-addons"], strict=True)
    )


def test_weights_by_name_are_taken_in_their_own_order_only():
    call = interchange.from_tensorflow_addons
    state = call(_named(), PARAMS)
    assert _is_right(state.mu, state.nu)
    by_name = dict(sorted(_named().items()))
    refused(ValueError, "Files that sort names lose", call, by_name, PARAMS)
    names = list(_named())
    swapped = dict(zip([*names[:-2], names[-1], names[-2]], MOMENTS * 2, strict=False))
    refused(ValueError, "Files that sort names lose", call, swapped, PARAMS)
    odd = {f"x{i}": x for i, x in enumerate(WEIGHTS["tensorflow-addons"])}
    refused(ValueError, "Files that sort names lose", call, odd, PARAMS)


def test_an_accumulator_can_be_dropped_from_weights_of_keras(tmp_path, capsys):
    """--accumulate tells the variables apart, and --drop loses the open window."""
    weights = [np.int32(7 * 4 + 2), RATE, *MOMENTS[:COUNT], *PAIRS]
    np.savez(tmp_path / "in.npz", *weights)
    words = ("keras", tmp_path / "in.npz", "--to", "optadamw", "--accumulate", 4)
    assert _converted(tmp_path, *words, "--drop", "accumulator") == 0
    arrays = checkpoint.load(tmp_path / "out.npz").arrays
    assert int(arrays["step"]) == 7
    assert not any(name.startswith("accumulator") for name in arrays)
    np.savez(tmp_path / "in.npz", *WEIGHTS["tensorflow"])
    words = ("tensorflow", tmp_path / "in.npz", "--to", "optadamw")
    words += ("--accumulate", 4, "--drop", "accumulator")
    assert _converted(tmp_path, *words) == 1
    assert "`--accumulate` would change nothing" in capsys.readouterr().err
