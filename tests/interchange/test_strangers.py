"""States of other optimizers, which look like those of AdamW and are refused."""

import zipfile

import numpy as np
import pytest

from optadamw import interchange
from optadamw.dialects.files import files
from tests.interchange.files import convert
from tests.interchange.keras_files import keras_file
from tests.interchange.saving import saved_by

OPTIONS = {
    "AdamP": {"delta": 0.1, "wd_ratio": 0.1},
    "Adopt": {"clip_exp": 0.333},
    "LAMB or NovoGrad": {"grad_averaging": True, "max_grad_norm": 1.0},
    "LAMB of DeepSpeed": {"max_coeff": 10.0, "min_coeff": 0.01},
    "RAdam": {"buffer": [[None] * 3] * 10},
    "AdEMAMix": {"betas": (0.9, 0.999, 0.9999)},
    "correct_bias=False": {"correct_bias": False},
    "bias_correction=False": {"bias_correction": False},
    "weight_decouple=False": {"weight_decouple": False},
}


@pytest.mark.parametrize(("name", "options"), OPTIONS.items(), ids=OPTIONS)
def test_options_of_a_group_that_only_others_have(name, options):
    saved, params, tx = saved_by("torch")
    saved["param_groups"][0] |= options
    with pytest.raises(ValueError, match=name):
        interchange.from_torch(saved, params, tx=tx)


def test_bitsandbytes_lamb_keeps_a_norm():
    saved, params, tx = saved_by("bitsandbytes")
    saved["state"][0]["unorm_vec"] = np.ones(1)
    with pytest.raises(ValueError, match="'unorm_vec', as the state of LAMB"):
        interchange.from_bitsandbytes(saved, params, tx=tx)


def keras_variables(name="adam_w"):
    """Two parameters and their averages, by the paths of Keras's variables."""
    ones = np.ones(2, np.float32)
    heads = {"iteration": np.int32(3), "learning_rate": np.float32(0.1)}
    ends = ["scale_average", "norm_average"]
    ends += [f"{p}_{m}" for p in ("scale", "norm") for m in ("momentum", "velocity")]
    return {f"{name}/{key}": value for key, value in heads.items()} | {
        f"{name}/{end}": ones * i for i, end in enumerate(ends, 1)
    }


PARAMS = {"scale": np.ones(2, np.float32), "norm": np.ones(2, np.float32)}


def test_variables_of_keras_in_the_order_of_their_names():
    """`jax.tree.map` sorts a mapping, and positions would take averages for moments."""
    saved = keras_variables()
    found = interchange.from_keras(saved, PARAMS)
    assert found.ema["norm"][0] == 2 and found.nu["scale"][0] == 4
    with pytest.raises(ValueError, match="'adam_w/norm_momentum' stands in the place"):
        interchange.from_keras(dict(sorted(saved.items())), PARAMS)


def test_names_in_another_order_than_those_that_are_saved():
    saved = keras_variables()
    with pytest.raises(ValueError, match="lists 'norm' where the saved state has 'sc"):
        interchange.from_keras(saved, PARAMS, names=["norm", "scale"])
    found = interchange.from_keras(saved, PARAMS, names=["scale", "norm"])
    assert found.nu["scale"][0] == 4


@pytest.mark.parametrize("name", ["lamb", "schedule_free_adam_w_1", "adadelta"])
def test_variables_that_another_optimizer_of_keras_named(name):
    with pytest.raises(ValueError, match=f"'{name}/.*as Keras's"):
        interchange.from_keras(keras_variables(name), PARAMS)


# --- Options that a file of Keras names beside its variables ------------------------

ROW = np.ones(3, np.float32)
CONFIG = {
    "beta_1": 0.8,
    "beta_2": 0.95,
    "epsilon": 1e-6,
    "weight_decay": 0.2,
    "amsgrad": True,
    "use_ema": True,
    "gradient_accumulation_steps": 4,
}
LAYERS = [("a", "Dense", [ROW], True), ("b", "Dense", [ROW], True)]


def compiled(path, config, blocks):
    """A .keras file whose optimizer has these options and so many variables."""
    kept = [np.int32(9), np.float32(0.25), *[ROW] * (2 * blocks)]
    own = {"class_name": "AdamW", "config": config, "registered_name": None}
    return keras_file(path, LAYERS, kept, compiled={"optimizer": own})


def test_the_options_of_the_optimizer_are_those_of_the_file(tmp_path, capsys):
    path = compiled(tmp_path / "model.keras", CONFIG, 5)
    words = ("keras", path, "--out", tmp_path / "out.npz", "--force")
    assert convert(*words, "--to", "optadamw") == 0, capsys.readouterr().err
    arrays = np.load(tmp_path / "out.npz")
    names = {name.partition("/")[0] for name in arrays}
    assert {"mu", "nu", "nu_max", "ema", "accumulator"} <= names
    assert (arrays["step"], arrays["micro_step"]) == (2, 1)
    lost = [w for name in ("ema", "accumulator") for w in ("--drop", name)]
    assert convert(*words, "--to", "torch", *lost) == 0, capsys.readouterr().err
    assert "by default" not in capsys.readouterr().out
    group = files.read(tmp_path / "out.npz")["param_groups"][0]
    assert group["betas"] == [0.8, 0.95] and group["amsgrad"]
    assert (group["eps"], group["weight_decay"]) == (1e-6, 0.2)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        (("--amsgrad", "raw"), "`--amsgrad` is given, and the optimizer"),
        (("--use-ema",), "was made with use_ema=False"),
        (("--accumulate", 2), "was made with gradient_accumulation_steps=1"),
    ],
)
def test_an_option_that_the_file_contradicts(flag, text, tmp_path, capsys):
    config = CONFIG | {"amsgrad": False, "use_ema": False}
    config |= {"gradient_accumulation_steps": None, "weight_decay": None}
    path = compiled(tmp_path / "model.keras", config, 2)
    words = ("keras", path, "--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert(*words, *flag) == 1
    assert text in capsys.readouterr().err
    assert convert(*words) == 0


SWITCHED = {
    "scale": ("LayerNormalization", {"scale": False}, [ROW], ["beta"]),
    "center": ("LayerNormalization", {"center": False}, [ROW], ["gamma"]),
    "rms": ("LayerNormalization", {"rms_scaling": True}, [ROW], ["gamma"]),
    "statistics": ("BatchNormalization", {"scale": False}, [ROW] * 3, ["beta"]),
    "axes": ("EinsumDense", {"bias_axes": None}, [ROW], ["kernel"]),
}


@pytest.mark.parametrize(
    ("kind", "options", "arrays", "names"), SWITCHED.values(), ids=SWITCHED
)
def test_variables_that_a_layer_does_not_have(kind, options, arrays, names, tmp_path):
    kept = [np.int32(9), np.float32(0.25), *[ROW] * 4]
    layers = [("a", "Dense", [ROW], True), ("b", kind, arrays, options)]
    path = keras_file(tmp_path / "model.keras", layers, kept)
    out = tmp_path / "out.npz"
    assert convert("keras", path, "--to", "optadamw", "--out", out) == 0
    found = {name for name in np.load(out).files if name.startswith("mu/")}
    assert found == {"mu/a/kernel", *(f"mu/b/{name}" for name in names)}


STRANGE = {
    "null": ("null", "that is no mapping"),
    "list": ("[]", "that is no mapping"),
    "deep": ("[" * 100_000 + "]" * 100_000, "that is no JSON"),
    "cut": ('{"config": {', "that is no JSON"),
    "large": ({"beta_1": 10**400}, "'beta_1' that is no finite number"),
    "long": ('{"a": [' + "{}," * (1 << 22) + "{}]}", "bytes of text that describe"),
    "infinite": ({"epsilon": float("inf")}, "'epsilon' that is no finite number"),
}


@pytest.mark.parametrize(("text", "error"), STRANGE.values(), ids=STRANGE)
def test_a_configuration_that_keras_does_not_write(text, error, tmp_path, capsys):
    path = compiled(tmp_path / "model.keras", {} if isinstance(text, str) else text, 2)
    if isinstance(text, str):
        with zipfile.ZipFile(path) as archive:
            weights = archive.read("model.weights.h5")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", text)
            archive.writestr("model.weights.h5", weights)
    np.savez(tmp_path / "params.npz", **{"a/kernel": ROW, "b/kernel": ROW})
    for params in ((), ("--params", tmp_path / "params.npz")):
        words = ("keras", path, *params, "--to", "mlx", "--out", tmp_path / "out.npz")
        assert convert(*words) == 1
        found = capsys.readouterr().err
        assert error in found or (not params and "the file" in found), found
