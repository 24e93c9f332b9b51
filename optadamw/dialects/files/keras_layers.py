"""The layers of Keras, with the order of the variables that an optimizer has of them.

A .keras file numbers the variables of a layer as the layer made them: those that are
trained first, statistics after them. It does not name them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

VARIABLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D"),
            *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
            *("DepthwiseConv1D", "DepthwiseConv2D"),
        ),
        ("kernel", "bias"),
    ),
    **dict.fromkeys(
        ("SeparableConv1D", "SeparableConv2D"),
        ("depthwise_kernel", "pointwise_kernel", "bias"),
    ),
    **dict.fromkeys(
        ("LayerNormalization", "BatchNormalization", "GroupNormalization"),
        ("gamma", "beta"),
    ),
    "RMSNormalization": ("scale",),
    "Embedding": ("embeddings",),
    "PReLU": ("alpha",),
    "Normalization": (),
}
"""The trained variables of the layers of Keras, in their order; others are refused."""

SWITCHES = {"bias": "use_bias", "gamma": "scale", "beta": "center"}
"""The options of layers without which a variable is not made."""

STATISTICS = {"BatchNormalization": (2,), "Normalization": (2, 3)}
"""The numbers of variables that may follow and are not trained: a mean and a variance,
in Normalization also a count."""

INNER = ("layer", "backward_layer", "cell")
"""The options of TimeDistributed, Bidirectional and RNN that are layers."""

LISTS = ("layers", "cells")
"""The options of models and of StackedRNNCells that are lists of layers. A layer of a
user may have other values under these names."""


class UnknownLayer(ValueError):
    """A layer whose variables are in an order that is not known; its text says why."""


def by_group(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the layers of a model, by those of their groups in a file.

    Keras calls a group by the class of its layer, from the second of a class on with a
    number: dense, dense_1.

    Raises:
      AttributeError, KeyError, TypeError: another JSON than Keras's.
    """
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for layer in _layers(config):
        group = _in_snake_case(layer["class_name"])
        number = counts[group]
        counts[group] += 1
        found[f"{group}_{number}" if number else group] = layer["config"].get(
            "name", ""
        )
    return found


def _layers(config: Mapping[str, Any]) -> Sequence[Any]:
    return config.get("config", {}).get("layers", [])


def _in_snake_case(name: str) -> str:
    """Return the name of a class as Keras writes it in the names of groups."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def trained_variables(
    config: Mapping[str, Any], groups: dict[str, list[np.ndarray]], nested: set[str]
) -> dict[str, np.ndarray]:
    """Return the trained variables of a model, in the order of its optimizer.

    Args:
      config: the configuration of the model.
      groups: the variables of each layer in the file.
      nested: the layers that have layers with variables inside.

    Raises:
      UnknownLayer: the order of the variables of a layer is not known.
      AttributeError, KeyError, TypeError: another JSON than Keras's.
    """
    groups, nested = dict(groups), set(nested)
    found: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}
    for layer in _layers(config):
        name, kind = layer["config"].get("name", ""), layer["class_name"]
        kinds[name] = kind
        arrays = groups.pop(name, [])
        if _is_frozen(layer):
            nested.discard(name)
            continue
        if not arrays:
            continue
        if kind not in VARIABLES or _is_own(layer):
            raise _unknown(name, kind)
        names = _variables(layer)
        known = [len(names) + more for more in STATISTICS.get(kind, (0,))]
        if len(arrays) not in known:  # such as a layer with LoRA
            raise UnknownLayer(
                f"the layer {_named(name, kind)} in the file has {len(arrays)} "
                f"variables, and {known[-1]} are known"
            )
        for variable, array in zip(names, arrays[: len(names)], strict=True):
            found[f"{name}/{variable}"] = array
    left = [*sorted(nested), *(name for name, arrays in groups.items() if arrays)]
    if left:
        raise _unknown(left[0], kinds.get(left[0]))
    return found


def _unknown(name: str, kind: str | None) -> UnknownLayer:
    return UnknownLayer(
        f"the variables of the layer {_named(name, kind)} in the file are in an "
        "unknown order"
    )


def _named(name: str, kind: str | None) -> str:
    """Return the name and class of a layer, without codes of a terminal."""
    return f"{name!r:.80}" + ("" if kind is None else f" ({str(kind)!r:.80})")


def _variables(layer: Mapping[str, Any]) -> list[str]:
    """Return the names of the trained variables that a layer has with its options."""
    config = layer["config"]
    off = {name for name, key in SWITCHES.items() if config.get(key, True) is False}
    if "bias_axes" in config and config["bias_axes"] is None:
        off.add("bias")
    if config.get("rms_scaling"):  # by its root mean square, without a center
        off = (off | {"beta"}) - {"gamma"}
    return [name for name in VARIABLES[layer["class_name"]] if name not in off]


def _is_own(layer: Mapping[str, Any]) -> bool:
    """Whether a class is a user's, or another package's, under the name of a layer.

    Keras writes the module of its own layers, and the package of classes that
    `register_keras_serializable` knows.
    """
    module = layer.get("module", "keras.layers")
    is_kerass = str(module).partition(".")[0] in ("keras", "tf_keras")
    return not is_kerass or ">" in str(layer.get("registered_name"))


def _is_frozen(layer: Mapping[str, Any]) -> bool:
    """Whether a layer is not trained; a model is not if none of its layers is.

    A model that was frozen may have a layer that was made trained again.
    """
    config = layer["config"]
    is_frozen = not config.get("trainable", True)
    listed = [config.get(name) for name in LISTS]
    inner = [
        *chain.from_iterable(one for one in listed if isinstance(one, list)),
        *(config.get(name) for name in INNER),
    ]
    layers = [
        one for one in inner if _is_layer(one) and one["class_name"] != "InputLayer"
    ]
    # An operation has no variables, and says nothing of training.
    told = [one for one in layers if not _is_operation(one)]
    return all(map(_is_frozen, told)) if told else is_frozen


def _is_layer(value: Any) -> bool:
    return isinstance(value, dict) and {"class_name", "config"} <= value.keys()


def _is_operation(layer: Mapping[str, Any]) -> bool:
    """Whether what Keras lists among layers is a function, as of keras.ops.

    Keras writes the public module of its layers, and "trainable".
    """
    is_inside = str(layer.get("module")).startswith(("keras.ops.", "keras.src."))
    return is_inside and "trainable" not in layer["config"]
