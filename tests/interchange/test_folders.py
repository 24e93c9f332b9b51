"""Folders of Orbax: their items, and the parameters beside the state."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx

from optadamw.dialects.files import files, orbax_items
from optadamw.dialects.files.refusing import DamagedFile
from tests.interchange.files import convert

W = {"w": np.arange(3, dtype=np.float32)}
STATE = {"count": np.int32(3), "mu": {"w": W["w"] + 1}, "nu": {"w": W["w"] + 2}}


def folder_of(path, **items):
    """A folder with an item of Orbax for each name."""
    for name, tree in items.items():
        files.write(path / name, tree)
    return path


def converted(folder, *words):
    """Convert a state of Optax, and return its arrays; None if it is refused."""
    out = folder.parent / "out.npz"
    status = convert("optax", folder, "--to", "optadamw", "--out", out, *words)
    return np.load(out) if status == 0 else None


def is_state(found):
    return np.array_equal(found["mu/w"], STATE["mu"]["w"]) and np.array_equal(
        found["params/w"], W["w"]
    )


def params_in(tmp_path):
    np.savez(tmp_path / "p.npz", **W)
    return "--params", tmp_path / "p.npz"


@pytest.mark.parametrize("name", ["default", "state", "opt"])
@pytest.mark.parametrize("is_root", [False, True], ids=["step", "root"])
def test_the_only_item_of_a_folder_is_taken(name, is_root, tmp_path, capsys):
    root = folder_of(tmp_path / "run", **{f"10/{name}": STATE})
    (root / "10" / "_CHECKPOINT_METADATA").write_text("{}")
    (root / "10" / "meta").mkdir()  # of JSON, which has no arrays
    (root / "10" / "meta" / "metadata").write_text("{}")
    (root / "logs").mkdir()
    folder = root if is_root else root / "10"
    assert is_state(converted(folder, *params_in(tmp_path))), capsys.readouterr().err
    words = ("--force", "--key", f"10/{name}" if is_root else name)
    assert is_state(converted(folder, *params_in(tmp_path), *words))


def test_the_step_of_a_checkpoint_manager(tmp_path):
    params = {"w": jnp.asarray(W["w"])}
    state = optax.adamw(1e-3).init(params)
    with orbax.checkpoint.CheckpointManager(
        os.path.abspath(tmp_path / "run")
    ) as keeper:
        both = {"params": params, "opt_state": state}
        keeper.save(20, args=orbax.checkpoint.args.StandardSave(both))
    assert np.array_equal(converted(tmp_path / "run" / "20")["params/w"], W["w"])
    saved = files.read(tmp_path / "run")
    assert set(saved) == {"params", "opt_state"}


ON_FOUR_DEVICES = """
import sys, jax, numpy as np, optax, orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((4,), ("x",))
params = jax.device_put({"w": np.arange(8.0)}, NamedSharding(mesh, P("x")))
both = {"params": params, "opt_state": optax.adamw(1e-3).init(params), "run": "first"}
with ocp.CheckpointManager(sys.argv[1]) as keeper:
    keeper.save(10, args=ocp.args.PyTreeSave(both))
"""


def test_a_folder_that_was_saved_on_other_devices(tmp_path, capsys):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    words = [sys.executable, "-c", ON_FOUR_DEVICES, str(tmp_path / "run")]
    subprocess.run(words, env=os.environ | flags, check=True, timeout=300)
    found = converted(tmp_path / "run")
    assert found is not None, capsys.readouterr().err
    assert found["params/w"].tolist() == [*range(8)] and found["mu/w"].shape == (8,)
    assert files.read(tmp_path / "run")["run"] == "first"


def test_a_folder_that_was_saved_on_a_gpu(tmp_path):
    tree = {"w": jnp.arange(3), "half": jnp.ones(2, jnp.bfloat16), "n": 3, "rate": 0.5}
    step = folder_of(tmp_path, x=tree) / "x"
    places = (step / "_sharding").read_text()
    assert "cpu:0" in places
    (step / "_sharding").write_text(places.replace("cpu:0", "cuda:0"))
    found = files.read(step)
    assert found["w"].tolist() == [0, 1, 2] and found["half"].dtype == jnp.bfloat16
    assert found["n"] == 3 and found["rate"] == 0.5


def test_several_items_are_named(tmp_path, capsys):
    step = folder_of(tmp_path / "run" / "10", opt=STATE, params=W)
    assert converted(step) is None
    error = capsys.readouterr().err
    assert "holds 2 items of Orbax: 'opt', 'params'." in error
    assert f"such as '{step / 'opt'}', or for the state `--key opt`." in error
    assert converted(step, "--key", "other") is None
    assert "holds no item 'other'. Near it: 'opt'" in capsys.readouterr().err
    for folder, words in (
        (step, ("--key", "opt")),
        (step.parent, ("--key", "10/opt")),
        (step / "opt", ("--params", step / "params")),
        (step / "opt", ("--params", step)),
    ):
        assert is_state(converted(folder, *words, "--force")), capsys.readouterr().err


def test_steps_are_named_in_their_order(tmp_path):
    steps = {f"{n}/default": {"w": np.full(1, n, np.float32)} for n in (9, 100, 20)}
    root = folder_of(tmp_path / "run", **steps)
    (root / "latest").symlink_to(root / "100")
    unfinished = root / f"200{orbax_items.UNFINISHED}-1" / "default"
    unfinished.mkdir(parents=True)
    (unfinished / "_METADATA").write_text("{}")
    told = "'9/default', '20/default', '100/default'. Name one, such as '.*100/default'"
    with pytest.raises(ValueError, match=told):
        files.read(root)
    assert files.read(root / "latest")["w"] == [100.0]
    (root / "9" / "params").symlink_to(root / "9" / "default")
    for n in range(1000, 1004):
        (root / str(n) / "default").mkdir(parents=True)
        (root / str(n) / "default" / "_METADATA").write_text("{}")
    with pytest.raises(ValueError, match=r"holds 8 items of Orbax: .* and 2 more\. N"):
        files.read(root)


def test_items_at_two_depths_are_named(tmp_path, capsys):
    """A folder of the best step may lie beside those of all steps."""
    items = {"best": STATE, "100/default": STATE, "200/default": STATE}
    root = folder_of(tmp_path / "run", **items)
    assert converted(root, *params_in(tmp_path)) is None
    error = capsys.readouterr().err
    assert "holds 3 items of Orbax: 'best', '100/default', '200/default'." in error
    assert is_state(converted(root, "--key", "100/default", *params_in(tmp_path)))


@pytest.mark.parametrize("place", ["run", "run/20", "run/10/default", "array"])
def test_a_folder_that_must_not_be_read_is_called_so(place, tmp_path, monkeypatch):
    root = folder_of(tmp_path / "run", **{"10/default": W, "20/default": W})
    (root / "lost+found").mkdir()  # no one but root reads it
    array = next((root / "10" / "default" / "d").iterdir())
    closed = array if place == "array" else tmp_path / place

    def access(path, mode):
        return Path(path) not in (closed, root / "lost+found")

    monkeypatch.setattr(os, "access", access)
    path = root / "10" / "default" if place == "array" else root
    with pytest.raises(
        OSError, match=r"cannot be read \(Permission denied\)\."
    ) as told:
        files.read(path)
    assert str(closed) in str(told.value)
    if place == "run/20":
        assert files.read(root / "10")["w"].tolist() == [0, 1, 2]


TRAINING = {"params": W, "opt_state": [STATE, {}], "step": np.int32(3)}


@pytest.mark.parametrize(
    "words",
    [(), ("--key", "opt_state"), ("--drop", "params", "--drop", "step")],
    ids=["alone", "key", "drop"],
)
@pytest.mark.parametrize("is_named", [False, True], ids=["beside", "--params"])
@pytest.mark.parametrize("name", ["x", "x/default"])
def test_parameters_beside_the_state(words, is_named, name, tmp_path, capsys):
    folder = folder_of(tmp_path, **{name: TRAINING}) / "x"
    named = ("--params", folder) if is_named else ()
    assert is_state(converted(folder, *words, *named)), capsys.readouterr().err
    told = "found under 'opt_state'" in capsys.readouterr().out
    assert told == ("--key" not in words)


@pytest.mark.parametrize("key", ["state", "state/opt_state"])
def test_the_parameters_in_the_item_of_the_state_come_first(key, tmp_path, capsys):
    """The item beside it may be an average, or the best parameters so far."""
    items = {"10/state": TRAINING, "10/params": {"w": W["w"] + 5}}
    folder = folder_of(tmp_path / "run", **items)
    for where, words in ((folder / "10", key), (folder, f"10/{key}")):
        found = converted(where, "--key", words, "--force")
        assert found is not None and is_state(found), capsys.readouterr().err


def test_the_parameters_are_those_of_the_step(tmp_path, capsys):
    other = {"w": W["w"] * 7}
    items = {"9/opt": STATE, "9/params": other, "10/opt": STATE, "10/params": W}
    folder = folder_of(tmp_path / "run", **items)
    found = converted(folder, "--key", "10/opt")
    assert found is not None and is_state(found), capsys.readouterr().err
    assert converted(folder / "10" / "opt", "--params", folder, "--force") is None
    assert "holds 4 items of Orbax" in capsys.readouterr().err


def test_an_item_and_an_entry_may_have_one_name(tmp_path, capsys):
    """The only item need not be named, so its entries come first."""
    other = STATE | {"mu": W, "nu": W}
    tree = {"params": W, "adam": STATE, "opt_state": other}
    only = folder_of(tmp_path / "only", adam=tree)
    assert is_state(converted(only, "--key", "adam")), capsys.readouterr().err
    tree = {"params": W, "adam": {"opt_state": other}, "opt_state": STATE}
    two = folder_of(tmp_path / "two", adam=tree, params=W)
    key = ("--key", "adam/opt_state", "--force")
    assert is_state(converted(two, *key)), capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.ckpt", "run.keras", "run.h5"])
def test_a_folder_may_have_the_name_of_another_file(name, tmp_path, capsys):
    written = folder_of(tmp_path, run={"params": W, "opt_state": STATE}) / "run"
    folder = written.rename(tmp_path / name)
    out = ("--to", "torch", "--out", tmp_path / "out.npz", "--learning-rate", 0.1)
    assert convert("optax", folder, *out) == 0, capsys.readouterr().err
    assert "the model in" not in capsys.readouterr().out


def test_states_of_nnx(tmp_path, capsys):
    """Their Variables are dicts {"value": array} in a folder."""
    model = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
    loss, inputs = lambda model, x: model(x).sum(), jnp.arange(3.0)
    optimizer.update(model, nnx.grad(loss)(model, inputs))
    params, state = nnx.state(model, nnx.Param), nnx.state(optimizer)
    optax_state = optax.adamw(1e-3).init(params)
    _, optax_state = optax.adamw(1e-3).update(params, optax_state, params)
    items = {"model": params, "opt": state, "both": {"params": params, "opt": state}}
    items |= {"optax": {"params": params, "opt_state": optax_state}}
    items |= {"alone": {"opt_state": optax_state}}
    with orbax.checkpoint.StandardCheckpointer() as keeper:
        for name, tree in items.items():
            keeper.save(tmp_path.absolute() / name, tree)
    mu = optimizer.opt_state[0].mu["kernel"][...]
    words = ("--key", "opt_state", "--params", tmp_path / "model")
    for folder, more in (("opt", words), ("both", ("--key", "opt/opt_state"))):
        found = converted(tmp_path / folder, *more, "--force")
        assert found is not None, capsys.readouterr().err
        np.testing.assert_array_equal(found["mu/kernel"], mu)
        np.testing.assert_array_equal(found["params/kernel"], model.kernel[...])
    for folder, more in (("optax", ()), ("alone", words)):
        found = converted(tmp_path / folder, *more, "--force")
        assert found is not None, capsys.readouterr().err
        assert found["mu/kernel"].any()


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: tx,
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.MultiSteps(tx, 2),
        lambda tx: optax.inject_hyperparams(optax.adamw)(0.25),
    ],
    ids=["alone", "apply_if_finite", "MultiSteps", "inject_hyperparams"],
)
def test_a_state_of_nnx_beside_plain_numbers(around, tmp_path, capsys):
    """The counts and rates of wrappers are Variables too."""
    model = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, around(optax.adamw(1e-3)), wrt=nnx.Param)
    grads = nnx.grad(lambda model, x: model(x).sum())(model, jnp.arange(3.0))
    for _ in range(2):
        optimizer.update(model, grads)
    saved = {"params": nnx.state(model, nnx.Param), "epoch": 3}
    saved["opt_state"] = nnx.state(optimizer)["opt_state"]
    with orbax.checkpoint.StandardCheckpointer() as keeper:
        keeper.save(tmp_path.absolute() / "run", saved)
    found = converted(tmp_path / "run")
    assert found is not None, capsys.readouterr().err
    assert found["mu/kernel"].any()
    np.testing.assert_array_equal(found["params/kernel"], model.kernel[...])


@pytest.mark.parametrize(
    "tree",
    [
        {"value": W["w"]},
        {"value": {"value": W["w"]}, "step": np.int32(3)},
        {"value": {"value": W["w"]}, "other": {"value": W}},
        {"value": {"value": W["w"], "other": W["w"]}},
    ],
    ids=["alone", "beside", "deeper", "two"],
)
def test_a_key_called_value_makes_no_variable(tree, tmp_path):
    """All arrays of an `nnx.State` have it."""
    found = files.read(folder_of(tmp_path, x=tree) / "x")
    assert jax.tree.structure(found) == jax.tree.structure(tree)


def test_a_parameter_called_mu_is_no_moment(tmp_path, capsys):
    params = {"mu": np.full((3, 2), 7.0, np.float32), "w": W["w"]}
    state = STATE | {"mu": params, "nu": params}
    folder = folder_of(tmp_path, run={"params": params, "opt_state": state}) / "run"
    found = converted(folder)
    assert found is not None, capsys.readouterr().err
    np.testing.assert_array_equal(found["mu/mu"], params["mu"])


def test_plain_parameters_beside_a_state_of_nnx_keep_their_names(tmp_path, capsys):
    """Only a tree all of whose leaves are called "value" is one of Variables."""
    params = {"temp": {"value": W["w"]}, "w": W["w"]}
    tree = jax.tree.map(lambda x: {"value": x}, params)
    state = {"count": {"value": np.int32(2)}, "mu": tree, "nu": tree}
    saved = {"params": params, "opt_state": state, "epoch": 3}
    found = converted(folder_of(tmp_path, run=saved) / "run")
    assert found is not None, capsys.readouterr().err
    assert {"params/temp/value", "mu/temp/value", "mu/w"} <= set(found)


def test_a_model_of_nnx_with_an_array_that_is_no_variable(tmp_path, capsys):
    """The names of the moments tell those of the parameters."""
    tree = {"lin": {"w": {"value": W["w"]}}}
    state = {"count": {"value": np.int32(2)}, "mu": tree, "nu": tree}
    params = tree | {"places": np.arange(4)}
    found = converted(
        folder_of(tmp_path, x={"params": params, "opt_state": state}) / "x"
    )
    assert found is not None, capsys.readouterr().err
    assert {"params/lin/w", "mu/lin/w"} <= set(found)


def test_the_nearest_parameters_are_those_beside_the_state(tmp_path, capsys):
    other = {"w": W["w"] * 7}
    saved = {"params": other, "train": {"params": W, "adam": STATE}, "opt_state": STATE}
    folder = folder_of(tmp_path, x=saved) / "x"
    assert converted(folder) is None
    assert "holds 2 states of optimizers" in capsys.readouterr().err
    assert is_state(converted(folder, "--key", "train/adam"))
    assert not is_state(converted(folder, "--key", "opt_state", "--force"))
    only = folder_of(tmp_path, y={"w": W["w"]}) / "y"
    assert converted(only, "--key", "w", "--force") is None
    assert "the file holds no model" in capsys.readouterr().err


def test_a_state_whose_part_is_called_params_is_taken_whole(tmp_path):
    """optax.named_chain gives its parts names."""
    folder = folder_of(tmp_path, x={"params": STATE, "opt_state": {}}) / "x"
    assert is_state(converted(folder, *params_in(tmp_path)))


def test_parameters_without_a_state_beside_them_are_taken_whole(tmp_path):
    tree = {"params": W, "scale": W["w"]}
    folder = folder_of(tmp_path, p=tree, s=STATE | {"mu": tree, "nu": tree})
    found = converted(folder / "s", "--params", folder / "p")
    assert found is not None and "mu/params/w" in found


# --- Items that are refused ----------------------------------------------------------


@pytest.mark.parametrize("place", ["default", "params"])
def test_an_item_that_is_a_link_out_of_the_folder_is_refused(place, tmp_path, capsys):
    step = folder_of(tmp_path / "run" / "10", opt=STATE, params=W)
    if place == "default":
        (step / "opt").rename(step / place)
    (step / place).rename(tmp_path / "elsewhere")
    (step / place).symlink_to(tmp_path / "elsewhere")
    words = ("--key", "opt" if place == "params" else place)
    assert converted(step, *words) is None
    error = capsys.readouterr().err
    assert f"'{step / place}' is a link to what is not in the folder '{step}'" in error


def test_the_only_item_may_not_lead_out_of_the_folder(tmp_path):
    folder_of(tmp_path, elsewhere=W)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "default").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedFile, match="is a link to what is not in the folder"):
        files.read(tmp_path / "run")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "10").symlink_to(tmp_path / "run")
    with pytest.raises(DamagedFile, match="10' is a link to what is not in the folder"):
        files.read(tmp_path / "all")


def test_limits_are_those_of_the_item(tmp_path):
    """Other items of a folder do not make room for a large one."""
    step = folder_of(tmp_path / "10", default=W)
    (step / "default" / "_METADATA").write_text("[" + "{}," * (3 << 20) + "{}]")
    Path(step / "other").write_bytes(b"0" * (1 << 24))
    with pytest.raises(ValueError, match="of text"):
        files.read(step)


def test_a_folder_with_items_is_not_replaced(tmp_path, capsys):
    step = folder_of(tmp_path / "10", opt=STATE)
    words = ("optax", step, "--to", "optax", "--out", step, "--force")
    assert convert(*words, *params_in(tmp_path)) == 2
    assert "is no checkpoint of Orbax alone" in capsys.readouterr().err
    assert files.read(step)["mu"]["w"].tolist() == [1, 2, 3]
