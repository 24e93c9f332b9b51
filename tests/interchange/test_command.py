"""`optadamw convert`: from every library to every other."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint, interchange
from optadamw.dialects.files import files
from tests.interchange import cases
from tests.interchange.files import (
    NAMES,
    PARAMS,
    convert,
    needs_torch,
    prepared,
    torch,
    written,
)
from tests.support import trees

WITH_BETAS = ("torch", "timm", "optimi", "torchao", "bitsandbytes")


def options_for(name: str) -> dict[str, Any]:
    is_ordered = name not in ("mlx", "optax", "flux")
    return {"names": NAMES} if is_ordered else {}


@pytest.mark.parametrize("target", cases.PEERS)
@pytest.mark.parametrize("source", cases.PEERS)
def test_from_every_library_to_every_other(source, target, tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = cases.PEERS[source].to(state, params, tx=tx, **options_for(source))
    files.write(tmp_path / "in.npz", saved)
    numbers: tuple[Any, ...] = ()
    if target not in ("tensorflow", "tensorflow_addons", "optax", "flux"):
        numbers += ("--learning-rate", cases.RATE)
    if "flux" in (source, target) or target in WITH_BETAS:
        numbers += ("--b1", cases.B1, "--b2", cases.B2)
    status = convert(
        source,
        tmp_path / "in.npz",
        *("--to", target.replace("_", "-"), "--out", tmp_path / "out.safetensors"),
        *("--params", tmp_path / "params.safetensors"),
        *(("--names", tmp_path / "names.json") if options_for(source) else ()),
        *(("--to-names", tmp_path / "names.json") if options_for(target) else ()),
        *numbers,
    )
    output = capsys.readouterr()
    assert status == 0, output.err
    assert "step" in output.out
    found = cases.PEERS[target].back(
        files.read(tmp_path / "out.safetensors"), params, tx=tx, **options_for(target)
    )
    if cases.PEERS[source].is_exact and cases.PEERS[target].is_exact:
        trees.assert_same_bits(found, state)
    else:
        for field in ("mu", "nu"):
            pair = (
                cases.leaves(getattr(found, field)),
                cases.leaves(getattr(state, field)),
            )
            assert cases.ulps(*pair) <= 2
        assert int(found.step) == 3


@pytest.mark.parametrize("target", ["torch", "keras"])
def test_to_our_checkpoint_and_from_it(target, tmp_path, capsys):
    tx, params, state = prepared(tmp_path, amsgrad=True)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    shared = ("--params", tmp_path / "params.safetensors")
    names = ("--names", tmp_path / "names.json")
    out = ("--to", "optadamw", "--out", tmp_path / "ours.npz")
    assert convert("torch", tmp_path / "in.npz", *out, *shared, *names) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:3] == [
        "torch -> optadamw",
        "  step           3",
        "  mu      3 arrays  100 bytes",
    ]
    saved = checkpoint.load(tmp_path / "ours.npz")
    nested = {"a": {"kernel": params["a/kernel"]}, "b": {"kernel": params["b/kernel"]}}
    nested["scale"] = params["scale"]
    restored, _ = checkpoint.restore(tx, nested, saved, expect_step=3)
    np.testing.assert_array_equal(restored.mu["a"]["kernel"], state.mu["a/kernel"])
    trees.assert_same_bits(checkpoint.params_of(saved, nested), nested)
    corrected = cases.adamw(amsgrad="corrected")
    with pytest.raises(ValueError, match="nu_max"):
        checkpoint.restore(corrected, nested, saved)
    ascending = cases.adamw(amsgrad=True, maximize=True)
    with pytest.raises(ValueError, match="`mu` was saved as"):
        checkpoint.restore(ascending, nested, saved)

    checkpoint.save(tmp_path / "own.npz", tx, restored, nested)
    for name in ("ours", "own"):
        status = convert(
            *("optadamw", tmp_path / f"{name}.npz", "--to", target),
            *("--out", tmp_path / f"{name}-out.npz", "--params", tmp_path / "own.npz"),
            *("--to-names", tmp_path / "names.json", "--learning-rate", 0.5),
        )
        assert status == 0, capsys.readouterr().err
        back = cases.PEERS[target].back(
            files.read(tmp_path / f"{name}-out.npz"), params, tx=tx, names=NAMES
        )
        trees.assert_same_bits(back, state)


def test_options_that_nobody_stated_are_reported(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    words = ("optadamw", tmp_path / "own.npz", "--to", "torch", "--force")
    words += ("--to-names", tmp_path / "names.json", "--learning-rate", 0.5)
    words += ("--params", tmp_path / "own.npz", "--out", tmp_path / "x.npz")
    assert convert(*words, "--b1", 0.8) == 0
    told = (
        "not known from FROM, so as by default: --b2 0.999, --eps 1e-08, --weight-decay"
    )
    assert told in capsys.readouterr().out
    numbers = ("--b1", 0.8, "--b2", 0.9, "--eps", 1e-6, "--weight-decay", 0.1)
    assert convert(*words, *numbers) == 0
    assert "by default" not in capsys.readouterr().out


def test_our_checkpoint_of_the_other_maximum(tmp_path, capsys):
    tx, params, state = prepared(tmp_path, amsgrad="corrected")
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    shared = ("--params", tmp_path / "own.npz")
    status = convert(
        *("optadamw", tmp_path / "own.npz", "--to", "torch", *shared),
        *("--learning-rate", 0.5),
        *("--out", tmp_path / "x.npz", "--to-names", tmp_path / "names.json"),
    )
    assert status == 1 and "does not tell" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()
    status = convert(
        *("optadamw", tmp_path / "own.npz", "--to", "optax", *shared),
        *("--out", tmp_path / "x.npz"),
    )
    assert status == 0, capsys.readouterr().err
    found = interchange.from_optax(files.read(tmp_path / "x.npz"), params, tx=tx)
    trees.assert_same_bits(found, state)


def test_windows_averages_and_scales_of_keras(tmp_path, capsys):
    scale = optadamw.DynamicLossScale(initial=8.0)
    options = {"accumulate_steps": 2, "ema_decay": 0.5, "loss_scale": scale}
    tx, params, state = prepared(tmp_path, amsgrad=True, **options)
    saved = interchange.to_keras(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    shared = ("--params", tmp_path / "params.safetensors")
    shared += ("--names", tmp_path / "names.json")
    said = ("--amsgrad", "raw", "--use-ema", "--accumulate", 2)
    out = ("--to", "optadamw", "--out", tmp_path / "ours.npz")
    assert convert("keras", tmp_path / "in.npz", *out, *shared) == 1
    assert "say which with --amsgrad raw, --use-ema" in capsys.readouterr().err
    assert convert("keras", tmp_path / "in.npz", *out, *shared, *said) == 0
    assert "micro_step" in capsys.readouterr().out
    saved = checkpoint.load(tmp_path / "ours.npz")
    found, _ = checkpoint.restore(tx, params, saved, partial_window="keep")
    for field in ("step", "micro_step", "weight", "mu", "nu_max", "ema", "loss_scale"):
        trees.assert_same_bits(getattr(found, field), getattr(state, field))
    out = (
        "--to",
        "keras",
        "--out",
        tmp_path / "again.npz",
        "--learning-rate",
        cases.RATE,
    )
    again = ("optadamw", tmp_path / "ours.npz", "--to-names", tmp_path / "names.json")
    assert convert(*again, *out, "--params", tmp_path / "ours.npz") == 0
    pair = files.read(tmp_path / "again.npz"), files.read(tmp_path / "in.npz")
    jax.tree.map(np.testing.assert_array_equal, *pair)


def test_transposed_weights(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)

    def layout(path: str, x: Any) -> Any:
        return x.T if path.endswith("kernel") else x

    saved = interchange.to_torch(state, params, tx=tx, names=NAMES, layout=layout)
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "keras")
    words += ("--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    text = "It is transposed there: turn it with `--transpose`."
    assert text in capsys.readouterr().err
    for option in ("--transpose", "--to-transpose"):
        assert convert(*words, option, "*/kernle") == 1
        error = capsys.readouterr().err
        text = f"`{option}`: '*/kernle' matches no parameter. Near it: 'b/kernel'"
        assert text in error
    assert convert(*words, "--transpose", "*/kernel") == 0
    found = interchange.from_keras(
        files.read(tmp_path / "out.npz"), params, tx=tx, names=NAMES
    )
    trees.assert_same_bits(found, state)
    words = (*words, "--force", "--transpose", "*/kernel", "--to-transpose", "*/kernel")
    assert convert(*words) == 0
    found = interchange.from_keras(
        files.read(tmp_path / "out.npz"), params, tx=tx, names=NAMES, layout=layout
    )
    trees.assert_same_bits(found, state)


def test_what_the_command_refuses(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    files.write(tmp_path / "in.npz", saved)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "three.json").write_text("3")
    (tmp_path / "there.npz").write_bytes(b"mine")
    begin = ("torch", tmp_path / "in.npz", "--to", "mlx")
    shared = ("--params", tmp_path / "params.safetensors")
    names = ("--names", tmp_path / "names.json")
    out = ("--out", tmp_path / "out.npz")
    for words, status, text in (
        ((*shared, *names, "--out", tmp_path / "there.npz"), 2, "exists"),
        ((*shared, *names, "--out", tmp_path / "no" / "x.npz"), 2, "with mkdir -p"),
        ((*shared, *out, "--names", tmp_path / "bad.json"), 2, "is no JSON"),
        ((*shared, *out, "--names", tmp_path / "three.json"), 2, "a list or a mapping"),
        ((*shared, *out, "--names", tmp_path / "gone.json"), 2, "error: There is no"),
        ((*shared, *out, "--names", tmp_path), 2, "cannot be read"),
        ((*shared, *names, *out, "--drop", "emma"), 2, "`--drop` must be one of"),
        ((*shared, *out), 1, "has its parameters in an order"),
        ((*out, *names, "--params", tmp_path / "gone.npz"), 1, "There is no file"),
        ((*out, *names, "--params", tmp_path / "there.npz"), 1, "is no whole .npz"),
        ((*shared, *names, "--out", tmp_path / "out.txt"), 2, "ends in .pt"),
        ((*out,), 1, "the file holds no model"),
    ):
        assert convert(*begin, *words) == status
        error = capsys.readouterr().err
        assert error.startswith("optadamw convert: error: ") and text in error
    (tmp_path / "state.dat").write_bytes(b"mine")
    assert convert("torch", tmp_path / "state.dat", "--to", "mlx", *out) == 1
    error = capsys.readouterr().err
    assert "state.dat' must be a folder, or have a name that ends in .pt" in error
    (tmp_path / "state.pt").write_bytes(b"mine")
    assert convert("optadamw", tmp_path / "state.pt", "--to", "mlx", *shared, *out) == 1
    assert "give that library in the place of optadamw" in capsys.readouterr().err
    assert (tmp_path / "there.npz").read_bytes() == b"mine"
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(SystemExit) as stop:
        convert(*begin, *shared, *out, "--accumulate", "0")
    assert stop.value.code == 2
    assert "must be a whole number >= 1; got '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        convert("torch", "", *begin[2:], *shared, *out)
    assert stop.value.code == 2
    assert "must be a path; got ''." in capsys.readouterr().err
    force = (*begin, *shared, *names, "--out", tmp_path / "there.npz", "--force")
    assert convert(*force) == 0
    # With a schedule Keras keeps no learning rate, and MLX needs one.
    keras = interchange.to_keras(
        state, params, tx=tx, names=NAMES, learning_rate="schedule"
    )
    files.write(tmp_path / "keras.npz", keras)
    assert (
        convert("keras", tmp_path / "keras.npz", *begin[2:], *shared, *names, *out) == 1
    )
    assert "--learning-rate" in capsys.readouterr().err


def test_groups_that_do_not_agree(tmp_path, capsys):
    tx, params, state = prepared(tmp_path, mask="*/kernel")
    saved = interchange.to_torch(state, params, tx=tx)
    files.write(tmp_path / "in.npz", saved)
    (tmp_path / "names.json").write_text(json.dumps(["a/kernel", "b/kernel", "scale"]))
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "optimi")
    words += ("--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    assert "different numbers for `weight_decay`" in capsys.readouterr().err
    assert convert(*words, "--weight-decay", "0.5") == 0
    group = files.read(tmp_path / "out.npz")["param_groups"][0]
    assert group["weight_decay"] == 0.5 and group["lr"] == cases.RATE
    # Files of these hold no weight decay, so nobody has to choose one.
    place = words.index("optimi")
    for target in ("optadamw", "keras"):
        others = (*words[:place], target, *words[place + 1 :], "--force")
        assert convert(*others) == 0
    assert group["beta1"] == cases.B1


def test_what_is_dropped_on_the_way(tmp_path, capsys):
    scale = optadamw.DynamicLossScale(initial=8.0)
    options = {"accumulate_steps": 2, "ema_decay": 0.5, "loss_scale": scale}
    tx, params, state = prepared(tmp_path, amsgrad="corrected", **options)
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    words = ("optadamw", tmp_path / "own.npz", "--params", tmp_path / "own.npz")
    words += ("--to", "torch", "--to-names", tmp_path / "names.json")
    words += ("--learning-rate", 0.5, "--out", tmp_path / "out.npz")
    for name in ("ema", "accumulator", "loss_scale", "nu_max"):
        assert convert(*words) == 1
        assert f"--drop {name}." in capsys.readouterr().err
        assert not (tmp_path / "out.npz").exists()
        words += ("--drop", name)
    assert convert(*words) == 0
    assert "nu_max" not in capsys.readouterr().out
    found = interchange.from_torch(
        files.read(tmp_path / "out.npz"), params, names=NAMES
    )
    trees.assert_same_bits(found.mu, state.mu)
    assert int(found.step) == 1

    plain = cases.adamw()
    saved = interchange.to_optimi(plain.init(params), params, tx=plain, names=NAMES)
    for entries in saved["state"].values():
        entries["kahan_comp"] = np.ones_like(entries["exp_avg"])
    files.write(tmp_path / "optimi.npz", saved)
    words = ("optimi", tmp_path / "optimi.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "own.npz", "--to", "mlx")
    words += ("--out", tmp_path / "mlx.npz")
    assert convert(*words) == 1
    assert "kahan_comp" in capsys.readouterr().err
    assert convert(*words, "--drop", "kahan_comp") == 0


def test_what_a_checkpoint_of_ours_is_not_asked(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    checkpoint.save(tmp_path / "own.npz", tx, state, params)
    words = ("optadamw", tmp_path / "own.npz", "--params", tmp_path / "own.npz")
    words += ("--to", "optax", "--out", tmp_path / "out.npz")
    for option, value in (("--transpose", "*"), ("--key", "x")):
        assert convert(*words, option, value) == 1
        assert f"`{option}`: a checkpoint of optadamw" in capsys.readouterr().err


def test_remedies_are_options(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    shared = ("--params", tmp_path / "params.safetensors", "--to", "optadamw")
    shared += ("--out", tmp_path / "out.npz")
    flux = interchange.to_flux(state, params, tx=tx)
    files.write(tmp_path / "flux.npz", flux)
    assert convert("flux", tmp_path / "flux.npz", *shared) == 1
    assert capsys.readouterr().err.endswith("of its AdamW. Give --b1 and --b2.\n")
    tx, params, state = prepared(tmp_path, amsgrad="corrected")
    files.write(tmp_path / "optax.npz", interchange.to_optax(state, params, tx=tx))
    assert convert("optax", tmp_path / "optax.npz", *shared) == 1
    error = capsys.readouterr().err
    assert "--amsgrad corrected, or leave it behind with --drop nu_max." in error
    fewer = {"names": ["b/kernel", None, "a/kernel"]}
    del params["scale"]
    state = cases.adamw().init(params)
    saved = interchange.to_torch(state, params, tx=cases.adamw(), **fewer)
    files.write(tmp_path / "torch.npz", saved)
    (tmp_path / "names.json").write_text('["b/kernel", "scale", "a/kernel"]')
    names = ("--names", tmp_path / "names.json")
    assert convert("torch", tmp_path / "torch.npz", *shared, *names) == 1
    assert "with --missing zeros." in capsys.readouterr().err


def test_other_states_of_optax_are_dropped_by_path(tmp_path, capsys):
    _, params, _ = prepared(tmp_path)
    saved = optax.chain(optax.trace(0.5), optax.adamw(0.5)).init(params)
    files.write(tmp_path / "in.npz", saved)
    words = ("optax", tmp_path / "in.npz", "--to", "flux")
    words += ("--params", tmp_path / "params.safetensors")
    words += ("--out", tmp_path / "out.npz")
    assert convert(*words) == 1
    assert "behind with --drop 0, if" in capsys.readouterr().err
    assert convert(*words, "--drop", "0") == 0


@pytest.mark.parametrize("source", ["torch", "optimi", "torchao", "bitsandbytes"])
def test_a_state_of_another_kind(source, tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    for saved in (interchange.to_optax(state, params, tx=tx), {"a": np.ones(1)}):
        files.write(tmp_path / "in.npz", saved)
        status = convert(
            *(source, tmp_path / "in.npz", "--to", "mlx"),
            *("--params", tmp_path / "params.safetensors"),
            *("--out", tmp_path / "out.npz"),
        )
        error = capsys.readouterr().err
        assert status == 1 and error.count("\n") == 1
        assert "`saved` must be a" in error


@pytest.mark.parametrize("source", ["torch", "timm", "optimi"])
def test_states_inside_a_checkpoint(source, tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    peer = cases.PEERS[source]
    one = peer.to(state, params, tx=tx, names=NAMES)
    words = (source, tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "optax")
    words += ("--out", tmp_path / "out.npz", "--force")

    def wrote(whole: Any, *more: str) -> str:
        files.write(tmp_path / "in.npz", whole)
        status = convert(*words, *more)
        output = capsys.readouterr()
        assert (status == 0) == (not output.err)
        return output.out + output.err

    usual = {"model": {"w": np.ones(2)}, "optimizer": one, "epoch": 3}
    text = wrote(usual)
    assert "found under 'optimizer', the only state in the file" in text
    found = interchange.from_optax(files.read(tmp_path / "out.npz"), params)
    assert int(found.step) == 3
    assert "found under" not in wrote(usual, "--key", "optimizer")
    text = wrote(usual, "--key", "optimiser")
    assert "holds nothing under 'optimiser'. Near it: 'optimizer'" in text
    text = wrote({"generator": one, "critic": one})
    assert "Say which with --key: generator, critic." in text
    nested = {"optimizer_states": [one, one]}
    assert "step" in wrote(nested, "--key", "optimizer_states/1")
    assert "holds nothing under" in wrote(nested, "--key", "optimizer_states/2")
    assert "--key: optimizer_states/0, optimizer_states/1." in wrote(nested)
    text = wrote({"optimizer_states": [one], "lr_schedulers": [], "epoch": 3})
    assert "found under 'optimizer_states/0', the only state" in text
    assert "`saved` must be a" in wrote({"optimizer_states": []})
    assert "It has no keys" in wrote({"a": np.ones(1)}, "--key", "a/b/c")


def test_adam_with_l2_is_not_converted(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    saved["param_groups"][0]["decoupled_weight_decay"] = False
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "mlx")
    assert convert(*words, "--out", tmp_path / "out.npz") == 1
    assert "It is Adam with L2" in capsys.readouterr().err
    saved = interchange.to_optimi(state, params, tx=tx, names=NAMES)
    saved["param_groups"][0]["decouple_wd"] = False
    files.write(tmp_path / "in.npz", saved)
    assert convert("optimi", *words[1:], "--out", tmp_path / "out.npz") == 1
    assert "decouple_wd=False. It is Adam with L2" in capsys.readouterr().err


def test_groups_of_both_signs_are_not_converted(tmp_path, capsys):
    _, params, _ = prepared(tmp_path)
    up = cases.adamw(maximize=True)
    tx = optadamw.param_groups(cases.adamw(), {"scale": up})
    saved = interchange.to_torch(tx.init(params), params, tx=tx)
    files.write(tmp_path / "in.npz", saved)
    (tmp_path / "names.json").write_text('["a/kernel", "b/kernel", "scale"]')
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "torch")
    assert convert(*words, "--out", tmp_path / "out.npz") == 1
    assert "a file has one sign for all" in capsys.readouterr().err


def test_betas_that_are_no_pair(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    saved = interchange.to_torch(state, params, tx=tx, names=NAMES)
    saved["param_groups"][0]["betas"] = 0.5
    files.write(tmp_path / "in.npz", saved)
    words = ("torch", tmp_path / "in.npz", "--names", tmp_path / "names.json")
    words += ("--params", tmp_path / "params.safetensors", "--to", "mlx")
    assert convert(*words, "--out", tmp_path / "out.npz") == 1
    assert "must be a pair of numbers" in capsys.readouterr().err


@needs_torch
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_records_in_files_of_pytorch(dtype, tmp_path, capsys):
    params = cases.normal(PARAMS, dtype, 0)
    tx = cases.adamw()
    params, state = cases.trained(tx, params, 2)
    saved = interchange.to_optax(state, params, tx=tx)
    files.write(tmp_path / "x.pt", saved)
    found = files.read(tmp_path / "x.pt")
    assert found[0]["mu"]["scale"].dtype == getattr(torch, jnp.dtype(dtype).name)
    trees.assert_same_bits(
        interchange.from_optax(found, params), interchange.from_optax(saved, params)
    )
    files.write(tmp_path / "in.npz", saved)
    written(tmp_path / "p.safetensors", {k: np.asarray(p) for k, p in params.items()})
    words = ("optax", tmp_path / "in.npz", "--params", tmp_path / "p.safetensors")
    assert convert(*words, "--to", "optax", "--out", tmp_path / "out.pt") == 0
    again = interchange.from_optax(files.read(tmp_path / "out.pt"), params)
    trees.assert_same_bits(again, interchange.from_optax(saved, params))
