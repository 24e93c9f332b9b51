"""A .keras file, written without Keras."""

import io
import json
import zipfile

import numpy as np
import pytest


def _trained(trained):
    """The config of a layer that is trained or not, or of a model with such layers."""
    if isinstance(trained, bool):
        return {"trainable": trained}
    if isinstance(trained, dict):
        return trained
    inside = [
        {"class_name": kind, "config": {"name": name, "trainable": one}}
        for name, kind, _, one in trained
    ]
    return {"layers": [{"class_name": "InputLayer", "config": {}}, *inside]}


def _switched(kind, variables):
    return {} if kind == "EinsumDense" else {"use_bias": len(variables) > 1}


def _put(group, name, array):
    group[name] = array
    if str(np.asarray(array).dtype) == "bfloat16":
        group[name].attrs["dtype"] = "bfloat16"


def keras_file(
    path, layers, optimizer=(), inside=None, compiled=None, classes=None, groups=None
):
    """A .keras file with these layers: (name, class, arrays, trainable).

    In the place of `trainable` may stand options of the layer.

    `classes` has the module and the registered name of the classes of layers.

    `inside` has arrays of layers in the last layer, by their paths.

    `groups` has the names of the groups of the layers, which then have no other names,
    as in Keras 3.0 to 3.5.

    Arrays of bfloat16 are written as Keras does, which says so in an attribute.
    """
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        # HDF5 lists groups by name, in another order than that of the model.
        for i, (name, _, variables, _) in enumerate(reversed(layers)):
            told = None if groups is None else list(reversed(groups))[i]
            group = file.create_group(f"layers/{told or f'part_{i}'}/vars")
            if told is None:
                group.attrs["name"] = name
            for k, array in enumerate(variables):
                _put(group, str(k), array)
        for name, array in (inside or {}).items():
            file[f"layers/part_0/{name}"] = array
        for k, array in enumerate(optimizer):
            _put(file, f"optimizer/vars/{k}", array)
    config = {
        "config": {
            "layers": [
                {
                    "class_name": kind,
                    **(classes or {}).get(name, {}),
                    "config": {
                        "name": name,
                        **_switched(kind, variables),
                        **_trained(trained),
                    },
                }
                for name, kind, variables, trained in layers
            ]
        }
    }
    config["compile_config"] = compiled
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", data.getvalue())
    return path
