"""A state comes back bit for bit from whatever kept it, in a new process too."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint
from tests.checkpoint import worker
from tests.support import lane, trajectories, trees
from tests.support.compilations import Compilations
from tests.support.over import over
from tests.support.transformations import ROWS

each_row = over(ROWS)
ROOT = Path(__file__).parents[2]


# --- Keepers -------------------------------------------------------------------------


def _npz(portable: Any, folder: Path) -> Any:
    np.savez(folder / "state.npz", **portable)
    return np.load(folder / "state.npz")


def _msgpack(portable: Any, folder: Path) -> Any:
    (folder / "state").write_bytes(flax.serialization.msgpack_serialize(portable))
    return flax.serialization.msgpack_restore((folder / "state").read_bytes())


def _pickle(portable: Any, folder: Path) -> Any:
    (folder / "state").write_bytes(pickle.dumps(portable))
    return pickle.loads((folder / "state").read_bytes())


def _orbax(tree: Any, folder: Path) -> Any:
    """Save and restore a tree by Orbax without a target: nested dicts and lists."""
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.PyTreeCheckpointer() as keeper:
        keeper.save(folder / "orbax", tree)
        return keeper.restore(folder / "orbax")


KEEPERS = {"npz": _npz, "msgpack": _msgpack, "pickle": _pickle, "orbax": _orbax}
each_keeper = pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)


def everything() -> Any:
    """A transformation that keeps every field of State."""
    return optadamw.adamw(
        0.03,
        amsgrad=True,
        ema_decay=0.7,
        accumulate_steps=3,
        skip_nonfinite=True,
        skip_spikes=True,
        loss_scale=optadamw.DynamicLossScale(initial=8.0, growth_interval=2),
        stats="norms",
    )


def taken(tx: Any, kinds: trees.Kinds, calls: int) -> tuple[Any, Any]:
    """Parameters and state after some calls."""
    params, step = trees.normal(kinds, seed=0), jax.jit(tx.step)
    state = tx.init(params)
    for i in range(calls):
        params, state = step(trees.normal(kinds, seed=1 + i), state, params)
    return params, state


@each_keeper
def test_every_field_and_dtype_survives(keep, tmp_path):
    tx = everything()
    params, state = taken(tx, trees.MIXED, 5)
    assert int(state.micro_step) == 2
    kept = keep(checkpoint.to_portable(tx, state, params), tmp_path)
    restored, report = checkpoint.restore(tx, params, kept, expect_step=1)
    trees.assert_same_bits(restored, state)
    trees.assert_same_bits(checkpoint.params_of(kept, params), params)
    assert report.is_whole and not report.changed and not report.notes
    assert set(report.kept) == set(kept) - {"optadamw.json"} - {
        name for name in kept if name.startswith("params/")
    } | {name for name in report.kept if name.endswith("/empty")}


@each_row
def test_every_transformation_survives_and_goes_on(row, tmp_path):
    run = trajectories.of(row)
    params, state = run.after[0]
    path = tmp_path / "state.npz"
    checkpoint.save(path, run.tx, state, params)
    restored, report = checkpoint.restore(row.make(), params, checkpoint.load(path))
    trees.assert_same_bits(restored, state)
    assert report.is_whole and report.step == int(state.step), report
    again = run.step(run.grads[1], restored, params)
    trees.assert_same_bits(again, run.after[1])


def test_a_restored_state_compiles_nothing_anew():
    """Committed to no device and as weakly typed as the fresh one."""
    own, inner = optadamw.adamw(1e-3, ema_decay=0.9), optadamw.adamw(1e-3)
    injected = optax.inject_hyperparams(optadamw.adamw)(1e-3)
    for wrapped, tx in ((own, own), (injected, inner)):
        params = trees.normal(trees.PAIR, seed=0)
        step = jax.jit(partial(optadamw.step, wrapped))
        state = wrapped.init(params)
        _, state = step(params, state, params)
        saved = checkpoint.to_portable(tx, state)
        restored, _ = checkpoint.restore(wrapped, params, saved, inner=tx)
        with Compilations() as compilations:
            step(params, restored, params)
        assert compilations.count == 0


def test_a_portable_state_is_safe_from_donation_and_the_reverse():
    tx = optadamw.adamw(0.1)
    params, state = taken(tx, trees.PAIR, 2)
    portable = checkpoint.to_portable(tx, state)
    before = {name: array.copy() for name, array in portable.items()}
    restored, _ = checkpoint.restore(tx, params, portable)
    grads = trees.normal(trees.PAIR, seed=9)
    copies = jax.tree.map(jnp.copy, (params, params))
    first = tx.jit_step(grads, state, copies[0])
    second = tx.jit_step(grads, restored, copies[1])
    trees.assert_same_bits(first, second)
    for name, array in portable.items():
        assert array.tobytes() == before[name].tobytes()


def test_names_are_fields_and_paths():
    tx = optadamw.adamw(1e-3, amsgrad=True)
    params = {"block/1": [jnp.ones(2), (jnp.ones(1),)], "head": {"w": jnp.ones(3)}}
    portable = checkpoint.to_portable(tx, tx.init(params), params)
    paths = {"block/1/0", "block/1/1/0", "head/w"}
    tops = ("mu", "nu", "nu_max", "params")
    expected = {f"{top}/{path}" for top in tops for path in paths}
    assert set(portable) == expected | {"step", "optadamw.json"}
    assert all(type(array) is np.ndarray for array in portable.values())


def test_a_parameter_without_a_tree():
    tx, params = optadamw.adamw(1e-3), jnp.ones(3, jnp.bfloat16)
    portable = checkpoint.to_portable(tx, tx.init(params), params)
    assert set(portable) == {"step", "mu", "nu", "params", "optadamw.json"}
    assert portable["params"].dtype == np.uint16
    trees.assert_same_bits(checkpoint.params_of(portable, params), params)


# --- Orbax and pickle on the state itself --------------------------------------------


def test_orbax_with_a_target_keeps_the_state_itself(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    tx = everything()
    params, state = taken(tx, trees.PAIR, 5)
    target = jax.eval_shape(tx.init, params)
    with ocp.StandardCheckpointer() as keeper:
        keeper.save(tmp_path / "state", state)
        keeper.wait_until_finished()
        restored = keeper.restore(tmp_path / "state", target)
    trees.assert_same_bits(restored, state)


def test_orbax_without_a_target_gives_dicts_and_restore_a_state(tmp_path):
    tx = everything()
    params = {"a": [jnp.ones(2), (jnp.ones(1, jnp.bfloat16),)], "b": {"w": jnp.ones(3)}}
    state = tx.init(params)
    for _ in range(4):
        params, state = tx.step(params, state, params)
    back = _orbax(state, tmp_path)
    assert isinstance(back, dict)
    with pytest.raises(ValueError, match="made_by="):
        checkpoint.restore(tx, params, back)
    restored, report = checkpoint.restore(tx, params, back, made_by=tx, expect_step=1)
    trees.assert_same_bits(restored, state)
    assert isinstance(restored, optadamw.State)
    assert report.is_whole and not report.notes


def test_a_pickled_state_is_the_state():
    params, state = taken(everything(), trees.MIXED, 5)
    trees.assert_same_bits(pickle.loads(pickle.dumps((params, state))), (params, state))


# --- Wrappers ------------------------------------------------------------------------


class Wrapper(NamedTuple):
    """An Optax transformation around ours."""

    make: Callable[[Any], Any]
    around: int
    """Leaves of its own state."""


MASK = {"kernel": True, "bias": False}
WRAPPERS = {
    "chain": Wrapper(lambda tx: optax.chain(optax.trace(0.9), tx), 2),
    "masked": Wrapper(lambda tx: optax.masked(tx, MASK), 0),
    "multi_transform": Wrapper(
        lambda tx: optax.multi_transform(
            {"ours": tx, "theirs": optax.adam(1e-2)},
            {"kernel": "ours", "bias": "theirs"},
        ),
        3,
    ),
    "MultiSteps": Wrapper(
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(), 4
    ),
    "two of ours": Wrapper(
        lambda tx: optax.chain(
            optadamw.scale_by_adam(), optadamw.scale_by_learning_rate(0.1)
        ),
        0,
    ),
    "apply_if_finite": Wrapper(lambda tx: optax.apply_if_finite(tx, 3), 3),
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
@each_keeper
def test_a_state_inside_a_wrapper_is_found(wrapper, keep, tmp_path):
    ours = optadamw.adamw(0.1, amsgrad=True)
    tx = wrapper.make(ours)
    params = trees.normal(trees.PAIR, seed=0)
    state = tx.init(params)
    for i in range(3):
        grads = trees.normal(trees.PAIR, seed=1 + i)
        params, state = optadamw.step(tx, grads, state, params)
    kept = keep(checkpoint.to_portable(tx, state), tmp_path)
    restored, report = checkpoint.restore(tx, params, kept)
    trees.assert_same_bits(restored, state)
    assert report.is_whole and not report.notes, report
    assert sum(name.startswith("around/") for name in report.kept) == wrapper.around


def test_the_meaning_inside_a_wrapper_is_checked():
    def made(kind: str) -> Any:
        return optax.chain(optax.clip(1.0), optadamw.adamw(0.1, amsgrad=kind))

    params = trees.normal(trees.PAIR, seed=0)
    saved = checkpoint.to_portable(made("raw"), made("raw").init(params))
    with pytest.raises(ValueError, match=r"`nu_max` was saved as .* raw .*afresh="):
        checkpoint.restore(made("corrected"), params, saved)


# --- A new process -------------------------------------------------------------------


@pytest.mark.parametrize("x64", ["0", "1"])
def test_a_run_goes_on_bit_for_bit_in_a_new_process(x64, tmp_path):
    """From every call on, within windows too, in every dtype, with everything on."""
    for mode in ("run", "resume"):
        command = [sys.executable, "-m", "tests.checkpoint.worker", mode, str(tmp_path)]
        environment = os.environ | {"JAX_ENABLE_X64": x64, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["resumed", str(worker.CALLS), "times"]


def test_meshes_may_change_between_save_and_restore():
    path = Path(__file__).with_name("eight_devices.py")
    lane.run(path, "--xla_force_host_platform_device_count=8")


# --- Shardings -----------------------------------------------------------------------


def test_restored_leaves_lie_where_fresh_ones_do():
    tx = optadamw.adamw(1e-3)
    device = jax.devices()[0]
    params = jax.device_put(trees.normal(trees.PAIR, seed=0), device)
    state = tx.init(params)
    restored, _ = checkpoint.restore(tx, params, checkpoint.to_portable(tx, state))
    for one, other in zip(
        jax.tree.leaves(restored), jax.tree.leaves(state), strict=True
    ):
        assert one.sharding == other.sharding and one.committed == other.committed


def test_shapes_are_enough_where_nothing_is_fresh():
    tx = optadamw.adamw(1e-3)
    params, state = taken(tx, trees.PAIR, 2)
    shapes = jax.eval_shape(lambda: params)
    saved = checkpoint.to_portable(tx, state, params)
    restored, _ = checkpoint.restore(tx, shapes, saved)
    trees.assert_same_bits(restored, state)
    trees.assert_same_bits(checkpoint.params_of(saved, shapes), params)
    averaged = optadamw.adamw(1e-3, ema_decay=0.9)
    with pytest.raises(ValueError, match=r"Leaf 'ema/bias': it was not saved.*shapes"):
        checkpoint.restore(averaged, shapes, saved)


# --- The page ------------------------------------------------------------------------


def test_the_report_on_the_page_is_the_real_one(capsys):
    page = (ROOT / "docs" / "guides" / "checkpoints.md").read_text()
    namespace: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(block, "checkpoints.md", "exec"), namespace)
    (shown,) = re.findall(r"^```text\n(.*?)^```", page, re.M | re.S)
    assert capsys.readouterr().out.strip() == shown.strip()


# --- Old files -----------------------------------------------------------------------


def test_a_file_of_format_1_is_read_for_ever():
    """Written by version 0.1.0: five calls of `everything()` on `trees.PAIR`."""
    saved = checkpoint.load(Path(__file__).parent / "recorded" / "format_1.npz")
    params = checkpoint.params_of(saved, trees.normal(trees.PAIR, seed=0))
    state, report = checkpoint.restore(everything(), params, saved, expect_step=1)
    assert int(state.micro_step) == 2 and not report.left_over
    for name in ("mu", "nu", "nu_max", "ema", "accumulator"):
        assert f"{name}/kernel" in report.kept
        assert jnp.any(getattr(state, name)["kernel"] != 0)
