"""Every plot draws, and says in words what its records lack."""

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import optadamw
from optadamw import plotting
from optadamw.reports.plots.memory import parts_of
from optadamw.tuning.range_test import RangeTest

STEPS = [{"step": i, "loss": 0.9**i, "grad_norm": 1.0 + i} for i in range(5)]
RATIOS = [{"step": i, "update_to_weight": {"w": 1e-3, "b": 1e-2}} for i in range(3)]
GRID = [
    {"rate": r, "decay": d, "loss": (r - 1) ** 2 + d + 0.1, "live": 1}
    for r in (0.1, 1.0, 10.0)
    for d in (0.0, 0.1)
]
SCHEDULE = optadamw.schedules.linear_schedule(1.0, 0.0, 10)
PLAN = optadamw.memory_plan(
    optadamw.adamw(1e-3), {"w": np.zeros((8, 8), np.float32)}, temporaries=False
)
RATES = np.geomspace(1e-6, 1.0, 20)
LOSSES = 1.0 - RATES + 0.1 * (RATES > 0.5)
FOUND = RangeTest(RATES, LOSSES, LOSSES, 1.0, 0.03, 0.2, 1.0)
GONE = np.full(20, np.nan)
NOTHING = RangeTest(RATES, GONE, GONE, 1.0, None, None, 1e-6, "not finite")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plot.png"


def ink(path) -> float:
    """The share of the pixels that are not white."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return float((pixels.min(axis=-1) < 0.99).mean())


DRAWN = {
    "steps": lambda path: plotting.curves({"a": STEPS, "b": STEPS[:3]}, path),
    "one record": lambda path: plotting.curves({"a": STEPS[:1]}, path),
    "some fields": lambda path: plotting.curves({"a": STEPS}, path, fields=["loss"]),
    "another x": lambda path: plotting.curves({"a": STEPS}, path, x="grad_norm"),
    "a negative loss": lambda path: plotting.curves(
        {"a": [r | {"loss": -r["loss"]} for r in STEPS]}, path
    ),
    "no accuracy is finite": lambda path: plotting.curves(
        {"a": [{"epoch": 0, "training_accuracy": None}]}, path
    ),
    "seven fields": lambda path: plotting.curves(
        {"a": [{"step": 0} | {f"x{i}": i for i in range(7)}]}, path
    ),
    "a grid": lambda path: plotting.heatmap(GRID, path, x="rate", y="decay"),
    "seeds": lambda path: plotting.heatmap(GRID + GRID, path, x="rate", y="decay"),
    "no grid": lambda path: plotting.heatmap(GRID[:3], path, x="rate", y="decay"),
    "stopped": lambda path: plotting.heatmap(
        [r | {"live": 0, "loss": float("nan")} for r in GRID], path, x="rate", y="decay"
    ),
    "negative": lambda path: plotting.heatmap(
        [r | {"loss": -r["loss"]} for r in GRID], path, x="rate", y="decay"
    ),
    "plans": lambda path: plotting.memory({"full": PLAN, "again": PLAN}, path),
    "schedules": lambda path: plotting.schedules({"a": SCHEDULE, "b": 0.3}, path),
    "a function": lambda path: plotting.schedules(
        {"a": lambda t: t * t}, path, steps=9
    ),
    "numbers of all kinds": lambda path: plotting.schedules(
        {
            "a": jnp.float32(3),
            "b": jnp.bfloat16(2.5),
            "c": np.asarray(jnp.bfloat16(2))[()],
            "d": np.float64(1.5),
            "e": optadamw.adjustable(0.5) * 2 * SCHEDULE,
        },
        path,
    ),
    "steps beyond those of int32": lambda path: plotting.schedules(
        {"a": optadamw.schedules.linear_schedule(1.0, 0.0, 2_000_000_000)}, path
    ),
    **{
        f"losses of {losses}": lambda path, losses=losses: plotting.heatmap(
            [r | {"loss": loss} for r, loss in zip(GRID, losses, strict=False)],
            path,
            x="rate",
            y="decay",
        )
        for losses in (
            (1e308, 1.7e308, 1.2e308, 1.79e308),
            (1e-308, 2e-308, 5e-324, 3e-310),
            (-1.79e308, 1.79e308, 0.0, 5e-324),
        )
    },
    "a range of rates": lambda path: plotting.range_test(FOUND, path),
    "a range without a suggestion": lambda path: plotting.range_test(NOTHING, path),
    "ratios one below another": lambda path: plotting.update_to_weight(
        {"a": RATIOS, "b": RATIOS, "c": RATIOS}, path, columns=2
    ),
    "curves one below another": lambda path: plotting.curves(
        {"a": STEPS}, path, columns=1
    ),
    "flat ratios": lambda path: plotting.update_to_weight(
        {"a": [{"optimizer/step": 1, "optimizer/groups/w/update_to_weight": 1e-3}]},
        path,
    ),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_plot_is_drawn(draw, path):
    assert draw(path) == path
    assert 0.005 < ink(path) < 0.95


def test_a_bar_of_memory_ends_at_the_peak():
    params = {"w": jax.ShapeDtypeStruct((64, 64), np.float32)}
    tx = optadamw.adamw(1e-3, ema_decay=0.9)
    for offload in (None, "ema"):
        plan = optadamw.memory_plan(tx, params, offload=offload)
        assert sum(parts_of(plan).values()) == plan.peak
        assert ("ema" in parts_of(plan)) == (offload is None)


def test_text_is_as_good_as_a_path_and_its_ending_chooses_the_format(path):
    text = str(path.with_suffix(".svg"))
    assert "<svg" in plotting.curves({"a": STEPS}, text).read_text()


LACKING = [STEPS[0], {"step": 1, "loss": 0.5}]
REFUSED = {
    "a field that a later record lacks": (
        lambda path: plotting.curves({"AdamW": LACKING}, path),
        ValueError,
        r"`histories\['AdamW'\]\[1\]` has no field 'grad_norm'. It has 'step', 'loss'. "
        r".*choose the curves with `fields`",
    ),
    "a field that another history lacks": (
        lambda path: plotting.curves({"a": STEPS, "b": LACKING[1:]}, path),
        ValueError,
        r"`histories\['b'\]\[0\]` has no field 'grad_norm'",
    ),
    "a field that nobody has": (
        lambda path: plotting.curves({"a": STEPS}, path, fields=["los"]),
        ValueError,
        "has no field 'los'",
    ),
    "a list without a label": (
        lambda path: plotting.curves(STEPS, path),
        TypeError,
        'must be a mapping of labels to histories; got a list. .*"AdamW": history',
    ),
    "a record without a label": (
        lambda path: plotting.curves(STEPS[0], path),
        TypeError,
        r"`histories\['step'\]` must be a list of records; got 0 of type int",
    ),
    "no history": (
        lambda path: plotting.curves({}, path),
        ValueError,
        "at least one history",
    ),
    "no record": (
        lambda path: plotting.curves({"a": []}, path),
        ValueError,
        r"`histories\['a'\]` must be a list of at least one record",
    ),
    "a Stats, not its numbers": (
        lambda path: plotting.curves({"a": [optadamw.Stats(*range(18))]}, path),
        TypeError,
        r"`histories\['a'\]\[0\]` must be a mapping.*flat\(\)",
    ),
    "no field along which": (
        lambda path: plotting.curves({"a": [{"loss": 1.0}]}, path),
        ValueError,
        "'epoch' or 'step', or `x`.*the first record has 'loss'",
    ),
    "nothing but that": (
        lambda path: plotting.curves({"a": [{"step": 1, "name": "x"}]}, path),
        ValueError,
        "`fields` must be the names of at least one number",
    ),
    "a text": (
        lambda path: plotting.curves({"a": [{"step": "one", "loss": 1.0}]}, path),
        TypeError,
        r"`histories\['a'\]\[0\]\['step'\]` must be a number, or None for a gap",
    ),
    "no ratio": (
        lambda path: plotting.update_to_weight({"a": STEPS}, path),
        ValueError,
        "must have 'update_to_weight'; it has 'step', 'loss', 'grad_norm'. .*norms",
    ),
    "a layer that a later record lacks": (
        lambda path: plotting.update_to_weight(
            {
                "a": [
                    {
                        "step": i,
                        "update_to_weight": {"w": 1e-3} | ({} if i else {"b": 1}),
                    }
                    for i in range(2)
                ]
            },
            path,
        ),
        ValueError,
        r"`histories\['a'\]\[1\]` has no field 'b'",
    ),
    "columns that are no number": (
        lambda path: plotting.curves({"a": STEPS}, path, columns="1"),
        TypeError,
        "`columns` must be a whole number >= 1, or None; got '1'",
    ),
    "no columns": (
        lambda path: plotting.update_to_weight({"a": RATIOS}, path, columns=0),
        ValueError,
        "`columns` must be a whole number >= 1, or None; got 0",
    ),
    "a map without its number": (
        lambda path: plotting.heatmap(STEPS, path, x="step", y="rate"),
        ValueError,
        r"`records\[0\]` has no field 'rate'",
    ),
    "a map over one thing": (
        lambda path: plotting.heatmap(GRID, path, x="rate", y="rate"),
        ValueError,
        "`y` must be another field than `x`",
    ),
    "no plan": (
        lambda path: plotting.memory({"a": 3}, path),
        TypeError,
        r"`plans\['a'\]` must be a MemoryPlan",
    ),
    "a plan without a label": (
        lambda path: plotting.memory(PLAN, path),
        TypeError,
        "`plans` must be a mapping of labels",
    ),
    "plans of nothing": (
        lambda path: plotting.memory({}, path),
        ValueError,
        "at least one plan",
    ),
    "a schedule without an end": (
        lambda path: plotting.schedules({"a": lambda t: t}, path),
        ValueError,
        "no schedule says where it ends",
    ),
    "no steps": (
        lambda path: plotting.schedules({"a": SCHEDULE}, path, steps=0),
        ValueError,
        "`steps` must be a whole number",
    ),
    "no schedule": (
        lambda path: plotting.schedules({"a": "cosine"}, path, steps=3),
        TypeError,
        r"`schedules\['a'\]` must be a number, a 0-d array or a schedule",
    ),
    "a schedule without a label": (
        lambda path: plotting.schedules(SCHEDULE, path),
        TypeError,
        "`schedules` must be a mapping of labels",
    ),
    "a range test that is none": (
        lambda path: plotting.range_test(STEPS, path),
        TypeError,
        "`result` must be a RangeTest",
    ),
    "a schedule of rows": (
        lambda path: plotting.schedules({"a": lambda t: t * np.ones(2)}, path, steps=3),
        ValueError,
        r"must be a real scalar; got an array of shape \(2,\)",
    ),
    "a schedule with an if": (
        lambda path: plotting.schedules({"a": lambda t: 1 if t else 2}, path, steps=3),
        TypeError,
        r"`schedules\['a'\]`: the schedule cannot be traced.*Use jnp.where",
    ),
    "a schedule of NumPy": (
        lambda path: plotting.schedules({"a": lambda t: np.exp(t)}, path, steps=3),
        TypeError,
        r"`schedules\['a'\]`: the schedule cannot be traced",
    ),
}


@pytest.mark.parametrize(("draw", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_drawn_is_said(draw, error, words, path):
    with pytest.raises(error, match=words):
        draw(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "name",
    ["steps", "a grid", "plans", "schedules", "flat ratios", "a range of rates"],
)
def test_a_file_that_cannot_be_written_is_refused_in_words(name, tmp_path):
    draw = DRAWN[name]
    with pytest.raises(
        OSError, match=r"`path`: there is no folder .*none' for .* Make it"
    ):
        draw(tmp_path / "none" / "plot.png")
    for ending in ("plot.xyz", "plot"):
        with pytest.raises(ValueError, match=rf"`path` must be .*\.png.*{ending}'"):
            draw(tmp_path / ending)
    with pytest.raises(TypeError, match=r"`path` must be a str .*got 3"):
        draw(3)
    assert not list(tmp_path.iterdir())
    assert draw(str(tmp_path / "plot.SVG")).exists()
