"""The recipes of docs/guides/logging.md run, offline, and what they log is read back.

A writer that is not installed is replaced by a stand-in with its functions.
"""

import contextlib
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "logging.md"
RECIPES = re.findall(r"^```python logging\n(.*?)^```", PAGE.read_text(), re.M | re.S)
LOGGED = {
    f"optimizer/{name}"
    for name in (
        "step",
        "learning_rate",
        "update_to_weight",
        "groups/kernels/update_to_weight",
        "groups/biases/grad_norm",
    )
}


class Rows(list):
    """The numbers that a recipe logged: (step, name, value)."""

    def add(self, step: Any, numbers: dict[str, Any]) -> None:
        assert all(type(value) is float for value in numbers.values())
        self.extend((step, name, value) for name, value in numbers.items())


def standing_in(package: str, rows: Rows) -> dict[str, ModuleType]:
    """Modules of a writer with the functions that its recipe calls."""

    class Writer(contextlib.nullcontext):
        def __enter__(self):
            return self

        def add_scalar(self, tag, scalar_value, global_step=None):
            rows.add(global_step, {tag: scalar_value})

        def write_scalars(self, step, scalars):
            rows.add(step, dict(scalars))

        def log(self, data, step=None):
            rows.add(step, data)

        def close(self):
            pass

        finish = flush = close

    made = {name: ModuleType(name) for name in (package, f"{package}.metric_writers")}
    top, inner = made.values()
    top.metric_writers = inner
    top.SummaryWriter = lambda folder: Writer()
    inner.create_default_writer = lambda folder, asynchronous=True: Writer()
    top.init = lambda project, mode, config: Writer()
    return made


def written(package: str, folder: Path) -> Rows:
    """Return the files of the real writer, which are read as bytes alone."""
    rows = Rows()
    if package == "wandb":
        assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    for file in folder.rglob("*tfevents*"):
        rows.append((None, "bytes", file.read_bytes()))
    return rows


def prepared() -> dict[str, Any]:
    """The names that the page defines before its first recipe."""
    before = PAGE.read_text().partition("```python logging")[0]
    namespace: dict[str, Any] = {"__name__": "snippet"}
    for block in re.findall(r"^```python\n(.*?)^```", before, re.M | re.S):
        exec(compile(block, str(PAGE), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("package", ["tensorboardX", "clu", "wandb"])
def test_a_recipe_logs_every_number(package, monkeypatch, tmp_path):
    (recipe,) = (text for text in RECIPES if f"{package}" in text.splitlines()[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    rows = Rows()
    try:
        importlib.import_module("clu.metric_writers" if package == "clu" else package)
    except ImportError:
        for name, module in standing_in(package, rows).items():
            monkeypatch.setitem(sys.modules, name, module)
        exec(compile(recipe, str(PAGE), "exec"), prepared())
        assert {step for step, _, _ in rows} == {4, 9, 14, 19}
        assert {name for _, name, _ in rows} >= LOGGED
        rates = {value for _, name, value in rows if name == "optimizer/learning_rate"}
        assert rates == {float(np.float32(1e-2))}
        return
    exec(compile(recipe, str(PAGE), "exec"), prepared())
    files = written(package, tmp_path)
    for name in LOGGED if package == "tensorboardX" else ():
        assert any(name.encode() in data for _, _, data in files), name


@pytest.mark.parametrize("norms", [False, True])
def test_nothing_is_none_and_every_name_is_that_of_its_field(norms):
    tx = optadamw.adamw(
        0.1, accumulate_steps=2, skip_nonfinite=True, loss_scale=8.0, max_consecutive=1
    )
    tx = optadamw.with_stats(tx, norms=norms, groups={"all but b": "!b"})
    params = {"w": jnp.ones(4), "b": jnp.zeros(2)}
    state = tx.init(params)
    first = optadamw.stats_of(state).flat()
    assert first["step"] == first["stalled"] == first["grad_norm"] == 0.0
    bad = jax.tree.map(lambda p: p * jnp.nan, params)
    for grads in (params, params, params, bad):
        params, state = tx.step(grads, state, params)
    stats = optadamw.stats_of(state)
    numbers = stats.flat()
    assert set(numbers) == set(first)
    assert all(type(value) is float for value in numbers.values())
    for name, value in numbers.items():
        owner = stats
        *path, field = name.split("/")
        if path:
            owner = stats.groups[path[1]]
        assert np.float32(getattr(owner, field)) == np.float32(value), name
    recorded = {n for n, x in stats._asdict().items() if x is not None}
    assert recorded - set(numbers) == {"groups"}
    assert numbers["stalled"] == 1.0 and numbers["step"] == 2.0
    assert ("update_to_weight" in numbers) == norms
    assert ("groups/all but b/update_to_weight" in numbers) == norms


def test_the_ratio_is_that_of_the_norms_and_0_for_an_update_of_0():
    tx = optadamw.with_stats(optadamw.adamw(0.1, weight_decay=0.0), norms=True)
    params = {"w": jnp.full(4, 2.0)}
    state = tx.init(params)
    assert optadamw.stats_of(state).flat()["update_to_weight"] == 0.0
    params, state = tx.step({"w": jnp.ones(4)}, state, params)
    ratio = optadamw.stats_of(state).flat()["update_to_weight"]
    np.testing.assert_allclose(ratio, 0.1 / 1.9, rtol=1e-6)
    zero = {"w": jnp.zeros(4)}
    params, state = tx.step({"w": jnp.ones(4)}, tx.init(zero), zero)
    again = tx.step({"w": jnp.zeros(4)}, tx.init(zero), zero)[1]
    assert optadamw.stats_of(again).flat()["update_to_weight"] == 0.0


def test_what_was_not_recorded_is_not_there():
    tx = optadamw.adamw(0.1)
    assert optadamw.stats_of(tx.init(jnp.ones(2))).flat() == {"step": 0.0}


def test_traced_statistics_and_those_of_a_population_are_refused():
    tx = optadamw.adamw(0.1, stats=True)
    state = tx.init(jnp.ones(2))
    with pytest.raises(TypeError, match=r"`step` is traced.*outside"):
        jax.jit(lambda state: optadamw.stats_of(state).flat())(state)
    states = jax.vmap(tx.init)(jnp.ones((3, 2)))
    stats = optadamw.stats_of(states)
    with pytest.raises(ValueError, match=r"`step` has the shape \(3,\).*one member"):
        stats.flat()
    assert jax.tree.map(lambda x: x[0], stats).flat()["step"] == 0.0
