"""MLX's saved states."""

import jax.numpy as jnp
import numpy as np

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
