"""The order of the parameters is taken only from a file that determines it."""

import json

import numpy as np
import pytest

from optadamw.dialects.files import files
from optadamw.dialects.orders import by_shape, in_order
from tests.interchange.files import convert, needs_torch, state_dict, torch, written
from tests.interchange.keras_files import keras_file

SQUARE = np.ones((4, 4), np.float32)


def test_names_in_an_order():
    params = {"a/kernel": 0, "b/kernel": 0}
    for order in (["b.kernel", "a.kernel"], ["b/kernel:0", "m", "a/kernel:0"]):
        assert list(in_order(order, params)) == ["b/kernel", "a/kernel"]
    for more in ([], ["m.buffer"]):
        assert in_order(["m.b.kernel", "m.a.kernel", *more], params) == {
            "b/kernel": 0,
            "a/kernel": 1,
        }
    for order in (["b.kernel", "c.kernel"], ["b.kernel"], ["b.kernel", "b/kernel"]):
        assert in_order(order, params) is None
    # Numbers are names here: those of a list say nothing of others.
    assert in_order(["a", "b"], {"0": 0, "1": 0}) is None


WIDE, TALL, ROW = np.ones((3, 6)), np.ones((6, 3)), np.ones(3)
KERNELS = {"a/kernel": TALL, "b/kernel": WIDE, "b/bias": ROW}
SHAPES = {
    "turned": (KERNELS, ["*/kernel"], [(6, 3), (3,), (3, 6)], ["b/kernel", "b/bias"]),
    "perhaps turned": (KERNELS, [], [(6, 3), (3,), (3, 6)], None),
    "one turned": (KERNELS, ["a/*"], [(3, 6), (3,), (3, 6)], None),
    "one kernel": ({"a": TALL, "b": ROW}, [], [(3,), (6, 3)], ["b", "a"]),
    "one kernel, turned": ({"a": TALL, "b": ROW}, ["a"], [(3,), (3, 6)], ["b", "a"]),
    "one kernel, forgotten": ({"a": TALL, "b": ROW}, [], [(3,), (3, 6)], None),
    "windows": ({"a": np.ones((2, 3, 4)), "b": np.ones((4, 2, 3))}, [], None, None),
    "alike": ({"a": ROW, "b": ROW}, [], [(3,), (3,)], None),
    "others": ({"a": ROW, "b": TALL}, [], [(3,), (9, 3)], None),
    "one without a state": ({"a": ROW, "b": TALL}, [], [(3,), None], None),
    "fewer": ({"a": ROW, "b": TALL}, [], [(3,)], None),
}


@pytest.mark.parametrize(
    ("params", "transpose", "shapes", "first"), SHAPES.values(), ids=SHAPES
)
def test_shapes_tell_an_order_only_of_kernels_that_nothing_may_turn(
    params, transpose, shapes, first
):
    shapes = shapes or [x.shape for x in params.values()]
    found = by_shape(shapes, params, transpose)
    assert (found and found[: len(first or ())]) == first


def given(folder, params, name="params.npz"):
    files.write(folder / name, params)
    return ("--params", folder / name)


def listed(folder, names, option="--names"):
    path = folder / f"{option}.json"
    path.write_text(json.dumps(names))
    return (option, path)


def moments(path):
    """The first number of the first moment of each parameter in our checkpoint."""
    found = np.load(path)
    named = [name for name in found.files if name.startswith("mu/")]
    return {name.removeprefix("mu/"): float(found[name].flat[0]) for name in named}


def test_the_kernels_of_an_autoencoder_do_not_change_places(tmp_path, capsys):
    files.write(tmp_path / "in.npz", state_dict([(3, 6), (6, 3)]))
    words = ("torch", tmp_path / "in.npz", "--to", "optadamw")
    words += ("--out", tmp_path / "out.npz")
    words += given(tmp_path, {"enc/kernel": TALL, "dec/kernel": WIDE})
    assert convert(*words) == 1
    assert "Say which is which" in capsys.readouterr().err
    assert convert(*words, "--transpose", "*/kernel") == 0, capsys.readouterr().err
    assert moments(tmp_path / "out.npz") == {"enc/kernel": 1, "dec/kernel": 2}


@needs_torch
def test_the_order_of_a_model_of_other_shapes_is_not_taken(tmp_path, capsys):
    """A parameter without a state has no shape there, and the others have theirs."""
    tensors = {"a.weight": torch.ones(3), "a.bias": torch.ones(2)}
    words = ("torch", tmp_path / "in.pt", "--to", "optadamw", "--missing", "zeros")
    words += ("--out", tmp_path / "out.npz", "--force")
    for shape, status in (((2,), 1), ((3,), 0)):
        saved = state_dict([shape, (9,)])
        del saved["state"][1]
        files.write(tmp_path / "in.pt", {"model": tensors, "optimizer": saved})
        assert convert(*words) == status
    assert "by the model in" in capsys.readouterr().out
    assert moments(tmp_path / "out.npz") == {"a.weight": 1, "a.bias": 0}


@needs_torch
def test_arrays_in_a_file_of_pytorch_may_be_in_any_order(tmp_path, capsys):
    """The leaves of a tree of JAX are sorted, and `model.state_dict()` is not."""
    model = torch.nn.ModuleDict({k: torch.nn.Linear(4, 4, bias=False) for k in "ba"})
    arrays = {"a/kernel": SQUARE, "b/kernel": SQUARE}
    saved = state_dict([(4, 4)] * 2)
    files.write(tmp_path / "alone.pt", saved)
    both = {"model": model.state_dict(), "optimizer": saved}
    files.write(tmp_path / "both.pt", both)
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz", "--force")
    for name in ("alone.pt", "both.pt"):
        words = ("torch", tmp_path / name, *out)
        for params in ("p.npz", "p.pt"):
            assert convert(*words, *given(tmp_path, arrays, params)) == 1
            error = capsys.readouterr().err
            assert "A file 'model.pt' that torch.save(model.state_dict()," in error
    torch.save(model.state_dict(), tmp_path / "model.pt")
    words = ("torch", tmp_path / "alone.pt", *out, "--params", tmp_path / "model.pt")
    assert convert(*words) == 0, capsys.readouterr().err
    assert moments(tmp_path / "out.npz") == {"b.weight": 1, "a.weight": 2}


def marked(names):
    """The `state_dict()` of a model with these names, which marks their order."""
    found = torch.nn.Module().state_dict()
    found.update({name: torch.ones(4) for name in names})
    return found


MADE = ["b.weight", "b.bias", "a.weight"]
UNKNOWN = {
    "sorted": sorted(MADE),
    "two files": ["b.bias", "b.weight", "a.weight"],
    "by dtype": ["a.weight", "b.weight", "extra.weight", "b.bias"],
    "no bias": ["b.weight", "a.weight", "c.weight"],
    "a part": ["k.weight", "q.weight", "head.weight", "head.bias"],
    "a bias of another weight": ["a.weight", "head.bias", "l.weight", "l.bias"],
}


@needs_torch
@pytest.mark.parametrize("case", ["made", *UNKNOWN])
def test_a_model_beside_a_state_may_have_been_sorted(case, tmp_path, capsys):
    """`safetensors.torch.load_file` sorts the names, file by file, dtype by dtype."""
    names = UNKNOWN.get(case, MADE)
    state = state_dict([(4,)] * len(names))
    saved = {"model": {name: torch.ones(4) for name in names}, "optimizer": state}
    files.write(tmp_path / "in.pt", saved)
    words = ("torch", tmp_path / "in.pt", "--to", "optadamw", "--force")
    words += ("--out", tmp_path / "out.npz")
    assert convert(*words) == (case != "made")
    if case != "made":
        assert "torch.save(model.state_dict()," in capsys.readouterr().err
    saved = torch.load(tmp_path / "in.pt", weights_only=True)
    torch.save(saved | {"model": marked(names)}, tmp_path / "in.pt")
    assert convert(*words) == 0, capsys.readouterr().err
    assert moments(tmp_path / "out.npz") == {n: i for i, n in enumerate(names, 1)}


@needs_torch
def test_the_model_beside_a_state_comes_before_other_files(tmp_path, capsys):
    model = {name: torch.ones(4) for name in MADE} | {"buffer": torch.ones(2)}
    saved = {"model": model, "optimizer": state_dict([(4,)] * 3)}
    files.write(tmp_path / "in.pt", saved)
    words = ("torch", tmp_path / "in.pt", "--to", "optadamw", "--force")
    words += ("--out", tmp_path / "out.npz")
    torch.save(marked(sorted(MADE)), tmp_path / "other.pt")
    assert convert(*words, "--params", tmp_path / "other.pt") == 0
    assert f"the model in '{tmp_path / 'in.pt'}'" in capsys.readouterr().out
    assert moments(tmp_path / "out.npz") == {n: i for i, n in enumerate(MADE, 1)}
    # All that the model has are more than the optimizer has: nobody listed names.
    assert convert(*words) == 1
    error = capsys.readouterr().err
    assert "It has 3 parameters and the file of parameters 4" in error


@needs_torch
@pytest.mark.parametrize(
    "names",
    [
        ["net.proj", "net.out", "proj"],
        ["gen.proj", "gen.out", "disc.proj", "disc.out"],
        ["out", "other"],
    ],
    ids=["a module of the same name", "two models", "another model"],
)
def test_a_model_of_others_beside_a_state_tells_nothing(names, tmp_path, capsys):
    """An equal name of one module and the ending of another were taken together."""
    model = {name: torch.ones(4) for name in names}
    saved = {"model": model, "optimizer": state_dict([(4,)] * 2)}
    files.write(tmp_path / "in.pt", saved)
    words = ("torch", tmp_path / "in.pt", "--to", "optadamw", "--force")
    words += ("--out", tmp_path / "out.npz")
    own = {name: np.ones(4, np.float32) for name in ("proj", "out")}
    assert convert(*words, *given(tmp_path, own)) == 1
    assert "Say which is which" in capsys.readouterr().err
    kept = torch.nn.Module()
    for name, row in own.items():
        kept.register_parameter(name, torch.nn.Parameter(torch.tensor(row)))
    torch.save(kept.state_dict(), tmp_path / "own.pt")
    assert convert(*words, "--params", tmp_path / "own.pt") == 0
    assert f"the model in '{tmp_path / 'own.pt'}'" in capsys.readouterr().out
    assert moments(tmp_path / "out.npz") == {"proj": 1, "out": 2}


@needs_torch
def test_a_list_of_names_has_the_order_of_the_same_library(tmp_path, capsys):
    """The groups of the optimizer have another order than the model."""
    model = {"b": torch.ones(4), "a": torch.ones(4)}
    saved = {"model": model, "optimizer": state_dict([(4,)] * 2, groups=2)}
    files.write(tmp_path / "in.pt", saved)
    words = ("torch", tmp_path / "in.pt", "--to", "timm", "--out", tmp_path / "out.npz")
    for names in (["a", "b"], {"a": 0, "b": 1}):
        more = (*listed(tmp_path, names), "--force")
        assert convert(*words, *more) == 0, capsys.readouterr().err
        found = files.read(tmp_path / "out.npz")["state"]
        assert [found[i]["exp_avg"][0] for i in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("named", "names", "order"),
    [
        (["n.a", "n.b"], {"a": "n.b", "b": "n.a"}, "ba"),
        (["n.a", "n.b"], {"a": "n/b", "b": "n/a"}, "ba"),
        (["fc.w", "fc.v"], {"a": "fc.w", "b": "fc/v"}, "ab"),
        (["n.a", "n.b"], {"b": 0, "a": 1}, "ba"),
        (None, {"b": 0, "a": 1}, "ba"),
    ],
    ids=["other names", "other separators", "new names", "places", "no names"],
)
def test_a_mapping_tells_the_order_of_the_target(named, names, order, tmp_path, capsys):
    """Also where names that are equal say something else."""
    row = np.ones(4, np.float32)
    files.write(tmp_path / "in.npz", state_dict([(4,)] * 2, names=named))
    words = ("torch", tmp_path / "in.npz", *given(tmp_path, {"a": row, "b": row}))
    words += (*listed(tmp_path, names), "--force")
    for target in ("timm", "keras"):
        out = ("--to", target, "--out", tmp_path / "out.npz")
        assert convert(*words, *out) == 0, capsys.readouterr().err
        assert "and in TO by" not in capsys.readouterr().out
        if target == "timm":
            found = files.read(tmp_path / "out.npz")["state"]
            first = [found[i]["exp_avg"][0] for i in range(2)]
        else:
            found = np.load(tmp_path / "out.npz")
            first = [found[str(i)][0] for i in (2, 4)]
        assert first == [1, 2], target
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert(*words, *out) == 0, capsys.readouterr().err
    assert "".join(sorted("ab", key=moments(tmp_path / "out.npz").get)) == order


@pytest.mark.parametrize("names", [{"a": "a"}, {"a": "a", "b": None}], ids=str)
def test_a_mapping_may_leave_out_what_has_no_state(names, tmp_path, capsys):
    saved = state_dict([(4,)] * 2, names=["b", "a"])
    del saved["state"][0]
    files.write(tmp_path / "in.npz", saved)
    row = np.ones(4, np.float32)
    words = ("torch", tmp_path / "in.npz", *given(tmp_path, {"a": row, "b": row}))
    words += (*listed(tmp_path, names), "--missing", "zeros", "--force")
    assert convert(*words, "--to", "timm", "--out", tmp_path / "out.npz") == 0
    found = files.read(tmp_path / "out.npz")["state"]
    assert [found[i]["exp_avg"][0] for i in range(2)] == [0, 2]


def test_names_in_a_state_do_not_say_which_of_a_list_they_are(tmp_path, capsys):
    files.write(tmp_path / "in.npz", state_dict([(4,)] * 2, names=["x", "y"]))
    row = np.ones(4, np.float32)
    words = ("torch", tmp_path / "in.npz", *given(tmp_path, {"0": row, "1": row}))
    words += ("--to", "keras", "--out", tmp_path / "out.npz")
    assert convert(*words, *listed(tmp_path, ["1", "0"])) == 0, capsys.readouterr().err
    found = np.load(tmp_path / "out.npz")
    assert [found[str(i)][0] for i in (2, 4)] == [1, 2]


def keras_model(folder):
    """Two layers in the order of Keras, and the moments of an optimizer."""
    kept = [np.int32(3), np.float32(0.25), *(SQUARE * i for i in (1, 1, 2, 2))]
    layers = [(name, "Dense", [SQUARE], True) for name in ("l1", "l2")]
    return keras_file(folder / "run.keras", layers, kept)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_model_of_keras_does_not_have_the_order_of_pytorch(
    is_whole, tmp_path, capsys
):
    run = keras_model(tmp_path)
    saved = state_dict([(4, 4)] * 2)
    missing = () if is_whole else ("--missing", "zeros")
    if not is_whole:
        del saved["state"][0]
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--params", run, *missing)
    words += ("--to", "keras", "--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    assert "A state of torch has its parameters in an order" in capsys.readouterr().err
    # The order of PyTorch is told, and that of Keras is known.
    names = listed(tmp_path, ["l2/kernel", "l1/kernel"])
    assert convert(*words, *names) == 0, capsys.readouterr().err
    assert f"by the model in '{run}'" in capsys.readouterr().out
    found = np.load(tmp_path / "out.npz")
    assert [found[str(i)].flat[0] for i in (2, 4)] == [2, 1 if is_whole else 0]


def test_a_model_of_keras_has_the_order_of_a_state_that_names_its_parameters(
    tmp_path, capsys
):
    run = keras_model(tmp_path)
    names = ["l2.kernel", "l1.kernel"]
    files.write(tmp_path / "in.npz", state_dict([(4, 4)] * 2, names=names))
    words = ("torch", tmp_path / "in.npz", "--params", run)
    for target, places in (("keras", [2, 1]), ("tensorflow", [2, 1])):
        out = ("--to", target, "--out", tmp_path / "out.npz", "--force")
        assert convert(*words, *out) == 0, capsys.readouterr().err
        found = np.load(tmp_path / "out.npz")
        numbers = [found[name].flat[0] for name in found.files if found[name].ndim]
        assert numbers[0] == places[0], target
    assert convert(*words, "--to", "timm", "--out", tmp_path / "t.npz") == 0
    found = files.read(tmp_path / "t.npz")["state"]
    assert [found[i]["exp_avg"].flat[0] for i in range(2)] == [1, 2]


@needs_torch
def test_a_model_of_pytorch_does_not_have_the_order_of_keras(tmp_path, capsys):
    run = keras_model(tmp_path)
    model = torch.nn.ModuleDict(
        {name: torch.nn.Linear(4, 4, bias=False) for name in ("l2", "l1")}
    )
    torch.save(model.state_dict(), tmp_path / "model.pt")
    words = ("keras", run, "--params", tmp_path / "model.pt", "--force")
    for target in ("torch", "optadamw"):
        out = ("--to", target, "--out", tmp_path / "out.npz")
        assert convert(*words, *out) == 1
        error = capsys.readouterr().err
        assert "A state of keras has its parameters in an order" in error
        assert "A file 'model.keras' that model.save('model.keras') of Keras" in error
    names = listed(tmp_path, ["l1.weight", "l2.weight"])
    out = ("--to", "torch", "--out", tmp_path / "out.npz")
    assert convert(*words, *out, *names) == 0, capsys.readouterr().err
    found = files.read(tmp_path / "out.npz")["state"]
    assert [found[i]["exp_avg"].flat[0] for i in range(2)] == [2, 1]
    # Parameters by the names of the layers, in whatever order, are those of the file.
    plain = written(
        tmp_path / "p.safetensors", {f"m/l{i}/kernel": SQUARE for i in (2, 1)}
    )
    out = ("--to", "optadamw", "--out", tmp_path / "out.npz")
    words = ("keras", run, "--params", plain, *out, "--force")
    assert convert(*words) == 0, capsys.readouterr().err
    assert moments(tmp_path / "out.npz") == {"m/l1/kernel": 1, "m/l2/kernel": 2}
