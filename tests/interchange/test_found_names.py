"""Names, orders and learning rates that `optadamw convert` finds in the files."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optadamw import interchange
from optadamw.dialects.files import files
from optadamw.dialects.files.models import model_of, trained
from optadamw.dialects.files.opening import read_params
from optadamw.dialects.optax.records import numbers_in
from optadamw.dialects.states.rates import (
    rate_by_key,
    rate_of_variables,
)
from tests.interchange import cases
from tests.interchange.files import (
    convert,
    needs_torch,
    prepared,
    state_dict,
    torch,
    written,
)

ROOT = Path(__file__).parents[2]
SHAPES = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (4,), "2.weight": (2, 4)}


def arrays(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


# --- What a file tells ---------------------------------------------------------------

BUFFERS = {"1.running_mean": (4,), "1.running_var": (4,), "1.num_batches_tracked": ()}
MODEL = arrays(SHAPES | BUFFERS)
MODEL |= {"1.mask": np.tri(4, dtype=bool), "position_ids": np.arange(4)}


@pytest.mark.parametrize(
    "contents",
    [
        MODEL,
        {"model": MODEL, "optimizer": state_dict(SHAPES.values()), "epoch": 3},
        {"state_dict": MODEL, "ema": MODEL, "optimizer": {}},
        {"net": MODEL, "optimizer": state_dict(SHAPES.values())},
        {"model": MODEL | {"_extra_state": {"seen": 3}}},
        {"model": MODEL | {"1._extra_state": np.zeros(3, np.uint8)}},
    ],
    ids=["alone", "model", "state_dict", "the only one", "extra", "extra array"],
)
def test_the_model_in_a_file_of_pytorch_without_its_buffers(contents):
    found = trained(model_of(contents))
    assert list(found) == list(SHAPES)
    np.testing.assert_array_equal(found["0.weight"], MODEL["0.weight"])


@pytest.mark.parametrize(
    "contents",
    [state_dict(SHAPES.values()), {"a": MODEL, "b": MODEL}, {}, [MODEL], {"n": 3}],
    ids=["state dict", "two models", "empty", "list", "numbers"],
)
def test_a_file_without_one_model_has_none(contents):
    assert model_of(contents) == {}


def test_a_checkpoint_with_masks_and_positions_is_converted(tmp_path, capsys):
    written(tmp_path / "params.safetensors", MODEL)
    path = tmp_path / "in.npz"
    files.write(path, state_dict(SHAPES.values()))
    shared = ("torch", path, "--to", "optadamw", "--out", tmp_path / "out.npz")
    named = ("--params", tmp_path / "params.safetensors")
    assert convert(*shared, *named) == 1
    assert "its parameters in an order" in capsys.readouterr().err
    names = tmp_path / "names.json"
    names.write_text(json.dumps(list(SHAPES)))
    assert convert(*shared, *named, "--names", names) == 0
    assert set(read_params(tmp_path / "params.safetensors")) == set(SHAPES)


def test_an_order_of_more_parameters_than_were_trained_tells_why(tmp_path, capsys):
    path = tmp_path / "in.npz"
    files.write(path, state_dict(SHAPES.values()))
    more = arrays(SHAPES | {"frozen": (2,)})
    named = ("--params", written(tmp_path / "params.safetensors", more))
    shared = ("torch", path, "--to", "optadamw", "--out", tmp_path / "out.npz")
    assert convert(*shared, *named) == 1
    error = capsys.readouterr().err
    assert "It has 4 parameters and the file of parameters 5" in error
    names = tmp_path / "names.json"
    names.write_text(json.dumps(list(SHAPES)))
    assert convert(*shared, *named, "--names", names) == 1
    assert "leave it out of the parameters if it is not trained" in (
        capsys.readouterr().err
    )
    zeros = ("--missing", "zeros")
    assert convert(*shared, *named, "--names", names, *zeros) == 0


def test_parameters_of_a_file_are_without_running_statistics(tmp_path):
    path = written(tmp_path / "model.safetensors", MODEL)
    assert set(read_params(path)) == set(SHAPES)


# --- Conversions ---------------------------------------------------------------------


def test_distinct_shapes_tell_the_order(tmp_path, capsys):
    shapes = {"b.weight": (4, 3), "a.weight": (2, 4), "c.bias": (2,)}
    written(tmp_path / "model.safetensors", dict(sorted(arrays(shapes).items())))
    files.write(tmp_path / "optimizer.npz", state_dict(shapes.values()))
    arguments = ("torch", tmp_path / "optimizer.npz", "--to", "keras")
    out = ("--out", tmp_path / "out.npz")
    params = ("--params", tmp_path / "model.safetensors")
    assert convert(*arguments, *out, *params) == 0
    assert "by their shapes, no two of which are equal" in capsys.readouterr().out
    found = np.load(tmp_path / "out.npz")
    assert [found[str(i)].shape for i in (2, 4, 6)] == list(shapes.values())
    assert float(found["1"]) == np.float32(0.003)  # the learning rate


def test_two_parameters_of_one_shape_are_not_guessed(tmp_path, capsys):
    written(tmp_path / "model.safetensors", MODEL)
    files.write(tmp_path / "optimizer.npz", state_dict(SHAPES.values()))
    status = convert(
        *("torch", tmp_path / "optimizer.npz", "--to", "keras"),
        *("--out", tmp_path / "out.npz", "--params", tmp_path / "model.safetensors"),
    )
    error = capsys.readouterr().err
    assert status == 1 and error.count("\n") == 1
    assert "`--names FILE.json`" in error and "give the file with `--params`" in error
    assert not (tmp_path / "out.npz").exists()


def test_names_in_a_state_dict_give_the_order_of_the_target(tmp_path, capsys):
    written(tmp_path / "model.safetensors", MODEL)
    saved = state_dict(SHAPES.values(), names=list(SHAPES))
    files.write(tmp_path / "optimizer.npz", saved)
    status = convert(
        *("torch", tmp_path / "optimizer.npz", "--to", "keras"),
        *("--out", tmp_path / "out.npz", "--params", tmp_path / "model.safetensors"),
    )
    output = capsys.readouterr()
    assert status == 0, output.err
    assert "by the names in the saved state" in output.out
    found = np.load(tmp_path / "out.npz")
    assert [found[str(i)].flat[0] for i in (2, 4, 6, 8)] == [1, 2, 3, 4]


@pytest.mark.parametrize("side", ["model", "state"])
def test_names_with_a_prefix_give_the_order_of_the_target(side, tmp_path, capsys):
    """Lightning's AdamW(self.net.named_parameters()), and DDP."""
    names = list(SHAPES)[::-1]
    own = [f"module.{n}" for n in names] if side == "state" else names
    saved = state_dict([SHAPES[n] for n in names], names=own)
    files.write(tmp_path / "optimizer.npz", saved)
    prefix = "net." if side == "model" else ""
    model = {f"{prefix}{name}": MODEL[name] for name in SHAPES}
    written(tmp_path / "model.safetensors", model)
    words = ("torch", tmp_path / "optimizer.npz", "--out", tmp_path / "out.npz")
    words += ("--params", tmp_path / "model.safetensors", "--force")
    assert convert(*words, "--to", "torch") == 0, capsys.readouterr().err
    moments = files.read(tmp_path / "out.npz")["state"]
    assert [moments[i]["exp_avg"].flat[0] for i in range(4)] == [1, 2, 3, 4]
    assert convert(*words, "--to", "keras") == 0, capsys.readouterr().err
    assert "by the names in the saved state" in capsys.readouterr().out
    found = np.load(tmp_path / "out.npz")
    assert [found[str(i)].shape for i in (2, 4, 6, 8)] == [SHAPES[n] for n in names]
    assert [found[str(i)].flat[0] for i in (2, 4, 6, 8)] == [1, 2, 3, 4]


def test_the_names_of_a_state_that_torch_distributed_gathered_are_its_keys(
    tmp_path, capsys
):
    """The order of such a state is that of the optimizer and not of the model."""
    order = ["c.weight", "a.weight", "b.weight"]
    saved = state_dict([(3, 3)] * 3)
    saved["state"] = {order[i]: entries for i, entries in saved["state"].items()}
    (group,) = saved["param_groups"]
    split = [{**group, "params": order[:1]}, {**group, "params": order[1:]}]
    model = arrays({name: (3, 3) for name in sorted(order)})
    written(tmp_path / "model.safetensors", model)
    for groups in ([{**group, "params": order}], split):
        files.write(tmp_path / "optimizer.npz", {**saved, "param_groups": groups})
        status = convert(
            *("torch", tmp_path / "optimizer.npz", "--to", "optadamw", "--force"),
            *("--out", tmp_path / "out.npz"),
            *("--params", tmp_path / "model.safetensors"),
        )
        assert status == 0, capsys.readouterr().err
        found = np.load(tmp_path / "out.npz")
        assert [found[f"mu/{name}"].flat[0] for name in order] == [1, 2, 3]


@pytest.mark.parametrize("names", [["1", "0"], ["1", "2"], ["a", "b"]], ids=str)
def test_names_that_are_digits_are_names(names, tmp_path, capsys):
    """torch.nn.ParameterList calls its parameters "0", "1" and so on."""
    written(tmp_path / "model.safetensors", arrays({"1": (3,), "0": (3,)}))
    files.write(tmp_path / "optimizer.npz", state_dict([(3,)] * 2, names=names))
    status = convert(
        *("torch", tmp_path / "optimizer.npz", "--to", "optadamw"),
        *("--out", tmp_path / "out.npz", "--params", tmp_path / "model.safetensors"),
    )
    error = capsys.readouterr().err
    if names != ["1", "0"]:
        assert status == 1 and "Say which is which" in error
        return
    assert status == 0, error
    found = np.load(tmp_path / "out.npz")
    assert [found[f"mu/{name}"].flat[0] for name in names] == [1, 2]


def test_names_that_are_no_names_are_refused(tmp_path, capsys):
    written(tmp_path / "model.safetensors", MODEL)
    saved = state_dict(SHAPES.values(), names=[0, 1, 2, 3])
    files.write(tmp_path / "optimizer.npz", saved)
    status = convert(
        *("torch", tmp_path / "optimizer.npz", "--to", "optadamw"),
        *("--out", tmp_path / "out.npz", "--params", tmp_path / "model.safetensors"),
        *("--names", written_names(tmp_path)),
    )
    error = capsys.readouterr().err
    assert status == 1 and error.count("\n") == 1
    assert "holds 0, which is no name. The file is damaged." in error


def written_names(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(list(SHAPES)))
    return path


def test_without_parameters_the_error_says_what_is_needed(tmp_path, capsys):
    files.write(tmp_path / "optimizer.npz", state_dict(SHAPES.values()))
    status = convert(
        *("torch", tmp_path / "optimizer.npz", "--to", "keras"),
        *("--out", tmp_path / "out.npz"),
    )
    error = capsys.readouterr().err
    assert status == 1 and "`--params` must be given" in error


def test_the_numbers_of_a_group_without_parameters_are_those_of_none(tmp_path, capsys):
    """Trainers make a group without weight decay also for a model without biases."""
    written(tmp_path / "model.safetensors", MODEL)
    saved = state_dict(SHAPES.values(), groups=2)
    empty = {"lr": 0.5, "betas": (0.1, 0.2), "caution": True, "params": []}
    saved["param_groups"].insert(1, empty)
    files.write(tmp_path / "optimizer.npz", saved)
    words = ("torch", tmp_path / "optimizer.npz", "--out", tmp_path / "out.npz")
    words += ("--params", tmp_path / "model.safetensors", "--force")
    assert convert(*words, "--to", "timm") == 1
    assert "its 2 groups, of 2 and 2 parameters, are" in capsys.readouterr().err
    words += ("--names", written_names(tmp_path))
    for target in ("timm", "keras"):
        assert convert(*words, "--to", target) == 0, capsys.readouterr().err
    assert float(np.load(tmp_path / "out.npz")["1"]) == np.float32(0.003)


def checkpoint_of(tmp_path, groups=1, last=()):
    """A checkpoint as scripts of PyTorch write it."""
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 2)
    )
    parts = np.array_split(np.arange(6), groups)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [*({"params": [parameters[i] for i in part]} for part in parts), *last],
        lr=0.003,
    )
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 5)).square().mean().backward()
        optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved | {"epoch": 3}, tmp_path / "checkpoint.pt")
    moments = {
        name: optimizer.state[p]["exp_avg"].numpy()
        for name, p in model.named_parameters()
    }
    return model, moments


@needs_torch
@pytest.mark.parametrize("name", ["run.pt", "step=3.ckpt", "run.pth.tar", "run.bin"])
def test_a_checkpoint_of_pytorch_needs_no_more(name, tmp_path, capsys):
    model, moments = checkpoint_of(tmp_path)
    (tmp_path / "checkpoint.pt").rename(tmp_path / name)
    status = convert(
        *("torch", tmp_path / name, "--to", "optadamw"),
        *("--out", tmp_path / "ours.npz"),
    )
    output = capsys.readouterr()
    assert status == 0, output.err
    assert f"the model in '{tmp_path / name}'" in output.out
    found = np.load(tmp_path / "ours.npz")
    assert {name for name in found if name.startswith("mu/")} == {
        f"mu/{name}" for name in moments
    }
    for name, moment in moments.items():
        np.testing.assert_array_equal(found[f"mu/{name}"], moment)
    # And back, in the order of a file with the model alone.
    torch.save(model.state_dict(), tmp_path / "model.pt")
    status = convert(
        *("optadamw", tmp_path / "ours.npz", "--to", "torch"),
        *("--params", tmp_path / "model.pt", "--out", tmp_path / "back.pt"),
        *("--learning-rate", 0.003),
    )
    assert status == 0, capsys.readouterr().err
    back = torch.load(tmp_path / "back.pt")
    for i, moment in enumerate(moments.values()):
        np.testing.assert_array_equal(back["state"][i]["exp_avg"].numpy(), moment)


@needs_torch
def test_a_group_without_parameters_leaves_the_order_of_the_model(tmp_path, capsys):
    empty = {"params": [], "weight_decay": 0.0}
    _, moments = checkpoint_of(tmp_path, last=[empty])
    status = convert(
        *("torch", tmp_path / "checkpoint.pt", "--to", "timm"),
        *("--out", tmp_path / "out.npz"),
    )
    assert status == 0, capsys.readouterr().err
    found = files.read(tmp_path / "out.npz")["state"]
    for i, moment in enumerate(moments.values()):
        np.testing.assert_array_equal(found[i]["exp_avg"], moment)


@needs_torch
def test_the_order_of_several_groups_is_not_guessed(tmp_path, capsys):
    checkpoint_of(tmp_path, groups=2)
    status = convert(
        *("torch", tmp_path / "checkpoint.pt", "--to", "optadamw"),
        *("--out", tmp_path / "ours.npz"),
    )
    told = capsys.readouterr().err
    assert status == 1 and "`--names FILE.json`" in told
    assert "its 2 groups, of 3 and 3 parameters, are one after another" in told


@needs_torch
def test_the_commands_of_the_page_run_as_written(tmp_path):
    """Each line of docs/guides/interchange.md, on the files that it names."""
    checkpoint_of(tmp_path)
    page = (ROOT / "docs" / "guides" / "interchange.md").read_text()
    (block,) = re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)
    lines = [line for line in block.splitlines() if line.startswith("optadamw ")]
    assert len(lines) >= 2
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, line + done.stderr
    assert {"optimizer.npz", "state.npz"} <= {path.name for path in tmp_path.iterdir()}


# --- The learning rate ---------------------------------------------------------------


def test_the_rate_of_a_format_that_has_one():
    tx, params, state = cases.adamw(), {"a": jnp.ones(2), "b": jnp.ones(3)}, None
    state = tx.init(params)
    held = {"learning_rate": 0.25}
    variables = interchange.to_keras(state, params, tx=tx, names=["a", "b"], **held)
    quarter = {"learning_rate": 0.25}
    assert rate_of_variables(variables, 2) == quarter
    scheduled = interchange.to_keras(
        state, params, tx=tx, names=["a", "b"], learning_rate="schedule"
    )
    assert rate_of_variables(scheduled, 2) == {}
    named = {"adam_w/iteration": np.int32(1), "adam_w/learning_rate": np.float32(0.5)}
    assert rate_of_variables(named, 1) == {"learning_rate": 0.5}
    head = [np.int32(0), np.float32(0), np.int32(2), np.float32(8)]
    assert rate_of_variables([*head, *variables.values()], 2) == quarter
    saved = interchange.to_mlx(state, params, tx=tx, **held)
    assert rate_by_key(saved, 2) == quarter
    injected = optax.inject_hyperparams(optax.adamw)(0.25).init(params)
    found = numbers_in((injected, optax.EmptyState()), 2)
    assert found["learning_rate"] == 0.25 and found["eps"] == np.float32(1e-8)
    assert numbers_in(optax.adamw(0.25).init(params), 2) == {}


@pytest.mark.parametrize("source", ["keras", "mlx"])
def test_the_rate_is_kept(source, tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    names = {"names": ["scale", "b/kernel", "a/kernel"]} if source == "keras" else {}
    saved = cases.PEERS[source].to(state, params, tx=tx, learning_rate=0.75, **names)
    files.write(tmp_path / "in.npz", saved)
    status = convert(
        *(source, tmp_path / "in.npz", "--to", "torch"),
        *("--out", tmp_path / "out.npz", "--params", tmp_path / "params.safetensors"),
        *(("--names", tmp_path / "names.json") if names else ()),
        *("--to-names", tmp_path / "names.json"),
    )
    assert status == 0, capsys.readouterr().err
    assert files.read(tmp_path / "out.npz")["param_groups"][0]["lr"] == 0.75


def test_float64_that_is_rounded_is_told(tmp_path, capsys):
    params = {"w": np.ones(3)}
    np.savez(tmp_path / "p.npz", **params)
    saved = state_dict([(3,)])
    for entries in saved["state"].values():
        entries |= {k: np.asarray(v, np.float64) for k, v in entries.items()}
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--params", tmp_path / "p.npz")
    assert convert(*words, "--to", "optadamw", "--out", tmp_path / "out.npz") == 0
    assert "float64 in FROM was rounded to float32" in capsys.readouterr().out
