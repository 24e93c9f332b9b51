"""The figures of campaigns on docs/reference/trust.md are those of the records."""

import json
import re
from pathlib import Path

import pytest

from tests.campaigns.campaign import cases, names

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "trust.md").read_text()
RECORDS = sorted((ROOT / "benchmarks" / "results").glob("campaigns-*.json"))
BY_VERSION = ("campaigns-jax-0.10.2.json", "campaigns-jax-0.12.0.1.json")


def campaigns_of(name):
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())["campaigns"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_nothing_has_failed_in_what_is_recorded(path):
    record = json.loads(path.read_text())
    assert record["form"] == "full"
    for found in record["campaigns"].values():
        assert found["failed"] == {} and found["held"] == found["tried"] > 0


def rows(pattern):
    return [match.groups() for match in re.finditer(pattern, PAGE, re.MULTILINE)]


def test_the_table_has_how_many_cases_were_tried():
    found = rows(r"^\| `(\w+)`: [^|]*\| ([\d,]+) \| ([\d,-]+) \| ([\d,-]+) \|")
    told = {name: [text.replace(",", "") for text in texts] for name, *texts in found}
    records = [campaigns_of(name) for name in BY_VERSION]
    assert set(told) == set(records[0]) | set(records[1])
    assert set(told) <= set(names())
    for name, (in_all, *held) in told.items():
        assert int(in_all) == sum(1 for _ in cases(name, full=True)), name
        for text, record in zip(held, records, strict=True):
            assert text == (str(record[name]["held"]) if name in record else "-"), name


def test_the_table_of_drifts_is_recorded():
    page = (ROOT / "docs" / "ideas" / "numerics.md").read_text()
    figures = campaigns_of(BY_VERSION[0])["drift"]["figures"]
    told = re.findall(r"^\| (0\.9{4,}) \|(.*± .*)\|$", page, re.MULTILINE)
    assert len(told) == 4
    for beta, cells in told:
        means = [float(cell.split("±")[0]) for cell in cells.split("|")]
        found = re.findall(r"([-+][\d.]+e-\d+) ±", figures[f"float32, {beta}"])
        # The page has one digit, or two.
        assert means == pytest.approx([float(x) for x in found], rel=0.35), beta


@pytest.mark.parametrize("which", [0, 1], ids=BY_VERSION)
def test_the_kills_are_recorded(which):
    kill = campaigns_of(BY_VERSION[which])["kill"]["figures"]
    (found,) = rows(
        r"(\d+) writers of our files \((\d+) saves, on jax 0.12 (\d+)\) and (\d+) of\s"
        r"Orbax's \((\d+) saves, on jax 0.12 (\d+)\)"
    )
    for name, (kills, *saves) in {
        "our file": found[:3],
        "Orbax, asynchronous": found[3:],
    }.items():
        assert kill[name] == f"{kills} kills, {saves[which]} steps, nothing lost"
    assert kill["training"] == "killed 100 times, the same bits"
    assert "a training was killed 100 times" in " ".join(PAGE.split())


SETS = {
    "float32 update, nine sets of options": (
        *("plain", "nesterov", "hat", "no correction", "amsgrad", "maximize"),
        *("amsgrad, corrected", "clip of values", "independent decay"),
    ),
    "with two clips by a norm, Nesterov momentum and epsilon hat": (
        "nesterov, hat, two clips",
    ),
    "two groups under one global norm": ("groups",),
    "weighted mean of 4 gradients, or of 3 and `flush`": (
        *("weights", "weights and flush"),
    ),
}
"""By row of the page: the sets of options."""


@pytest.mark.parametrize("which", [0, 1], ids=BY_VERSION)
def test_the_largest_errors_are_recorded(which):
    figures = campaigns_of(BY_VERSION[which])["oracle"]["figures"]
    told = rows(r"^\| (.*?) \| ([\d.]+) [a-zU].* \| ([\d.]+) [a-zU].* \| [\d.]+ \|$")
    pages = {name: float(numbers[which]) for name, *numbers in told}
    for row, sets in SETS.items():
        found = [
            float(number)
            for case, figure in figures.items()
            if re.sub(r", draw \d+$", "", case) in sets
            for number in re.findall(r"largest ([\d.]+) ULP", figure)
        ]
        assert len(found) >= 20 * len(sets)
        assert pages[row] == max(found), row
    narrow = [re.match(r"([\d.]+) ULP, and", figure) for figure in figures.values()]
    largest = max(float(found[1]) for found in narrow if found)
    assert (
        pages["parameter of 16 bits, where it and its update do not cancel"] == largest
    )
    steps = [re.match(r"([\d.e-]+) learning rates", x) for x in figures.values()]
    assert pages["100 steps of float32"] == max(float(x[1]) for x in steps if x)


FORMATS = {
    "`checkpoint.save`": "our checkpoint",
    "`optadamw convert`, `.npz`": "converted .npz",
    "`optadamw convert`, `.safetensors`": "converted .safetensors",
    "`optadamw convert`, `.pt`": "converted .pt",
    "`optadamw convert`, `.h5`": "converted .h5",
    "Orbax's folder of `to_portable`": "Orbax's folder of to_portable",
}


RECORDS_OF_FILES = ("campaigns-files.json", "campaigns-files-jax-0.12.0.1.json")
LONGEST = r"The longest took ([\d.]+) seconds, on jax 0.12.0.1 ([\d.]+), with the"


@pytest.mark.parametrize("record", RECORDS_OF_FILES)
def test_the_tables_of_flips_and_of_hostile_files_are_recorded(record):
    files = campaigns_of(record)
    flips = rows(r"^\| (.*?) \| (\d+) \| (\d+) \| (\d+) \| 0 \|$")
    flips = {name: figures for name, *figures in flips if name in FORMATS}
    assert set(flips) == set(FORMATS)
    if "0.12" in record:
        flips["Orbax's folder of `to_portable`"][1:] = rows(
            r"but for Orbax's folder: (\d+) refused, (\d+) without effect, 0 silently"
        )[0]
    for name, (tried, refused, harmless) in flips.items():
        told = files["flip"]["figures"][FORMATS[name]]
        assert told == f"{tried} flips, {refused} refused, 0 silent"
        assert int(refused) + int(harmless) == int(tried)
    bombs = rows(r"^\| `\.(\w+)` \| (\d+) \| (\d+) \| (\d+) \| 0 \|$")
    assert {name for name, *_ in bombs} == set(files["bomb"]["figures"])
    longest = dict(zip(RECORDS_OF_FILES, rows(LONGEST)[0], strict=True))[record]
    for name, tried, refused, read in bombs:
        told = files["bomb"]["figures"][name]
        assert told.startswith(f"{tried} files, {refused} refused, ")
        assert int(refused) + int(read) == int(tried)
        assert float(told.split()[-2]) <= float(longest)


@pytest.mark.parametrize("record", BY_VERSION)
def test_the_long_trainings_are_recorded(record):
    figures = campaigns_of(record)["long"]["figures"]
    number = r"(0\.\d{4})"
    page = re.sub(r"\s+", " ", PAGE)
    (told,) = re.findall(
        rf"quadratic ends {number} from its minimum \(float32 {number}\), and rows .*? "
        rf"{number}, {number} and {number} \(float32 {number}, {number}, {number}\)",
        page,
    )
    assert list(told[:2]) == re.findall(number, figures["quadratic"])
    rows = re.findall(number, figures["embedding"])
    assert list(told[2:]) == [*rows[::2], *rows[1::2]]
    (losses,) = re.findall(
        rf"transformer was {number} \(float32 {number}\) on jax 0.10 and {number} "
        rf"\({number}\) on 0.12",
        page,
    )
    first = 2 * BY_VERSION.index(record)
    own = re.findall(number, figures["transformer"])
    assert list(losses[first : first + 2]) == own
