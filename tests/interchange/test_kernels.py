"""Kernels that are transposed in the other library, where no shape tells."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import interchange
from optadamw.cli import main
from optadamw.dialects.files import files
from optadamw.dialects.states.form import transposing

KERNEL = np.arange(4.0).reshape(2, 2) + 1


def transposed(path, x):
    return x.T if path.endswith("kernel") else x


def state_dict(moment=KERNEL, **group):
    own = {"step": np.float32(3), "exp_avg": moment, "exp_avg_sq": moment}
    return {"state": {0: own}, "param_groups": [{"lr": 0.1, **group, "params": [0]}]}


def told(read, saved, name="kernel", shape=(2, 2), layout=None):
    params = {"dense": {name: jnp.zeros(shape)}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(saved, params, layout=layout)
    return [str(one.message) for one in caught]


def test_a_square_kernel_that_was_not_transposed_is_told():
    (message,) = told(interchange.from_torch, state_dict())
    assert message.startswith("'dense/kernel' is square and was not transposed.")
    assert "(outputs, inputs) in PyTorch" in message
    mlx = {"step": 3, "dense": {"kernel": {"m": KERNEL, "v": KERNEL}}}
    (message,) = told(interchange.from_mlx, mlx)
    assert "(outputs, inputs) in MLX" in message


@pytest.mark.parametrize(
    "options",
    [
        {"layout": transposed},
        {"name": "weight"},  # Equinox has them as PyTorch has
        {"name": "embedding"},
    ],
)
def test_what_is_transposed_or_no_kernel_is_not_told(options):
    assert told(interchange.from_torch, state_dict(), **options) == []


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((3, 4), lambda path, x: x[:2, :2]), ((2, 2, 1), lambda path, x: x[:, :, 0].T)],
)
def test_a_kernel_of_another_shape_is_that_of_the_layout(shape, layout):
    """`layout` sees the array as it was saved, and not in the shape of the kernel."""
    assert told(interchange.from_torch, state_dict(np.ones(shape)), layout=layout) == []


@pytest.mark.parametrize("shape", [(2, 2), (3, 3)])
def test_the_kernel_of_a_frozen_layer_is_not_told(shape):
    """Its moments are not read. They may be those of a layer of another shape."""
    params = {"dense": {"kernel": jnp.zeros((2, 2))}, "head": jnp.zeros(2)}
    tx = optadamw.adamw(0.1, weight_decay=0, groups={"dense/*": {"freeze": True}})
    saved = state_dict(np.arange(float(np.prod(shape))).reshape(shape))
    saved["state"][1] = state_dict(np.ones(2))["state"][0]
    saved["param_groups"][0]["params"].append(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = interchange.from_torch(saved, params, tx=tx)
    np.testing.assert_array_equal(found.mu["head"], np.ones(2))
    assert found.step == 3 and found.mu["dense"]["kernel"] is None


def test_a_model_with_kernels_as_here_is_not_told():
    own = {"step": np.float32(3), "exp_avg": KERNEL, "exp_avg_sq": KERNEL}
    wide = {"step": np.float32(3)} | dict.fromkeys(
        ("exp_avg", "exp_avg_sq"), np.ones((2, 3))
    )
    saved = {"state": {0: own, 1: wide}, "param_groups": [{"params": [0, 1]}]}
    params = {"a": {"kernel": jnp.zeros((2, 2))}, "b": {"kernel": jnp.zeros((2, 3))}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interchange.from_torch(saved, params)
    params["b"]["kernel"] = jnp.zeros((3, 2))
    with pytest.warns(UserWarning, match="'a/kernel' is square and was not"):
        interchange.from_torch(
            saved, params, layout=lambda path, x: x.T if path == "b/kernel" else x
        )


def test_symmetric_moments_are_not_told():
    assert told(interchange.from_torch, state_dict(np.ones((2, 2)))) == []
    before_the_first_step = {"state": {}, "param_groups": [{"params": [0]}]}
    assert told(interchange.from_torch, before_the_first_step) == []


def test_keras_has_kernels_as_they_are_here():
    store = {"0": np.int32(3), "1": np.float32(0.1), "2": KERNEL, "3": KERNEL}
    assert told(interchange.from_keras, store) == []


@pytest.fixture
def command(tmp_path, capsys):
    """Run `optadamw convert` on a state of one parameter; return its report."""

    def run(name, target, *options, moment=KERNEL, out="out.npz"):
        file, params = tmp_path / "in.npz", tmp_path / "params.npz"
        files.write(file, state_dict(moment.astype(np.float32)))
        files.write(params, {name: np.zeros(moment.shape)})
        words = ["convert", "torch", str(file), "--params", str(params), "--force"]
        words += ["--to", target, "--out", str(tmp_path / out)]
        assert main.main([*words, *options]) == 0
        return capsys.readouterr().out

    return run


def test_the_command_tells_in_its_own_words(command):
    report = command("a/kernel", "optadamw")
    assert "note: 'a/kernel' is square and was not transposed." in report
    assert "Transpose it with `--transpose '*kernel'`." in report
    assert "note" not in command("a/kernel", "optadamw", "--transpose", "*kernel")


@pytest.mark.parametrize("moment", [KERNEL, np.ones((2, 3))])
def test_the_command_says_whose_layout_it_wrote(command, moment):
    report = command("a.weight", "keras", moment=moment)
    assert (
        "note: 'a.weight' was written as in PyTorch, whose dense layers have (outputs, "
        "inputs); those of Keras have (inputs, outputs). Turn them with --to-transpose"
    ) in report
    turned = command("a.weight", "keras", "--to-transpose", "*weight", moment=moment)
    assert "was written as" not in turned
    assert "was written as" not in command("a.weight", "mlx", moment=moment)
    assert "was written as" not in command("a.bias", "keras", moment=np.ones(3))


def test_no_kernel_of_a_convolution_is_transposed():
    """`x.T` would exchange height and width too, which no square window shows."""
    layout = transposing(["*kernel"])
    assert layout("conv/bias", np.ones((3, 3, 3))).shape == (3, 3, 3)
    assert layout("dense/kernel", np.ones((2, 3))).shape == (3, 2)
    text = r"Leaf 'conv/kernel': it has 4 axes, .* x\.transpose\(2, 3, 1, 0\)"
    with pytest.raises(ValueError, match=text):
        layout("conv/kernel", np.ones((8, 4, 3, 3)))
