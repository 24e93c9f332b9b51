"""Models in files: those of Keras, and tied weights of PyTorch."""

import io
import time
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw import interchange
from optadamw.dialects.files import files, keras_layers
from optadamw.dialects.files.models import model_in
from optadamw.dialects.files.opening import read_params
from tests.interchange.files import convert, needs_torch, torch
from tests.interchange.keras_files import keras_file


def test_a_keras_file_needs_no_more(tmp_path, capsys):
    one, row = np.ones((3, 3), np.float32), np.ones(3, np.float32)
    layers = [
        ("input", "InputLayer", [], True),
        ("dense_b", "Dense", [one, row], True),
        ("norm", "BatchNormalization", [row] * 4, True),
        ("frozen", "Dense", [one, row], False),
        ("dense_a", "Dense", [one, row], True),
    ]
    trained = [one, row, row, row, one, row]
    variables = [np.int32(3), np.float32(0.25)]
    for i, array in enumerate(trained):
        variables += [array * (i + 1), array * (i + 1)]
    path = keras_file(tmp_path / "model.keras", layers, variables)
    out = ("--out", tmp_path / "out.npz")
    assert convert("keras", path, "--to", "torch", *out) == 0, capsys.readouterr().err
    saved = files.read(tmp_path / "out.npz")
    assert [float(saved["state"][i]["exp_avg"].flat[0]) for i in range(6)] == [
        *(1, 2, 3, 4, 5, 6)
    ]
    assert saved["param_groups"][0]["lr"] == 0.25
    assert list(read_params(path)) == [
        *("dense_b/kernel", "dense_b/bias", "norm/gamma", "norm/beta"),
        *("dense_a/kernel", "dense_a/bias"),
    ]


OPTIMIZERS = {
    "Lamb": "Keras's Lamb",
    "Adamax": "Keras's Adamax",
    "ScheduleFreeAdamW": "Keras's ScheduleFreeAdamW",
    "My>Own": "My>Own. Convert the state of AdamW or Adam. If My>Own is an AdamW",
    "AdamW": None,
    "Adam": None,
    "Custom>Adam": None,
    "optadamw>Optimizer": "this library: load the model in Keras",
}


@pytest.mark.parametrize("is_scaled", [False, True])
@pytest.mark.parametrize(("name", "error"), OPTIMIZERS.items(), ids=OPTIMIZERS)
def test_the_optimizer_in_a_keras_file_is_asked_for_its_name(
    name, error, is_scaled, tmp_path, capsys
):
    """Its mixed precision wraps each optimizer in a LossScaleOptimizer."""
    row = np.ones(3, np.float32)
    kept = [np.int32(3), np.float32(0.25), row, row]
    own = {"class_name": name.rpartition(">")[2], "config": {}, "registered_name": name}
    if is_scaled:
        own = {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": own}}
        kept = [np.int32(0), np.float32(0), np.int32(2), np.float32(8), *kept]
    path = keras_file(
        tmp_path / "model.keras",
        [("dense", "Dense", [row], True)],
        kept,
        compiled={"optimizer": own},
    )
    status = convert("keras", path, "--to", "optadamw", "--out", tmp_path / "out.npz")
    found = capsys.readouterr().err
    assert status == (0 if error is None else 1), found
    assert error is None or f"holds the state of {error}" in found


def test_the_variables_of_adamax_are_refused():
    kept = {"iteration": 3, "learning_rate": 0.1, "w_momentum": 1.0, "w_norm": 1.0}
    saved = {
        f"opt/{k}": np.full(() if i < 2 else 2, v)
        for i, (k, v) in enumerate(kept.items())
    }
    saved["opt/iteration"] = np.int64(3)
    with pytest.raises(ValueError, match="has 'opt/w_norm', as Keras's Adamax"):
        interchange.from_keras(saved, {"w": np.ones(2)})


def test_a_parameter_of_tensorflow_may_be_called_a_norm():
    saved = {"adam/iteration": np.int64(3), "adam/learning_rate": np.float32(0.1)}
    saved |= {"adam/m/x_norm": np.ones(2), "adam/v/x_norm": np.full(2, 2.0)}
    found = interchange.from_tensorflow(saved, {"x_norm": np.ones(2)})
    np.testing.assert_array_equal(found.nu["x_norm"], [2.0, 2.0])


ROW, COUNT = np.ones(3, np.float32), np.int32(4)
LAYERS = {
    "normalization": ("Normalization", [ROW, ROW, COUNT], {}, ()),
    "without count": ("Normalization", [ROW, ROW], {}, ()),
    "rms": ("RMSNormalization", [ROW], {}, ("scale",)),
    "group": ("GroupNormalization", [ROW] * 2, {}, ("gamma", "beta")),
    "no center": ("GroupNormalization", [ROW], {"center": False}, ("gamma",)),
    "no scale": ("GroupNormalization", [ROW], {"scale": False}, ("beta",)),
    "depthwise 1": ("DepthwiseConv1D", [ROW] * 2, {}, ("kernel", "bias")),
    "depthwise 2": ("DepthwiseConv2D", [ROW], {"use_bias": False}, ("kernel",)),
    "separable 1": (
        *("SeparableConv1D", [ROW] * 3, {}),
        ("depthwise_kernel", "pointwise_kernel", "bias"),
    ),
    "rms by an option": (
        *("LayerNormalization", [ROW], {"rms_scaling": True, "scale": False}),
        ("gamma",),
    ),
    "no axes of a bias": ("EinsumDense", [ROW], {"bias_axes": None}, ("kernel",)),
    "separable 2": (
        *("SeparableConv2D", [ROW] * 2, {"use_bias": False}),
        ("depthwise_kernel", "pointwise_kernel"),
    ),
}


@pytest.mark.parametrize(
    ("kind", "arrays", "options", "names"), LAYERS.values(), ids=LAYERS
)
def test_the_trained_variables_of_a_layer(kind, arrays, options, names, tmp_path):
    numbered = [array * (i + 1) for i, array in enumerate(arrays)]
    layers = [
        ("own", kind, numbered, {"trainable": True, "use_bias": True} | options),
        ("last", "Dense", [ROW], True),
    ]
    found = model_in(keras_file(tmp_path / "model.keras", layers))
    assert found.order == [*(f"own/{name}" for name in names), "last/kernel"]
    assert [found.params[f"own/{n}"][0] for n in names] == [*range(1, len(names) + 1)]


def test_groups_of_old_keras_are_those_of_classes(tmp_path, capsys):
    """Keras 3.0 to 3.5 give them no other names, and layers may be called alike."""
    square = np.ones((3, 3), np.float32)
    kinds = {
        "dense_1": ("Dense", "dense"),
        "p_re_lu": ("Conv2D", "conv2d"),
        "dense": ("Dense", "dense_1"),
        "own": ("PReLU", "p_re_lu"),
    }
    layers, variables = [], [np.int32(3), np.float32(0.25)]
    for i, (name, (kind, _)) in enumerate(kinds.items()):
        layers.append((name, kind, [square * (i + 1)], True))
        variables += [square * (i + 1)] * 2
    groups = [group for _, group in kinds.values()]
    path = keras_file(tmp_path / "old.keras", layers, variables, groups=groups)
    out = tmp_path / "out.npz"
    assert convert("keras", path, "--to", "optadamw", "--out", out) == 0, (
        capsys.readouterr().err
    )
    found = np.load(out)
    for i, name in enumerate(
        ["dense_1/kernel", "p_re_lu/kernel", "dense/kernel", "own/alpha"]
    ):
        assert found[f"params/{name}"][0, 0] == found[f"mu/{name}"][0, 0] == i + 1


def test_a_group_of_no_layer_of_the_model_is_not_guessed(tmp_path):
    """That of a Dense is "dense"; another may have the name of one."""
    layers = [("extra", "Dense", [ROW], True)]
    path = keras_file(tmp_path / "old.keras", layers, groups=["dense"])
    assert list(read_params(path)) == ["extra/kernel"]
    path = keras_file(tmp_path / "other.keras", layers, groups=["extra"])
    assert model_in(path) is None


def test_variables_of_keras_in_bfloat16(tmp_path, capsys):
    row = np.ones(3, jnp.bfloat16)
    layers = [("dense", "Dense", [row], True)]
    variables = [np.int32(3), np.float32(0.25), row * 2, row * 3]
    path = keras_file(tmp_path / "x.keras", layers, variables)
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert("keras", path, *out) == 0, capsys.readouterr().err
    assert read_params(path)["dense/kernel"].dtype == jnp.bfloat16
    assert np.load(tmp_path / "out.npz")["mu/dense/kernel"].tolist() == [2, 2, 2]
    with zipfile.ZipFile(path) as archive:
        data = io.BytesIO(archive.read("model.weights.h5"))
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(data, "r+") as file:
        del file["optimizer/vars/2"].attrs["dtype"]
    (tmp_path / "x.h5").write_bytes(data.getvalue())
    assert files.read(tmp_path / "x.h5")["3"].dtype == jnp.bfloat16
    assert files.read(tmp_path / "x.h5")["2"].dtype == "V2"


@pytest.mark.parametrize(
    ("kind", "count", "why"),
    [
        ("MyLayer", 2, "variables of the layer 'own' ('MyLayer') in the file are in"),
        ("\x1b[1m", 2, r"'own' ('\x1b[1m')"),
        ("Dense", 3, "'own' ('Dense') in the file has 3 variables, and 2 are known"),
        ("RMSNormalization", 2, "has 2 variables, and 1 are known"),
        ("Normalization", 4, "has 4 variables, and 3 are known"),
    ],
)
def test_a_layer_in_an_unknown_order_is_named(kind, count, why, tmp_path, capsys):
    layers = [("own", kind, [ROW] * count, True)]
    path = keras_file(tmp_path / "model.keras", layers, [np.int32(3), np.float32(0.1)])
    out = ("--out", tmp_path / "out.npz")
    assert convert("keras", path, "--to", "torch", *out) == 1
    error = capsys.readouterr().err
    assert why in error and "lists the layers whose order is known" in error


@pytest.mark.parametrize(
    ("own", "is_known"),
    [
        ({"module": "keras.layers", "registered_name": None}, True),
        ({"module": "keras.src.layers", "registered_name": "RMSNormalization"}, True),
        ({"module": "tf_keras.layers", "registered_name": None}, True),
        ({"module": None, "registered_name": "RMSNormalization"}, False),
        ({"module": "keras_hub.layers", "registered_name": "RMSNormalization"}, False),
        ({"module": "keras.layers", "registered_name": "my>RMSNormalization"}, False),
        ({"registered_name": "Addons>RMSNormalization"}, False),
    ],
    ids=str,
)
def test_a_class_of_a_user_with_the_name_of_a_layer_is_unknown(own, is_known, tmp_path):
    layers = [("own", "RMSNormalization", [ROW], True)]
    path = keras_file(tmp_path / "model.keras", layers, classes={"own": own})
    assert (model_in(path) is not None) == is_known


@pytest.mark.parametrize("name", ["run.h5", "run.hdf5", "run.keras"])
def test_a_file_that_is_none_of_keras_is_called_so(name, tmp_path, capsys):
    pytest.importorskip("h5py", reason="h5py is not installed")
    np.savez(tmp_path / "other.npz", a=ROW)
    (tmp_path / "other.npz").rename(tmp_path / name)
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert("keras", tmp_path / name, *out) == 1
    error = capsys.readouterr().err
    kind = ".keras" if name == "run.keras" else "HDF5"
    assert f"run{Path(name).suffix}' is no whole {kind} file" in error


def test_layers_whose_variables_are_not_known_are_not_guessed(tmp_path, capsys):
    row = np.ones(3, np.float32)
    path = keras_file(
        tmp_path / "model.keras",
        [("own", "MyLayer", [row, row], True)],
        [np.int32(3), np.float32(0.25), *[row] * 4],
    )
    out = ("--out", tmp_path / "out.npz")
    assert convert("keras", path, "--to", "torch", *out) == 1
    assert "`--params` must be given" in capsys.readouterr().err


@pytest.mark.parametrize("array", [np.ones(3, np.float32), np.ones(2, np.uint32)])
def test_layers_in_layers_are_not_left_out(array, tmp_path, capsys):
    """Attention has dense layers inside; dropout only the state of its seed."""
    row = np.ones(3, np.float32)
    path = keras_file(
        tmp_path / "model.keras",
        [("dense", "Dense", [row], True), ("last", "Other", [], True)],
        [np.int32(3), np.float32(0.25), row, row],
        {"query/vars/0": array},
    )
    status = convert("keras", path, "--to", "optadamw", "--out", tmp_path / "out.npz")
    error = capsys.readouterr().err
    if array.dtype == np.uint32:
        assert status == 0, error
    else:
        assert status == 1
        assert "given, because the variables of the layer 'last' ('Other')" in error
        assert "trainable_variables: give it by --names." in error


@pytest.mark.parametrize("shape", ["deep", "in itself", "an array", "an array of it"])
def test_layers_without_end_are_walked_once(shape, tmp_path):
    """A group of HDF5 may lie in itself."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        if shape == "an array":
            file["layers/a"] = np.ones(2)
        elif shape == "an array of it":
            file["layers/a/vars"] = np.ones(2)
        else:
            node = file.create_group("layers/a")
            for _ in range(3_000 if shape == "deep" else 1):
                node = node.create_group("b")
            node["c"] = file["layers/a"]
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", data.getvalue())
    start = time.process_time()
    assert model_in(tmp_path / "x.keras") is None
    assert time.process_time() - start < 5.0


def test_a_frozen_model_in_a_model_is_left_out(tmp_path, capsys):
    """Transfer learning: the optimizer has the variables of the head alone."""
    row = np.ones(3, np.float32)
    inner = [("in", "Dense", [], False)]
    path = keras_file(
        tmp_path / "model.keras",
        [("head", "Dense", [row], True), ("backbone", "Functional", [], inner)],
        [np.int32(3), np.float32(0.25), row, 2 * row],
        {"layers/dense/vars/0": np.ones((3, 3), np.float32)},
    )
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert("keras", path, *out) == 0, capsys.readouterr().err
    assert list(read_params(path)) == ["head/kernel"]


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_layer_may_be_trained_in_a_frozen_model(is_trained, tmp_path, capsys):
    """`model.trainable = False`, and then `model.layers[-1].trainable = True`."""
    inside = {"name": "in", "trainable": is_trained}
    frozen = {"layers": [{"class_name": "Dense", "config": inside}]}
    path = keras_file(
        tmp_path / "model.keras",
        [
            ("head", "Dense", [ROW], True),
            ("backbone", "Functional", [], frozen | {"trainable": False}),
        ],
        [np.int32(3), np.float32(0.25), ROW, ROW],
        {"layers/dense/vars/0": np.ones((3, 3), np.float32)},
    )
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert("keras", path, *out) == (1 if is_trained else 0)
    if is_trained:
        told = "the variables of the layer 'backbone' ('Functional') in the file are in"
        assert told in capsys.readouterr().err


UNREAD = {
    "unknown.keras": "the variables of the layer 'own' ('MyLayer') in the file are in",
    "own.keras": "the model in the file is of a class that does not list its layers",
    "other.keras": "the file is no whole .keras file (",
    "form.keras": "the file is no whole .keras file (a part of it has",
    "run.h5": "the model in such a file is not read",
    "optimizer.npz": "the file holds no model",
}


@pytest.mark.parametrize(("name", "why"), UNREAD.items(), ids=UNREAD)
def test_variables_of_an_optimizer_are_no_parameters(name, why, tmp_path):
    path = tmp_path / name
    if name in ("unknown.keras", "own.keras"):
        layers = [("own", "MyLayer", [ROW, ROW], True)]
        keras_file(path, layers if name == "unknown.keras" else [], [ROW] * 4)
    elif name == "form.keras":
        keras_file(path, [("own", "Dense", [ROW], {"name": ["own"]})])
    elif name == "other.keras":
        pytest.importorskip("h5py", reason="h5py is not installed")
        path.write_bytes(b"no archive")
    elif name == "run.h5":
        pytest.importorskip("h5py", reason="h5py is not installed")
        files.write(path, {"0": np.int32(3), "1": np.float32(0.25), "2": ROW})
    else:
        state = {0: {"step": 3.0, "exp_avg": ROW, "exp_avg_sq": ROW}}
        files.write(path, {"state": state, "param_groups": [{"params": [0]}]})
    with pytest.raises(ValueError, match="is no file of the parameters of") as told:
        read_params(path)
    assert f"because {why}" in str(told.value)


def test_a_model_of_a_class_without_layers_takes_params(tmp_path, capsys):
    path = keras_file(tmp_path / "x.keras", [], [np.int32(3), np.float32(1), ROW, ROW])
    assert convert("keras", path, "--to", "optadamw", "--out", tmp_path / "o.npz") == 1
    told = "given, because the model in the file is of a class that does not list its"
    assert told in capsys.readouterr().err


@needs_torch
def test_two_models_in_a_file_are_named(tmp_path, capsys):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    kept = {"net": model.state_dict(), "ema": model.state_dict()}
    path = tmp_path / "x.pt"
    torch.save(kept | {"optimizer": optimizer.state_dict()}, path)
    words = ("torch", path, "--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    told = "because the file holds 2 models: 'net', 'ema'"
    assert told in capsys.readouterr().err
    assert convert(*words, "--params", path) == 1
    assert told in capsys.readouterr().err
    torch.save(kept["net"], tmp_path / "net.pt")
    assert convert(*words, "--params", tmp_path / "net.pt") == 0


@needs_torch
def test_arrays_without_elements_are_not_tied(tmp_path):
    saved = {"a": torch.zeros(0), "b": torch.zeros(0), "c": torch.ones(2)}
    torch.save(saved, tmp_path / "x.pt")
    assert list(read_params(tmp_path / "x.pt")) == ["a", "b", "c"]


@needs_torch
def test_tied_weights_are_one_parameter(tmp_path, capsys):
    """The head of GPT-2 has the weight of its embedding."""
    embedding, head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    model = torch.nn.ModuleDict({"embed": embedding, "head": head})
    optimizer = torch.optim.AdamW(model.parameters())
    head(embedding(torch.arange(5))).square().sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "x.pt")
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert("torch", tmp_path / "x.pt", *out) == 0, capsys.readouterr().err
    assert list(read_params(tmp_path / "x.pt")) == ["embed.weight"]


def test_a_frozen_model_with_an_operation_is_frozen():
    """Operations of keras.ops have no variables, and say nothing of training."""

    def layer(kind, module="keras.layers", **config):
        return {"class_name": kind, "module": module, "config": config}

    dense = layer("Dense", name="dense", trainable=False)
    add = layer("Add", "keras.src.ops.numpy", name="add")
    relu = layer("ReLU", "keras.src.activations.activations", name="relu")
    own = layer("Own", "package", name="own", units=2)
    for more, trainable, is_frozen in [
        (add, False, True),
        (relu, False, True),
        (add, True, True),
        (own, False, False),
        (layer("Dense", name="more", trainable=True), False, False),
        (layer("Dense", name="more", trainable=False), True, True),
    ]:
        layers = [layer("InputLayer", name="input"), dense, more]
        base = layer("Functional", name="base", trainable=trainable, layers=layers)
        head = layer("Dense", name="head", trainable=True)
        config = {"config": {"layers": [base, head]}}
        groups = {"head": [np.ones((2, 2)), np.ones(2)]}
        if is_frozen:
            found = keras_layers.trained_variables(config, groups, {"base"})
            assert list(found) == ["head/kernel", "head/bias"]
        else:
            with pytest.raises(keras_layers.UnknownLayer, match="layer 'base'"):
                keras_layers.trained_variables(config, groups, {"base"})


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize(
    ("kind", "option"), [("TimeDistributed", "layer"), ("RNN", "cell")]
)
def test_a_wrapper_is_trained_if_the_layer_in_it_is(kind, option, is_trained):
    """Keras passes `trainable` on when it is set, and not when a wrapper is made."""

    def layer(kind, **config):
        return {"class_name": kind, "module": "keras.layers", "config": config}

    dense = layer("Dense", name="dense", trainable=is_trained)
    wrapper = layer(kind, name="each", trainable=False, **{option: dense})
    head = layer("Dense", name="head", trainable=True)
    config = {"config": {"layers": [wrapper, head]}}
    groups = {"head": [np.ones((2, 2)), np.ones(2)]}
    if is_trained:
        with pytest.raises(keras_layers.UnknownLayer, match="layer 'each'"):
            keras_layers.trained_variables(config, groups, {"each"})
    else:
        found = keras_layers.trained_variables(config, groups, {"each"})
        assert list(found) == ["head/kernel", "head/bias"]


@pytest.mark.parametrize(
    "options",
    [
        {"layer": {"size": 3}, "cell": None},
        {"layers": 2, "cells": [1, 2]},
        {"layers": None, "cells": {"a": 1}},
    ],
    ids=str,
)
def test_an_option_of_a_users_layer_that_is_called_layer_is_none(options):
    config = {"name": "own", "trainable": False} | options
    own = {"class_name": "Own", "module": "package", "config": config}
    dense = {"class_name": "Dense", "config": {"name": "head", "trainable": True}}
    layers = {"config": {"layers": [own, dense]}}
    groups = {"own": [np.ones(2)], "head": [np.ones((2, 2)), np.ones(2)]}
    found = keras_layers.trained_variables(layers, groups, set())
    assert list(found) == ["head/kernel", "head/bias"]
