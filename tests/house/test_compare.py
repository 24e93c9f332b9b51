"""The comparison of two checkouts finds nothing in a copy but what is planted there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import optadamw
from benchmarks.compare import hlo
from benchmarks.compare.facts import differences
from benchmarks.compare.process import Process

ROOT = Path(optadamw.__file__).parents[1]
ROW = "adamw-numbers"
IN_PLACE = """\
        self.in_place = jax.jit(
            functools.partial(_in_place, composition), donate_argnums=(0, 1)
        )
"""
STEP = "        step = functools.partial(_in_place, composition)\n"
LATE = f"""{STEP}
        def late(params, state, grads, extra):
            jnp = jax.numpy
            params, after = step(params, state, grads, extra)
            leaves = jax.tree.leaves(params)
            fine = jnp.isfinite(sum(jnp.sum(jnp.abs(p)) for p in leaves))
            pick = lambda new, old: jnp.where(fine, new, old)
            return params, jax.tree.map(pick, after, state)
        self.in_place = jax.jit(late, donate_argnums=(0, 1))
"""
COPIED = f"""{STEP}
        def copied(params, state, grads, extra):
            return step(params, jax.tree.map(jax.numpy.copy, state), grads, extra)
        self.in_place = jax.jit(copied, donate_argnums=(0, 1))
"""
PLANTS = {
    "a constant": (
        '"one_minus_b1": 1.0 - b1,\n            "one_minus_b2"',
        '"one_minus_b1": 1.0000001 - b1,\n            "one_minus_b2"',
        {
            "bits of `jit_step`",
            "bits of `update`",
            "bits of `jax.jit(step)`",
            "HLO",
        },
    ),
    "factors in another order": (
        "return old + take * (new - old)\n",
        "return old + (new - old) * take\n",
        {"HLO"},
    ),
    "a copy that XLA removes": (IN_PLACE, COPIED, {"jaxpr"}),
    "the old state kept until the end": (
        IN_PLACE,
        LATE,
        {"jaxpr", "HLO", "bytes, temporaries"},
    ),
    "a state that is not donated": (
        IN_PLACE,
        IN_PLACE.replace("(0, 1)", "(0,)"),
        {"HLO", "bytes, in place"},
    ),
    "unequal transformations": (
        "\nclass Composition:\n",
        "\nclass Composition:\n    __hash__ = object.__hash__\n",
        {"traces"},
    ),
    "an error": (
        '"one_minus_b1": 1.0 - b1,\n            "one_minus_b2"',
        '"one_minus_b1": 1.0 - b7,\n            "one_minus_b2"',
        {"error"},
    ),
}


def copied(folder: Path) -> Path:
    """Return a copy of what a comparison reads of this checkout."""
    ignored = shutil.ignore_patterns("__pycache__", "checkpoints", "peers")
    for name in ("optadamw", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def planted(folder: Path, old: str, new: str) -> None:
    """Replace a text that stands in one place of the package."""
    files = [p for p in (folder / "optadamw").rglob("*.py") if old in p.read_text()]
    assert len(files) == 1, (old, files)
    text = files[0].read_text()
    assert text.count(old) == 1
    files[0].write_text(text.replace(old, new))


def record(checkout: Path):
    with Process(checkout) as process:
        process.ask("row", name=ROW)
        return process.answer()


@pytest.fixture(scope="module")
def unchanged():
    return record(ROOT)


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_copy_has_no_differences(tmp_path):
    checkout, path = copied(tmp_path / "copy"), tmp_path / "found.json"
    rows = ("--rows", "amsgrad_max-raw", "everything_controlled")
    done = compare(
        ROOT, checkout, *rows, "--quick", "--time", "--rounds", 2, "--json", path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rows, zero differences" in done.stdout
    found = json.loads(path.read_text())
    assert found["rows"] == ["amsgrad_max-raw", "adamw-everything_controlled"]
    assert not found["differences"]
    phases = ["trace", "lower", "compile"]
    assert [each["of"] for each in found["times"]] == [*phases, *phases, "step"]
    assert all(each["ratio"]["median"] > 0 for each in found["times"])


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_noticed(name, unchanged, tmp_path):
    old, new, noticed = PLANTS[name]
    checkout = copied(tmp_path)
    planted(checkout, old, new)
    found = differences(ROW, unchanged, record(checkout))
    assert {difference.of for difference in found} == noticed, found


def test_rows_of_one_checkout_alone_are_differences(tmp_path):
    checkout = copied(tmp_path / "copy")
    (table,) = (checkout / "tests").rglob("transformations.py")
    text = table.read_text()
    assert text.count('Row("maximize", maximize,') == 1
    table.write_text(text.replace('Row("maximize", max', 'Row("other", max'))
    done = compare(
        ROOT, checkout, "--rows", "other", "add_decoupled_weight_decay-", "--rounds", 0
    )
    assert done.returncode == 1
    assert "| `other` | table | is new |" in done.stdout
    done = compare(ROOT, tmp_path)
    assert done.returncode != 0
    assert "must be a checkout of optadamw" in done.stderr


# --- Programs ------------------------------------------------------------------------


def compiled(function) -> str:
    return jax.jit(function).lower(jnp.ones(3), jnp.ones(3)).compile().as_text()


def test_names_and_places_do_not_matter():
    @jax.jit
    def inner(a):
        return jnp.sin(a) * 2.0

    @jax.jit
    def another_name(number):
        return jnp.sin(number) * 2.0

    texts = [
        compiled(lambda a, b: inner(a) + b),
        compiled(lambda x, y: another_name(x) + y),
    ]
    assert texts[0] != texts[1]
    assert hlo.difference(*texts) is None
    assert not any("metadata" in line for line in hlo.program(texts[0]))
    assert "-1 sine" in (hlo.difference(texts[0], compiled(jnp.add)) or "")


MODULE = """HloModule jit_f, is_scheduled=true

ENTRY %main.1 (a.1: f32[3], b.1: f32[3]) -> f32[3] {
  %a.1 = f32[3]{0} parameter(0), metadata={op_name="a{'x'}" source_line=3}
  %b.1 = f32[3]{0} parameter(1)
  %sine.1 = f32[3]{0} sine(%a.1), metadata={op_name="sin" source_file="a.py"}
  %cosine.2 = f32[3]{0} cosine(%b.1)
  ROOT %add.3 = f32[3]{0} add(%sine.1, %cosine.2)
}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("%cosine.2", "%c", None),
        ("jit_f", "jit_g", None),
        ("source_line=3", "source_line=4", None),
        ("add(%sine.1, %cosine.2)", "add(%cosine.2, %sine.1)", "as many of each"),
        ("parameter(1)", "parameter(2)", "as many of each"),
        ("cosine(", "sine(", "-1 cosine, +1 sine"),
        ("is_scheduled=true", "is_scheduled=false", "layout or aliasing"),
    ],
)
def test_differences_of_a_module(old, new, said):
    found = hlo.difference(MODULE, MODULE.replace(old, new))
    assert found is None if said is None else said in (found or "")


def test_another_order_of_the_same_instructions():
    lines = MODULE.splitlines()
    lines[5], lines[6] = lines[6], lines[5]
    found = hlo.difference(MODULE, "\n".join(lines))
    assert found == "the same instructions stand in another order"
