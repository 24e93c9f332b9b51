"""The resolved plan says what really happens: order, paths, decay, buffers, bytes."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw

PARAMS = {
    "encoder": {
        "kernel": jnp.ones((20, 30), jnp.bfloat16),
        "bias": jnp.ones(30),
    },
    "heads": [jnp.ones((), jnp.float16), jnp.ones((4, 2), jnp.complex64)],
    "empty": jnp.ones((0, 5)),
    "absent": None,
}
PATHS = ("empty", "encoder/bias", "encoder/kernel", "heads/0", "heads/1")


class Line(NamedTuple):
    """A row of the table."""

    path: str
    shape: str
    dtype: str
    decay: str
    buffers: str
    bytes: str


def table(text: str) -> dict[str, Line]:
    """Read the rows of the table by path."""
    lines = text.splitlines()
    (header,) = [i for i, line in enumerate(lines) if line.startswith("parameter ")]
    end = lines.index("", header)
    rows = [Line(*re.split(r"  +", line.strip())) for line in lines[header + 1 : end]]
    return {row.path: row for row in rows}


def rules(text: str) -> list[str]:
    """Read the names of the rules in their order."""
    return re.findall(r"(?m)^ *\d+\. (\w+)", text)


def numbers(text: str) -> list[int]:
    return [int(n.replace(",", "")) for n in re.findall(r"\b[\d,]*\d\b(?!\.)", text)]


def totals(text: str) -> list[int]:
    """The numbers of the line before the one on the pass."""
    lines = text.splitlines()
    assert lines[-1].startswith("pass: ") and not lines[-2]
    return numbers(lines[-3])


def nbytes(tree: Any) -> int:
    return sum(np.asarray(x).nbytes for x in jax.tree.leaves(tree))


EVERYTHING = optadamw.adamw(
    optax.constant_schedule(1e-3),
    mu_dtype="bfloat16",
    weight_decay=0.25,
    mask=["!*/bias", "!empty"],
    amsgrad=True,
    clip_value=0.5,
    clip_norm=0.75,
    clip_global_norm=1.5,
    ema_decay=0.99,
    ema_overwrite_every=10,
    maximize=True,
    caution=True,
)
ROWS = {
    "default": optadamw.adamw(0.125),
    "everything": EVERYTHING,
    "corrected": optadamw.adamw(0.125, amsgrad="corrected", weight_decay=0.0),
    "adam": optadamw.scale_by_adam(),
    "decay": optadamw.add_decoupled_weight_decay(0.25, "*/kernel"),
    "average": optadamw.ema_params(0.5),
    "clip": optadamw.clip_by_global_norm(1.0),
    "chain": optadamw.chain(
        optadamw.clip_by_norm(2.0),
        optadamw.scale_by_adam(),
        optadamw.scale_by_learning_rate(0.5),
    ),
}


def test_the_rules_stand_in_the_order_of_a_step():
    assert rules(optadamw.describe(EVERYTHING, PARAMS)) == [
        "maximize",
        "clip_by_value",
        "clip_by_norm",
        "clip_by_global_norm",
        "scale_by_adam",
        "amsgrad_max",
        "cautious",
        "add_decoupled_weight_decay",
        "scale_by_learning_rate",
        "ema_params",
    ]


def test_the_rules_show_their_hyperparameters():
    text = optadamw.describe(EVERYTHING, PARAMS)
    for shown in (
        "b1=0.9",
        "b2=0.999",
        "eps=1e-08",
        "limit=0.5",
        "limit=0.75",
        "limit=1.5",
        "weight_decay=0.25",
        "mode='lr'",
        "kind='raw'",
        "decay=0.99",
        "constant_schedule",
    ):
        assert shown in text, shown


def test_a_rule_that_was_not_asked_for_is_not_listed():
    assert rules(optadamw.describe(ROWS["default"], PARAMS)) == [
        "scale_by_adam",
        "add_decoupled_weight_decay",
        "scale_by_learning_rate",
    ]


@pytest.mark.parametrize("row", ROWS)
def test_every_parameter_has_a_row_with_shape_and_dtype(row):
    rows = table(optadamw.describe(ROWS[row], PARAMS))
    assert tuple(rows) == PATHS
    for path, leaf in zip(PATHS, jax.tree.leaves(PARAMS), strict=True):
        shown = rows[path].shape
        assert shown == (" x ".join(map(str, leaf.shape)) or "scalar"), path
        assert rows[path].dtype == leaf.dtype.name


@pytest.mark.parametrize(
    ("mask", "decayed"),
    [
        (None, PATHS),
        (False, ()),
        ("*/kernel", ("encoder/kernel",)),
        (["!*/bias", "!empty"], ("encoder/kernel", "heads/0", "heads/1")),
        (lambda path, array: array.ndim == 2, ("empty", "encoder/kernel", "heads/1")),
        (
            {"encoder": {"kernel": False, "bias": True}, "heads": True, "empty": False},
            ("encoder/bias", "heads/0", "heads/1"),
        ),
    ],
)
def test_each_row_says_whether_it_is_decayed(mask, decayed):
    tx = optadamw.adamw(0.125, weight_decay=0.25, mask=mask)
    rows = table(optadamw.describe(tx, PARAMS))
    for path, row in rows.items():
        assert row.decay == ("0.25" if path in decayed else "no"), path


def test_two_decays_are_told_apart():
    tx = optadamw.chain(
        optadamw.add_decoupled_weight_decay(0.25, "*/kernel"),
        optadamw.add_decoupled_weight_decay(0.5, ["*/kernel", "*/bias"]),
        optadamw.scale_by_learning_rate(0.1),
    )
    rows = table(optadamw.describe(tx, PARAMS))
    assert rows["encoder/kernel"].decay == "0.25 + 0.5"
    assert rows["encoder/bias"].decay == "0.5"
    assert rows["heads/0"].decay == "no"


@pytest.mark.parametrize("row", ROWS)
def test_buffers_and_bytes_are_those_of_the_state(row):
    state = ROWS[row].init(PARAMS)
    rows = table(optadamw.describe(ROWS[row], PARAMS))
    for index, path in enumerate(PATHS):
        kept = {
            name: jax.tree.leaves(buffers)[index]
            for name, buffers in state._asdict().items()
            if name != "step" and buffers is not None
        }
        shown = ", ".join(f"{name} {x.dtype.name}" for name, x in kept.items())
        assert rows[path].buffers == (shown or "none"), path
        assert numbers(rows[path].bytes) == [nbytes(kept)], path


@pytest.mark.parametrize("row", ROWS)
def test_the_totals_add_up_to_the_real_bytes(row):
    text = optadamw.describe(ROWS[row], PARAMS)
    state = ROWS[row].init(PARAMS)
    count = sum(x.size for x in jax.tree.leaves(PARAMS))
    leaves = len(PATHS)
    last = totals(text)
    assert last[:4] == [leaves, count, nbytes(PARAMS), nbytes(state)]
    # The step counter belongs to no row.
    rows = table(text).values()
    assert sum(sum(numbers(row.bytes)) for row in rows) == nbytes(state) - 4


def test_one_of_a_kind_is_in_the_singular():
    text = optadamw.describe(ROWS["default"], {"b": jnp.ones(1)})
    assert re.search(r"(?m)^1 parameter, 1 number, 4 bytes; state", text)
    plan = optadamw.memory_plan(ROWS["default"], {"b": jnp.ones(1)}, temporaries=False)
    assert str(plan).startswith("1 parameter on 1 device\n")


def test_large_numbers_are_grouped():
    shapes = {"kernel": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    text = optadamw.describe(ROWS["default"], shapes)
    assert "4096 x 4096" in text
    assert "134,217,728" in text
    assert "16,777,216 numbers" in text


@pytest.mark.parametrize("row", ROWS)
def test_shapes_alone_are_enough(row):
    shapes = jax.eval_shape(lambda p: p, PARAMS)
    assert optadamw.describe(ROWS[row], shapes) == optadamw.describe(ROWS[row], PARAMS)


def test_columns_are_aligned_and_bytes_set_to_the_right():
    text = optadamw.describe(EVERYTHING, PARAMS)
    lines = text.splitlines()
    (header,) = [i for i, line in enumerate(lines) if line.startswith("parameter ")]
    body = lines[header : header + len(PATHS) + 1]
    assert len({len(line) for line in body}) == 1
    for line, row in zip(body[1:], table(text).values(), strict=True):
        for name, cell in zip(("shape", "dtype", "buffers"), row[1:], strict=False):
            if name != "buffers":
                assert line[body[0].index(name) :].startswith(cell)
    assert not any(line != line.rstrip() for line in lines)


def test_float64_parameters():
    with jax.enable_x64(True):
        params = {"w": jnp.ones((3, 5), jnp.float64), "z": jnp.ones(2, jnp.complex128)}
        tx = optadamw.adamw(0.125, ema_decay=0.5)
        text = optadamw.describe(tx, params)
        rows = table(text)
        assert rows["w"].buffers == "mu float64, nu float64, ema float64"
        assert rows["z"].buffers == "mu complex128, nu complex128, ema complex128"
        assert totals(text)[3] == nbytes(tx.init(params))


def test_the_order_of_repeated_atoms_is_kept():
    tx = optadamw.chain(
        optadamw.clip_by_value(1.0),
        optadamw.clip_by_norm(2.0),
        optadamw.clip_by_value(3.0),
    )
    clips = ["clip_by_value", "clip_by_norm", "clip_by_value"]
    assert rules(optadamw.describe(tx, PARAMS)) == clips


def test_the_rule_of_adam_does_not_name_a_dtype_that_no_leaf_has():
    text = optadamw.describe(
        optadamw.scale_by_adam(), {"z": jnp.ones(2, jnp.complex64)}
    )
    (rule,) = [line for line in text.splitlines() if line.startswith("1. ")]
    assert "float32" not in rule


def test_whole_numbers_are_shown_whole():
    assert "overwrite_every=10," in optadamw.describe(EVERYTHING, PARAMS)


def test_a_parameter_without_a_path_is_called_the_root():
    text = optadamw.describe(ROWS["default"], jnp.ones(3))
    assert list(table(text)) == ["(the root)"]


def test_nothing_to_describe():
    text = optadamw.describe(ROWS["default"], {})
    assert totals(text)[:4] == [0, 0, 0, 4]


def test_it_prints_the_call_first():
    for tx in ROWS.values():
        assert optadamw.describe(tx, PARAMS).splitlines()[0] == repr(tx)


def test_framework_trees():
    nnx = pytest.importorskip("flax.nnx")
    eqx = pytest.importorskip("equinox")
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert list(table(optadamw.describe(ROWS["default"], state))) == ["bias", "kernel"]
    model = eqx.filter(eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0)), eqx.is_array)
    rows = table(optadamw.describe(ROWS["default"], model))
    assert {"layers/0/weight", "layers/1/bias"} <= set(rows)


def test_a_thousand_parameters():
    params = {f"layer{i}": jax.ShapeDtypeStruct((i,), jnp.float32) for i in range(1000)}
    text = optadamw.describe(ROWS["default"], params)
    assert len(table(text)) == 1000
    assert totals(text)[:2] == [1000, math.comb(1000, 2)]


# --- Errors --------------------------------------------------------------------------


@pytest.mark.parametrize("tx", [None, optadamw.adamw, optax.adamw(1e-3), "adamw"])
def test_what_has_no_rules_is_refused(tx):
    with pytest.raises(TypeError, match=r"(?s)`tx` must be a transformation of optada"):
        optadamw.describe(tx, PARAMS)


def test_parameters_that_cannot_be_moved_are_refused_by_path():
    with pytest.raises(TypeError, match=r"'steps'.*int32"):
        optadamw.describe(ROWS["default"], {"steps": jnp.arange(3)})


def test_a_pattern_without_a_match_is_refused():
    tx = optadamw.adamw(0.125, mask="*/kernal")
    with pytest.raises(ValueError, match=r"'\*/kernal' matches no.*'encoder/kernel'"):
        optadamw.describe(tx, PARAMS)


def test_a_pattern_without_a_match_is_not_sent_to_describe():
    # It would raise the same error.
    tx = optadamw.adamw(0.125, mask="*/kernal")
    with pytest.raises(ValueError, match=r"encoder/kernel") as caught:
        tx.init(PARAMS)
    assert "describe(tx, params)" not in str(caught.value)


def test_parameters_on_a_mesh_show_the_layout_of_their_buffers():
    mesh = AbstractMesh((8,), ("data",))
    params = {
        "w": jax.ShapeDtypeStruct(
            (64, 32), jnp.float32, sharding=NamedSharding(mesh, P(None, "data"))
        ),
        "v": jax.ShapeDtypeStruct(
            (16,), jnp.float32, sharding=NamedSharding(mesh, P())
        ),
    }
    text = optadamw.describe(optadamw.adamw(0.1), params)
    assert re.search(r"(?m)^v .* 128 +P\(\) +128$", text)
    assert re.search(r"(?m)^w .* 16,384 +P\(None, 'data'\) +2,048$", text)
    tx = optadamw.with_zero1(optadamw.adamw(0.1))
    text = optadamw.describe(tx, {"v": params["v"]})
    assert re.search(r"(?m)^v .* 128 +P\('data'\) +16$", text)
    assert "-  with_zero1: axis=('data',), on_whole='report'" in text


def test_layers_stacked_for_a_scan_are_told_where_they_count_as_one():
    stacked = {"layers": {"kernel": jnp.ones((4, 8, 2)), "bias": jnp.ones((4, 2))}}
    plain = {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}
    by_rank = optadamw.adamw(0.1, mask=lambda path, array: array.ndim > 1)
    for tx, told in (
        (optadamw.adamw(0.1, clip_norm=1.0), "clip_by_norm computes one number .*'lay"),
        (optadamw.adamw(0.1, caution=True), "cautious computes one number"),
        (by_rank, "'layers/bias' has two axes and looks like a stack"),
    ):
        assert re.search(rf"(?m)^!  {told}", optadamw.describe(tx, stacked))
        assert "!  " not in optadamw.describe(tx, plain)
    assert "!  " not in optadamw.describe(optadamw.adamw(0.1), stacked)
    named = optadamw.adamw(0.1, mask="*/kernel")
    assert "!  " not in optadamw.describe(named, stacked)


def test_parameters_too_small_for_8_bits_are_told():
    tx = optadamw.adamw(0.1, precision="compact")
    text = "mu and nu stay in float32 instead of 8 bits: each parameter has fewer than "
    for shape, is_told in (((63, 65), True), ((64, 64), False)):
        params = {"w": jnp.zeros(shape, jnp.bfloat16), "b": jnp.zeros(2)}
        assert (f"!  {text}4,096 numbers" in optadamw.describe(tx, params)) == is_told


@pytest.mark.parametrize("dtype", ["complex64", "float32"])
def test_complex_parameters_keep_their_precision(dtype):
    tx = optadamw.adamw(
        0.1, mu_dtype="bfloat16", nu_dtype=optadamw.stochastic("bfloat16")
    )
    params = {"a": jnp.ones(2), "z": jnp.ones(2, dtype)}
    note = "mu and nu of 'z' and other complex parameters stay in their full"
    assert (note in optadamw.describe(tx, params)) == (dtype == "complex64")
    assert tx.init(params).mu["z"].dtype == {"complex64": "complex64"}.get(
        dtype, "bfloat16"
    )
