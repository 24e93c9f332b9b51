"""`optadamw convert optadamw`: nothing that a checkpoint holds is lost in silence."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

import optadamw
from optadamw import checkpoint, interchange
from optadamw.dialects.files import files
from tests.interchange import cases
from tests.interchange.files import NAMES, convert
from tests.interchange.files import PARAMS as SHAPES
from tests.support import trees
from tests.support.lookahead import lookahead

PARAMS = cases.normal(SHAPES, jnp.float32, 0)
ADAMW = optadamw.adamw(0.1)
CASES = {
    "b3": (optadamw.adamw(0.1, b3=0.99), "mu_slow"),
    "a rule of the user": (
        optadamw.chain(
            *(optadamw.scale_by_adam(), optadamw.scale_by_learning_rate(0.1)),
            lookahead(2, 0.5),
        ),
        "slow",
    ),
    "trace around": (optax.chain(optax.trace(0.9), ADAMW), "around"),
    "MultiSteps": (optax.MultiSteps(ADAMW, 2).gradient_transformation(), "around"),
}


def saved(tmp_path, tx):
    """Save a state after three calls, and return the words of the command."""
    state = tx.init(PARAMS)
    for _ in range(3):
        state = jax.jit(tx.update)(PARAMS, state, PARAMS)[1]
    checkpoint.save(tmp_path / "own.npz", tx, state, PARAMS)
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    words = ("optadamw", tmp_path / "own.npz", "--to-names", tmp_path / "names.json")
    return state, (*words, "--learning-rate", 0.1, "--out", tmp_path / "out.npz")


@pytest.mark.parametrize(("tx", "lost"), CASES.values(), ids=CASES)
def test_a_buffer_without_a_place_is_lost_only_if_it_is_dropped(
    tx, lost, tmp_path, capsys
):
    state, words = saved(tmp_path, tx)
    assert convert(*words, "--to", "torch") == 1
    assert f"Lose it with --drop {lost}." in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
    assert convert(*words, "--to", "torch", "--drop", lost) == 0
    found = interchange.from_torch(
        files.read(tmp_path / "out.npz"), PARAMS, names=NAMES
    )
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optadamw.State))
    (own,) = (node for node in nodes if isinstance(node, optadamw.State))
    trees.assert_same_bits((found.mu, found.nu), (own.mu, own.nu))
    assert int(found.step) == int(own.step)


def test_a_name_that_the_checkpoint_does_not_hold_is_not_dropped(tmp_path, capsys):
    _, words = saved(tmp_path, ADAMW)
    for name in ("around", "nu_max", "step", "mu_slow", "mu"):
        assert convert(*words, "--to", "torch", "--drop", name) == 1
        error = capsys.readouterr().err
        assert f"`--drop` must be left out: there is nothing; got '{name}'" in error
    _, words = saved(tmp_path, optadamw.adamw(0.1, ema_decay=0.9, amsgrad="raw"))
    assert convert(*words, "--to", "torch", "--drop", "mu") == 1
    assert "`--drop` must be one of nu_max, ema; got 'mu'" in capsys.readouterr().err


KINDS = {
    "maximize": ({"maximize": True}, "the mean of the negated gradients"),
    "amsgrad": ({"amsgrad": "corrected"}, "the maximum of the corrected"),
}


@pytest.mark.parametrize("target", ["torch", "optax"])
@pytest.mark.parametrize(("own", "kind"), KINDS.values(), ids=KINDS)
def test_groups_whose_buffers_differ_in_kind_are_refused(
    own, kind, target, tmp_path, capsys
):
    base = {"amsgrad": "raw"} if "amsgrad" in own else {}
    tx = optadamw.adamw(0.1, **base, groups={"b/*": own})
    _, words = saved(tmp_path, tx)
    if target == "optax":
        words = (*words[:2], *words[-2:])
    assert convert(*words, "--to", target) == 1
    error = capsys.readouterr().err
    assert "keep different numbers in" in error and kind in error


def test_a_window_that_is_summed_is_not_written_as_one_that_is_averaged(
    tmp_path, capsys
):
    tx = optadamw.multi_steps(ADAMW, 4, use_grad_mean=False)
    state, words = saved(tmp_path, tx)
    assert convert(*words, "--to", "keras") == 1
    assert "takes the sum of the 3 gradients" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the sum of the 3 gradients"):
        interchange.to_keras(state, PARAMS, tx=tx)
    into = optax.MultiSteps(optax.adamw(0.1), 4).gradient_transformation()
    with pytest.raises(ValueError, match="the sum of the 3 gradients"):
        interchange.to_optax(state, PARAMS, tx=tx, into=into)
    found = interchange.to_optax(state, PARAMS, tx=tx, into=into, use_grad_mean=False)
    trees.assert_same_bits(found.acc_grads["scale"], state.accumulator["scale"])


@pytest.mark.parametrize("target", ["torch", "keras", "tensorflow"])
def test_a_state_without_a_first_moment_is_refused(target, tmp_path, capsys):
    _, words = saved(tmp_path, optadamw.schedule_free_adamw(0.1))
    if target == "tensorflow":
        words = tuple(w for w in words if w not in ("--learning-rate", 0.1))
    dropped = ("--drop", "z", "--drop", "ema")
    assert convert(*words, "--to", target, *dropped) == 1
    assert "`state` holds no `mu`" in capsys.readouterr().err
    assert np.load(tmp_path / "own.npz")["z/scale"].size


def test_a_frozen_parameter_has_moments_of_zeros(tmp_path, capsys):
    tx = optadamw.adamw(0.1, groups={"b/*": {"freeze": True}})
    state, words = saved(tmp_path, tx)
    assert state.mu["b/kernel"] is None
    assert convert(*words, "--to", "torch") == 0
    output = capsys.readouterr().out
    assert "note: frozen in FROM, and with moments of zeros in TO: 'b/ke" in output
    assert "mu    2 arrays" in output
    found = interchange.from_torch(
        files.read(tmp_path / "out.npz"), PARAMS, names=NAMES
    )
    trees.assert_same_bits(found.mu["a/kernel"], state.mu["a/kernel"])
    assert not np.any(found.mu["b/kernel"])
    more = cases.normal(SHAPES | {"c": (2,)}, jnp.float32, 0)
    np.savez(tmp_path / "more.npz", **more)
    out = ("--params", tmp_path / "more.npz", "--to", "torch", "--force")
    assert convert(*words, *out) == 1
    assert "'c' is in the parameters only" in capsys.readouterr().err


def test_parameters_of_16_bits_beside_some_of_float32(tmp_path, capsys):
    """Norms and biases are kept in float32, and then they have no residual."""
    params = PARAMS | {"a/kernel": PARAMS["a/kernel"].astype(jnp.bfloat16)}
    tx = optadamw.adamw(0.1, precision="mixed", groups={"scale": {"freeze": True}})
    state = tx.init(params)
    moments = {k: m if m is None else params[k] for k, m in state.mu.items()}
    state = state._replace(mu=jax.tree.map(lambda x: x.astype(jnp.float32), moments))
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    words = ("optadamw", tmp_path / "own.npz", "--to-names", tmp_path / "names.json")
    words += ("--to", "torch", "--learning-rate", 0.1, "--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    assert "Lose it with --drop residual." in capsys.readouterr().err
    assert convert(*words, "--drop", "residual") == 0, capsys.readouterr().err
    found = interchange.from_torch(
        files.read(tmp_path / "out.npz"), params, names=NAMES
    )
    for path in ("a/kernel", "b/kernel"):
        trees.assert_same_bits(found.mu[path], state.mu[path])


def test_a_maximum_of_8_bits_is_dropped_with_its_scales(tmp_path, capsys):
    big = {"a": jnp.ones((64, 64), jnp.bfloat16)}
    tx = optadamw.adamw(0.1, precision="compact", amsgrad="corrected")
    state = tx.init(big)
    assert state.nu_max_scales["a"] is not None
    checkpoint.save(tmp_path / "own.npz", tx, state, big)
    words = ("optadamw", tmp_path / "own.npz", "--to", "torch", "--drop", "nu_max")
    words += ("--learning-rate", 0.1, "--out", tmp_path / "out.npz")
    assert convert(*words) == 0, capsys.readouterr().err
    assert "nu_max" not in capsys.readouterr().out


def test_the_average_of_a_frozen_parameter_is_the_parameter(tmp_path, capsys):
    """Keras writes the averages into the model at the end of `fit`."""
    tx = optadamw.adamw(0.1, groups={"b/*": {"freeze": True}}, ema_decay=0.9)
    state, words = saved(tmp_path, tx)
    assert convert(*words, "--to", "keras") == 0, capsys.readouterr().err
    found = interchange.from_keras(
        files.read(tmp_path / "out.npz"), PARAMS, names=NAMES, use_ema=True
    )
    trees.assert_same_bits(found.ema["b/kernel"], PARAMS["b/kernel"])
    trees.assert_same_bits(found.ema["a/kernel"], state.ema["a/kernel"])
    shapes = jax.eval_shape(lambda: PARAMS)
    with pytest.raises(ValueError, match=r"Leaf 'b/kernel': it is frozen, so that"):
        interchange.to_keras(state, shapes, tx=tx, names=NAMES)


def test_a_checkpoint_is_not_converted_to_itself(tmp_path, capsys):
    """Averages, hyperparameters and their meaning would be lost on the way."""
    _, words = saved(tmp_path, ADAMW)
    words = ("optadamw", words[1], "--out", tmp_path / "out.npz", "--to", "optadamw")
    assert convert(*words) == 1
    assert "is one already: copy the file" in capsys.readouterr().err


def test_names_of_files_in_capitals(tmp_path, capsys):
    _, words = saved(tmp_path, ADAMW)
    (tmp_path / "own.npz").rename(tmp_path / "OWN.NPZ")
    words = ("optadamw", tmp_path / "OWN.NPZ", "--learning-rate", 0.1)
    out = ("--to", "mlx", "--out", tmp_path / "mlx.npz")
    assert convert(*words, *out) == 0, capsys.readouterr().err
    words = ("mlx", tmp_path / "mlx.npz", "--params", tmp_path / "OWN.NPZ")
    out = ("--to", "optadamw", "--out", tmp_path / "AGAIN.NPZ")
    assert convert(*words, *out) == 0, capsys.readouterr().err
    assert checkpoint.load(tmp_path / "AGAIN.NPZ").steps == {"": 3}


def test_only_checkpoints_of_orbax_are_replaced_as_folders(
    tmp_path, capsys, monkeypatch
):
    """Orbax removes the folder that it replaces, with all that is in it."""
    _, words = saved(tmp_path, ADAMW)
    words = (*words[:2], "--to", "optax", "--force", "--out")
    out = tmp_path / "out"
    (out / "inside").mkdir(parents=True)
    (out / "inside" / "mine.txt").write_text("mine")
    assert convert(*words, out) == 2
    assert "it holds 'inside', which would be removed" in capsys.readouterr().err
    (out / "_METADATA").touch()  # nor beside a checkpoint
    assert convert(*words, out) == 2
    assert (out / "inside" / "mine.txt").read_text() == "mine"
    for _ in range(2):  # a new folder, and the checkpoint in it
        assert convert(*words, tmp_path / "new") == 0, capsys.readouterr().err
    (tmp_path / "step.100").mkdir()  # empty
    assert convert(*words, tmp_path / "step.100") == 0, capsys.readouterr().err
    (tmp_path / "link").symlink_to(tmp_path / "new")
    assert convert(*words, tmp_path / "link") == 2
    assert "is a link. Name the folder" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "new")
    for name in (".", tmp_path / "new"):
        assert convert(*words, name) == 2
        assert "holds the working directory" in capsys.readouterr().err
    with pytest.raises(ValueError, match="it holds 'inside'"):
        files.write(out, {"a": np.ones(2)})


@pytest.mark.parametrize("where", ["save", "rename"])
def test_a_folder_that_cannot_be_written_leaves_the_one_before_it(
    where, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    others = tmp_path / f".out.new-{os.getpid()}5"  # of a process that still writes
    others.mkdir()
    files.write(out, {"a": np.ones(2)})
    others.rmdir()

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    if where == "save":
        monkeypatch.setattr(orbax.checkpoint.PyTreeCheckpointer, "save", fail)
    else:
        rename = Path.rename
        monkeypatch.setattr(
            Path,
            "rename",
            lambda old, new: fail() if ".new-" in old.name else rename(old, new),
        )
    with pytest.raises(OSError, match="no space"):
        files.write(out, {"a": np.zeros(2)})
    monkeypatch.undo()
    np.testing.assert_array_equal(files.read(out)["a"], np.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    files.write(out, {"a": np.zeros(2)})
    np.testing.assert_array_equal(files.read(out)["a"], np.zeros(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_window_that_is_not_of_this_length(tmp_path, capsys):
    tx = optadamw.adamw(0.1, accumulate_steps=4)
    state, words = saved(tmp_path, tx)
    assert convert(*words, "--to", "keras", "--accumulate", 2) == 1
    assert "was saved with accumulate_steps=4" in capsys.readouterr().err
    assert convert(*words, "--to", "keras", "--accumulate", 4) == 0
    other = optadamw.adamw(0.1, accumulate_steps=2)
    with pytest.raises(ValueError, match="has 3 gradients, and one of `tx` holds 2"):
        interchange.to_keras(state, PARAMS, tx=other)


def test_orbax_restores_a_folder_into_the_state_of_optax(tmp_path, capsys):
    """Its trees are nested as those of the model, whose paths the checkpoint has."""
    tree = {"a": {"kernel": jnp.ones((4, 3))}, "b": [jnp.ones(3), jnp.ones(2)]}
    state = jax.jit(ADAMW.update)(tree, ADAMW.init(tree), tree)[1]
    checkpoint.save(tmp_path / "own.npz", ADAMW, state, tree)
    out = ("--to", "optax", "--out", tmp_path / "folder")
    assert convert("optadamw", tmp_path / "own.npz", *out) == 0, capsys.readouterr().err
    like = optax.adamw(0.1).init(tree)
    with orbax.checkpoint.StandardCheckpointer() as keeper:
        found = keeper.restore(tmp_path / "folder", like)
    trees.assert_same_bits(found[0].mu, state.mu)
    assert int(found[0].count) == 1


TREES = {
    "one array": jnp.ones((2, 3)),
    "a list": [{"w": jnp.ones((2, 3))}, {"w": jnp.ones(3)}],
    "lists inside": {"a": [jnp.ones(2)] * 2, "b": None, "c": ({}, jnp.ones(2))},
}


@pytest.mark.parametrize("params", TREES.values(), ids=TREES)
def test_parameters_of_every_structure(params, tmp_path, capsys):
    """A checkpoint of them, and folders of Orbax with them and with Optax's state."""
    checkpoint.save(tmp_path / "own.npz", ADAMW, ADAMW.init(params), params)
    out = ("--to", "optax", "--out", tmp_path / "folder")
    words = ("optadamw", tmp_path / "own.npz")
    assert convert(*words, *out) == 0, capsys.readouterr().err
    tree = {"w": params} if isinstance(params, jax.Array) else params
    with orbax.checkpoint.PyTreeCheckpointer() as keeper:
        keeper.save(tmp_path / "params", tree)
        keeper.save(tmp_path / "state", optax.adam(0.1).init(tree))
    words = ("optax", tmp_path / "state", "--params", tmp_path / "params")
    out = ("--to", "optadamw", "--out", tmp_path / "back.npz")
    assert convert(*words, *out) == 0, capsys.readouterr().err
    back = checkpoint.load(tmp_path / "back.npz")
    found, _ = checkpoint.restore(ADAMW, tree, back)
    trees.assert_same_bits(found, ADAMW.init(tree))
    trees.assert_same_bits(checkpoint.params_of(back, tree), tree)
