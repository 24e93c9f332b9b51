"""The model in a file: its parameters, and the order in which an optimizer has them.

A file of PyTorch keeps the order of `model.state_dict()`, which without its buffers is
the order of `model.parameters()`. A .keras file has its layers in the order of
`model.trainable_variables`. Neither tells the order of the other library, and other
files of arrays keep no order.
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optadamw.base.errors import some_leaves
from optadamw.checkpoint.bounds import Bounds, TooLarge, check_regular
from optadamw.dialects.files import files, hdf5, keras_config, keras_layers, torch
from optadamw.dialects.files.packages import MissingPackage
from optadamw.dialects.files.refusing import brief
from optadamw.dialects.states.arrays import to_numpy
from optadamw.dialects.states.state_dict import is_state_dict

_BUFFER = re.compile(
    r"(^|[./])(running_mean|running_var|num_batches_tracked|_extra_state)$"
)
"""Entries of a PyTorch model that no optimizer trains."""

_BIAS = re.compile(r"(^|[./_])bias$")
"""The bias of a module of PyTorch, which makes it just behind its weight."""

_FORM = "a part of it has another form than Keras writes"


class Model(NamedTuple):
    """The parameters of a model by their names, in the order of its optimizer."""

    params: dict[str, np.ndarray]
    file: Path
    is_of_pytorch: bool
    """Whether the order is that of PyTorch; otherwise it is Keras's."""
    is_marked: bool
    """Whether the model itself wrote its names, and so their order.

    A mapping of arrays in a .pt file may have been sorted, as the leaves of a tree of
    JAX are, unless it has the `_metadata` that PyTorch's `state_dict()` adds."""
    is_as_made: bool
    """Whether biases just behind their weights show the order of PyTorch's modules.

    Names that were sorted, as those of `safetensors.torch.load_file` are dtype by
    dtype, have the bias first, or apart."""

    @property
    def told(self) -> str:
        """The words in which a report names the model."""
        return f"the model in '{self.file}'"

    @property
    def order(self) -> list[str]:
        """The names of the parameters, in the order of the optimizer."""
        return list(self.params)


def model_in(path: str | Path, is_limited: bool = True) -> Model | None:
    """Return the model in a file of PyTorch or Keras; None if it holds none.

    Raises:
      OSError, ValueError: the file cannot be read.
    """
    path = Path(path)
    check_regular(path)
    if path.is_dir():
        return None  # Orbax has the parameters in no order of an optimizer
    is_of_pytorch = path.suffix.lower() in torch.SUFFIXES
    is_marked = is_as_made = True
    if is_of_pytorch:
        saved = model_of(files.read(path, is_limited))
        found, is_marked = trained(saved), hasattr(saved, "_metadata")
        is_as_made = _is_as_made(found)
    elif path.suffix.lower() == keras_config.ARCHIVE:
        try:
            found = _of_keras(path, Bounds(path, is_limited))
        except keras_layers.UnknownLayer:
            return None
    else:
        return None
    return Model(found, path, is_of_pytorch, is_marked, is_as_made) if found else None


def _is_as_made(arrays: Mapping[str, Any]) -> bool:
    """Return whether pairs of a weight and its bias show the order of all arrays.

    Arrays between two pairs may have been sorted all the same, as those of one file
    beside a head that was added: they must have different shapes.
    """
    pairs = [
        pair
        for pair in itertools.pairwise(arrays)
        if _BIAS.search(pair[1]) and pair[0] == _weight_of(pair[1])
    ]
    paired = {name for pair in pairs for name in pair}
    shapes = Counter(np.shape(array) for array in arrays.values())
    between: set[tuple[int, ...]] = set()
    for name, array in arrays.items():
        shape = np.shape(array)
        if name in paired:
            between = set()
            continue
        # A bias alone, or before its weight.
        is_bias = _BIAS.search(name) and shapes[shape] > 1
        if shape in between or is_bias:
            return False
        between.add(shape)
    return bool(pairs)


def _weight_of(bias: str) -> str:
    return bias.removesuffix("bias") + "weight"


def model_of(contents: Any) -> Mapping[str, Any]:
    """Return the state dict of the model in the contents of a file of PyTorch, or {}.

    The contents are the model's state dict, or a mapping with one: under "model",
    "state_dict" or "model_state_dict", or alone beside the optimizer's.
    """
    if _is_model(contents):
        return contents
    inside = _models_in(contents)
    usual = [k for k in ("model", "state_dict", "model_state_dict") if k in inside]
    if len(inside) == 1 or usual:
        return inside[usual[0] if usual else next(iter(inside))]
    return {}


def _models_in(contents: Any) -> dict[str, Any]:
    """Return the state dicts of models in a mapping, by their keys."""
    if not isinstance(contents, Mapping):
        return {}
    return {str(key): value for key, value in contents.items() if _is_model(value)}


def trained(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a model without the buffers that no optimizer has.

    Such are running statistics, and arrays of integers and bools, as masks and
    positions are. A tensor under two names (tied weights) is one parameter, under the
    first of them.
    """
    named: dict[str, Any] = {}
    places: set[Any] = set()
    for name, array in arrays.items():
        place = _place(array)
        if place is None or place not in places:
            named[str(name)] = array
            places.add(place)
    found = {n: to_numpy(n, a) for n, a in named.items() if not _BUFFER.search(n)}
    return {n: array for n, array in found.items() if array.dtype.kind not in "iub"}


def _place(array: Any) -> Any:
    """Return where a tensor of PyTorch lies in memory; None if that tells nothing."""
    if not hasattr(array, "data_ptr"):
        return None
    try:
        place = array.data_ptr(), tuple(array.shape), tuple(array.stride())
    except RuntimeError:  # a sparse or nested tensor, which is refused by its name
        return None
    return place if array.numel() else None


def _is_model(node: Any) -> bool:
    return (
        isinstance(node, Mapping)
        and bool(node)
        and not is_state_dict(node)
        and all(isinstance(name, str) for name in node)
        # `Module.get_extra_state` may return any object.
        and all(hasattr(x, "shape") or _BUFFER.search(n) for n, x in node.items())
    )


def why_none(path: Path, is_limited: bool = True) -> str:
    """Return why `model_in` finds no model in a file, as the end of a sentence.

    Raises:
      OSError, ValueError: the file cannot be read.
    """
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix in torch.SUFFIXES:
        names = list(_models_in(files.read(path, is_limited)))
        if len(names) > 1:
            return f"the file holds {len(names)} models: {some_leaves(names)}"
    elif suffix == keras_config.ARCHIVE:
        try:
            model = hdf5.read_model(path, Bounds(path, is_limited))
            keras_layers.trained_variables(*model)
        except (TooLarge, MissingPackage):
            raise
        except keras_layers.UnknownLayer as error:
            return str(error)
        except (AttributeError, IndexError, TypeError):  # JSON of another form
            return f"the file is no whole .keras file ({_FORM})"
        except Exception as error:  # zip, HDF5 and h5py: more kinds than can be listed
            return f"the file is no whole .keras file ({brief(error)})"
        if not keras_layers.by_group(model.config):
            return "the model in the file is of a class that does not list its layers"
    elif suffix in hdf5.SUFFIXES:
        return "the model in such a file is not read"
    return "the file holds no model"


def _of_keras(path: Path, bounds: Bounds) -> dict[str, np.ndarray]:
    """Return the trained variables of the layers of a .keras file, by their names."""
    try:
        return keras_layers.trained_variables(*hdf5.read_model(path, bounds))
    except (TooLarge, MissingPackage, keras_layers.UnknownLayer):
        raise
    except Exception:  # zip, HDF5, h5py, another JSON than Keras's
        return {}  # the reader of the file says what is wrong with it
