"""Every triple of options, five steps each against the oracle (goal R6)."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import optadamw
from tests.support import comparison, covering, oracle

FACTORS = {
    "parameter": ("f32", "bf16", "f16", "f64", "c64", "mixed", "wide"),
    "gradient": ("same", "f32", "bf16"),
    "mu_dtype": ("none", "bf16"),
    "amsgrad": ("off", "raw", "corrected"),
    "nesterov": ("off", "on"),
    "maximize": ("off", "on"),
    "eps_mode": ("outside", "hat"),
    "bias_correction": ("on", "off"),
    "decay": ("off", "lr", "schedule", "independent", "corrected"),
    "mask": ("none", "pattern", "predicate"),
    "ema": ("off", "plain", "debias", "warmup", "overwrite"),
    "clip": ("off", "value", "norm", "global", "update"),
    "caution": ("off", "on"),
    "cautious_weight_decay": ("off", "on"),
    "hyperparameters": ("number", "array", "traced", "schedule"),
    "route": ("step", "update"),
}

DTYPES = {
    "f32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "f64": np.float64,
    "c64": np.complex64,
}
SHAPES = {"w": (3, 5), "b": (7,), "s": ()}
TREES = {
    "mixed": {"w": "bf16", "b": "f32", "s": "f16"},
    "wide": {"w": "f32", "b": "f64", "s": "bf16"},
}
STEPS = 5

# One value per step, none of them a default, 0 or 1; the first is the constant's.
VALUES = {
    "learning_rate": (0.03, 0.05, 0.02, 0.01, 0.04),
    "b1": (0.8, 0.85, 0.9, 0.75, 0.7),
    "b2": (0.97, 0.99, 0.95, 0.9, 0.98),
    "eps": (1e-3, 2e-3, 1e-4, 3e-3, 5e-4),
    "eps_root": (1e-5, 2e-5, 3e-6, 5e-5, 1e-6),
    "weight_decay": (0.2, 0.1, 0.3, 0.05, 0.4),
    "clip_value": (0.5, 0.3, 0.7, 0.4, 0.6),
    "clip_norm": (0.6, 0.5, 0.8, 0.4, 0.7),
    "clip_global_norm": (0.9, 0.7, 1.1, 0.8, 1.0),
    "clip_update_rms": (0.5, 0.4, 0.7, 0.3, 0.6),
    "ema_decay": (0.7, 0.8, 0.6, 0.9, 0.75),
}
MAX_LEARNING_RATE = 0.08


def legal(row: covering.Row) -> bool:
    """Refuse what has no meaning: it is refused by the library, or changes nothing."""
    if row.get("parameter") == "c64":
        # A real gradient or a real buffer cannot stand for a complex one.
        if row.get("gradient", "same") != "same" or row.get("mu_dtype") == "bf16":
            return False
    if row.get("eps_mode") == "hat":
        if row.get("amsgrad") == "corrected" or row.get("clip") == "update":
            return False
    return row.get("decay") != "off" or row.get("mask", "none") == "none"


ROWS = covering.covering_array(FACTORS, legal)


def is_matrix(path: str, array: Any) -> bool:
    """Return whether a parameter is the matrix `w`."""
    del path
    return array.ndim > 1


class LookUp:
    """The schedule of the library that reads the same values as an `oracle.Table`."""

    def __init__(self, values: tuple[float, ...]) -> None:
        self.values = values

    def __call__(self, step: jax.Array) -> jax.Array:
        return jnp.asarray(self.values)[jnp.minimum(step, len(self.values) - 1)]


def case(row: covering.Row) -> tuple[dict[str, Any], dict[str, Any], oracle.AdamW]:
    """Return the options of the library, those that are traced, and the oracle's."""
    names = ["learning_rate", "b1", "b2", "eps", "eps_root"]
    options, theirs = {}, {}
    if row["mu_dtype"] == "bf16":
        options["mu_dtype"] = jnp.bfloat16
        theirs["mu_dtype"] = ml_dtypes.bfloat16
    if row["amsgrad"] != "off":
        options["amsgrad"] = theirs["amsgrad"] = row["amsgrad"]
    for name in ("nesterov", "maximize", "caution", "cautious_weight_decay"):
        if row[name] == "on":
            options[name] = theirs[name] = True
    if row["bias_correction"] == "off":
        options["bias_correction"] = theirs["bias_correction"] = False
    options["eps_mode"] = theirs["eps_mode"] = row["eps_mode"]
    if row["decay"] == "off":
        options["weight_decay"] = theirs["weight_decay"] = 0.0
    else:
        names.append("weight_decay")
        options["weight_decay_mode"] = theirs["weight_decay_mode"] = row["decay"]
        if row["decay"] in ("schedule", "corrected"):
            options["max_learning_rate"] = MAX_LEARNING_RATE
            theirs["max_learning_rate"] = MAX_LEARNING_RATE
    if row["mask"] == "pattern":
        options["mask"], theirs["decayed"] = ["!b"], frozenset({"w", "s"})
    elif row["mask"] == "predicate":
        options["mask"], theirs["decayed"] = is_matrix, frozenset({"w"})
    if row["clip"] != "off":
        longer = {"global": "clip_global_norm", "update": "clip_update_rms"}
        names.append(longer.get(row["clip"], f"clip_{row['clip']}"))
    if row["ema"] != "off":
        names.append("ema_decay")
        if row["ema"] == "overwrite":
            options["ema_overwrite_every"] = theirs["ema_overwrite_every"] = 2
        elif row["ema"] != "plain":
            options[f"ema_{row['ema']}"] = theirs[f"ema_{row['ema']}"] = True
    traced = {}
    for name in names:
        values = VALUES[name]
        if row["hyperparameters"] == "number":
            options[name] = theirs[name] = values[0]
        elif row["hyperparameters"] == "schedule":
            options[name], theirs[name] = LookUp(values), oracle.Table(_held(values))
        else:
            array = jnp.asarray(values[0])
            theirs[name] = float(array)
            (options if row["hyperparameters"] == "array" else traced)[name] = array
    return options, traced, oracle.AdamW(**theirs)


def _held(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return the values that an array of the default float dtype holds."""
    return tuple(np.asarray(jnp.asarray(values), np.float64).tolist())


def trees(row: covering.Row, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return parameters, and gradients that grow and shrink a hundredfold."""
    rng = np.random.default_rng(seed)

    def normal(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        x = rng.normal(size=shape)
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.normal(size=shape)
        return x

    kind = row["parameter"]
    # Two leaves of one dtype show as much as three, and compile faster.
    kinds = TREES.get(kind, {"w": kind, "b": kind})
    dtypes = {name: DTYPES[kind] for name, kind in kinds.items()}
    if row["gradient"] == "same":
        received = dtypes
    else:
        received = dict.fromkeys(kinds, DTYPES[row["gradient"]])
    params = {
        name: np.asarray(normal(dtype, SHAPES[name])).astype(dtype)
        for name, dtype in dtypes.items()
    }
    gradients = [
        {
            name: np.asarray(
                normal(dtype, SHAPES[name]) * 10.0 ** (step % 3 - 1)
            ).astype(received[name])
            for name, dtype in dtypes.items()
        }
        for step in range(STEPS)
    ]
    return params, gradients


def run(number: int) -> float:
    """Follow one row for five steps; return its largest share of what is allowed."""
    row = ROWS[number]
    wide = row["parameter"] in ("f64", "wide")
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        options, traced, adamw = case(row)
        params, gradients = trees(row, seed=number)

        def make(**traced: Any) -> Any:
            return optadamw.adamw(**options, **traced)

        return comparison.follow(
            make, adamw, params, gradients, route=row["route"], traced=traced
        )


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_row_of_options_follows_the_oracle(number):
    run(number)


# --- The checks themselves -----------------------------------------------------------


def test_the_rows_cover_every_legal_triple():
    covered = set().union(*(covering.triples_of(row) for row in ROWS))
    wanted = covering.legal_triples(FACTORS, legal)
    assert len(wanted) > 10_000
    assert wanted <= covered
    assert all(legal(row) and row.keys() == FACTORS.keys() for row in ROWS)
    assert 175 <= len(ROWS) <= 300  # 7 * 5 * 5 triples of the widest factors


def test_a_small_covering_array_is_the_legal_product():
    factors = {name: ("0", "1") for name in "abc"}
    rows = covering.covering_array(
        factors, lambda row: not (row.get("a") == row.get("b") == "0")
    )
    assert len(rows) == len({tuple(row.items()) for row in rows}) == 6


def test_the_rows_do_not_depend_on_the_seed_of_hashes():
    script = (
        "from tests.support import covering;"
        "f = {n: tuple('012'[:2 + i % 2]) for i, n in enumerate('abcdefg')};"
        "print(covering.covering_array(f, lambda row: True))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=pathlib.Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


# One row with everything on; each change of the oracle must make it fail.
EVERYTHING = {
    "parameter": "f32",
    "gradient": "same",
    "mu_dtype": "none",
    "amsgrad": "raw",
    "nesterov": "on",
    "maximize": "on",
    "eps_mode": "outside",
    "bias_correction": "on",
    "decay": "schedule",
    "mask": "pattern",
    "ema": "debias",
    "clip": "global",
    "caution": "on",
    "cautious_weight_decay": "on",
    "hyperparameters": "number",
    "route": "step",
}
# Relative changes just large enough that five steps must show them.
CHANGES = {
    "learning_rate": 0.03 * (1 + 1e-4),
    "b1": 0.8 * (1 + 1e-5),
    "b2": 0.97 * (1 + 1e-5),
    "eps": 1e-3 * (1 + 1e-2),
    "eps_root": 1e-5 * (1 + 1e-1),
    "weight_decay": 0.2 * (1 + 1e-4),
    "max_learning_rate": MAX_LEARNING_RATE * (1 + 1e-4),
    "clip_global_norm": 0.9 * (1 + 1e-5),
    "ema_decay": 0.7 * (1 + 1e-5),
    "decayed": frozenset({"w", "s", "b"}),
    "nesterov": False,
    "amsgrad": None,
    "bias_correction": False,
    "eps_mode": "hat",
    "maximize": False,
    "caution": False,
    "cautious_weight_decay": False,
    "ema_debias": False,
    "weight_decay_mode": "lr",
    "ema_overwrite_every": 2,
    "mu_dtype": ml_dtypes.bfloat16,
}


@pytest.fixture(scope="module")
def everything() -> tuple[oracle.AdamW, list[Any]]:
    """Return the oracle of `EVERYTHING` and five steps of the library."""
    options, _, adamw = case(EVERYTHING)
    params, gradients = trees(EVERYTHING, seed=0)
    tx = optadamw.adamw(**options)
    _, *steps = comparison.trajectory(lambda: tx, params, gradients)
    return adamw, steps


@pytest.mark.parametrize("name", [None, *CHANGES])
def test_the_comparison_notices_a_change_of_any_option(name, everything):
    adamw, steps = everything
    if name is None:
        for step in steps:
            comparison.check_step(adamw, *step)
        return
    changed = dataclasses.replace(adamw, **{name: CHANGES[name]})
    with pytest.raises(AssertionError):
        for step in steps:
            comparison.check_step(changed, *step)
