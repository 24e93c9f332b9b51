"""MLX's saved states."""

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import interchange
from optadamw.cli.main import main
from optadamw.dialects.states.nesting import dotted
from tests.interchange import cases
from tests.interchange.saving import refused, saved_by
from tests.support import trees


def test_mlx_flat_and_nested():
    saved, params, tx = saved_by("mlx")
    flat = {"step": saved["step"], "learning_rate": saved["learning_rate"]}
    for path in (
        "dense.bias",
        "dense.kernel",
        "out.bias",
        "out.kernel",
        "scale",
        "void",
    ):
        node = saved
        for key in path.split("."):
            node = node[key]
        flat |= {f"{path}.m": node["m"], f"{path}.v": node["v"]}
    state = cases.trained(tx, cases.tree(), 2)[1]
    trees.assert_same_bits(interchange.from_mlx(flat, params, tx=tx), state)


def test_mlx_names_of_a_list_are_no_order():
    """A file has them sorted as text, so that 10 comes before 2."""
    names = sorted(map(str, range(12)))
    saved = {f"{n}.{key}": np.full(2, float(n)) for n in names for key in "mv"}
    state = interchange.from_mlx({**saved, "step": 3}, [jnp.ones(2)] * 12)
    assert [x[0] for x in state.mu] == list(range(12))


def test_a_file_for_mlx_has_the_names_that_mlx_takes_apart(tmp_path):
    saved, params, _ = saved_by("mlx")
    arrays = dotted(params)
    paths = {name.replace(".", "/"): x for name, x in arrays.items()}
    np.savez(tmp_path / "params.npz", **paths)
    np.savez(tmp_path / "in.npz", **dotted(saved))
    words = ("convert", "mlx", tmp_path / "in.npz", "--to", "mlx")
    words += ("--params", tmp_path / "params.npz", "--out", tmp_path / "out.npz")
    assert main([str(word) for word in words]) == 0
    out = np.load(tmp_path / "out.npz")
    names = {f"{name}.{key}" for name in arrays for key in "mv"}
    assert set(out) == names | {"step", "learning_rate"}
    for name, array in dotted(saved).items():
        np.testing.assert_array_equal(out[name], array)
    refused(ValueError, "this name with dots", dotted, {"a.b": 1, "a": {"b": 2}})


def test_mlx_refuses_other_states_and_names():
    saved, params, tx = saved_by("mlx")
    call = interchange.from_mlx
    refused(ValueError, "with 'step'", call, {"w": saved["scale"]}, params)
    sgd = {**saved, "scale": {"v": np.zeros(())}}
    refused(ValueError, "Leaf 'scale': the saved state has", call, sgd, params)
    for key in ("step", "learning_rate"):
        params = {key: jnp.zeros(2)}
        state = cases.adamw().init(params)
        refused(ValueError, "beside 'step'", interchange.to_mlx, state, params, tx=tx)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    state = cases.adamw().init(params)
    names = {"a": "x", "b": "x.y"}
    refused(
        ValueError, "it is a parameter and holds others", interchange.to_mlx, state,
        params, tx=tx, names=names,
    )  # fmt: skip


ONE, TWO = {"weight": jnp.ones(2)}, {"weight": jnp.full(2, 2.0)}
LISTS = {
    "a list": ([{}, ONE, {}, TWO], None),
    "integers, as NNX has them": ({1: ONE, 3: TWO}, None),
    "texts, as names that were split": ({"1": ONE, "3": TWO}, None),
    "names of MLX": (
        {"1": ONE, "3": TWO},
        {f"layers/{i}/weight": f"layers.{i}.weight" for i in (1, 3)},
    ),
    "names of MLX for others": (
        [ONE, TWO],
        {"layers/0/weight": "layers.1.weight", "layers/1/weight": "layers.3.weight"},
    ),
}


@pytest.mark.parametrize(("layers", "names"), LISTS.values(), ids=LISTS)
def test_a_list_of_modules_is_one_for_mlx(layers, names):
    """MLX takes no dict in its place: it sets elements by their number."""
    params, tx = {"layers": layers}, optadamw.adamw(1e-3)
    made = interchange.to_mlx(tx.init(params), params, tx=tx, names=names)
    assert [list(layer) for layer in made["layers"]] == [[], ["weight"]] * 2


@pytest.mark.parametrize("layers", [[ONE], {0: ONE}], ids=["lists", "integers"])
def test_a_dict_is_one_beside_lists(layers):
    heads = {"0": ONE, "1": TWO}
    params, tx = {"layers": layers, "heads": heads}, optadamw.adamw(1e-3)
    state = tx.init(params)
    for made in (
        interchange.to_mlx(state, params, tx=tx),
        interchange.to_flux(state, params, tx=tx),
    ):
        assert list(made["heads"]) == ["0", "1"]
        assert isinstance(made["layers"], list)
