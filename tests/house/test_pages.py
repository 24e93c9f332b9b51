"""The tables of pages are those of the committed results."""

import pytest

from benchmarks import pages


@pytest.mark.parametrize(("page", "name"), pages.TABLES)
def test_the_page_has_the_table_of_the_results(page, name):
    text = (pages.ROOT / page).read_text()
    assert pages.replaced(text, name, pages.printed(page, name)) == text


def test_a_table_replaces_what_stands_between_its_marks():
    text = "a\n\n<!-- table: t -->\n\nold\n\nolder\n\n<!-- end: t -->\n\nb"
    assert "-->\n\nnew\n\n<!--" in pages.replaced(text, "t", "new")
    for wrong in ("a\n\nb", text + text):
        with pytest.raises(ValueError, match="expected 1"):
            pages.replaced(wrong, "t", "new")


def _report(**step_s):
    case = {
        "tree": "large",
        "config": "clip",
        "parameter_bytes": 100,
        "disturbance": {"stepping": {"others": 0.25}},
        "contenders": {name: {"step_s": turns} for name, turns in step_s.items()},
    }
    return {
        "cases": [case],
        "versions": {"jax": "1", "optax": "2", "torch": "3"},
        "machine": {"cpu": "CPU"},
        "settings": {"threads": 2},
    }


def test_a_ratio_is_taken_round_by_round():
    ours = {"optadamw+native": [[1.0], [3.0]], "optadamw+xla": [[2.0], [6.0]]}
    text = pages.steps(_report(**ours, optax=[[1.0], [4.0]]))
    assert "| + global clip | 0.50 | 0.88 [0.81, 0.94] | - |" in text
    assert "CPU, 2 cores, jax 1, Optax 2; other processes took 0.2 cores" in text


def test_the_least_time_of_a_row_is_bold():
    report = _report(optadamw=[[0.002]], optax=[[0.001]], torch=[[0.003]])
    case = report["cases"][0]
    for name, taken in (("optadamw", 0.0), ("optax", 100)):
        case["contenders"][name]["temporary_bytes"] = taken
    text = pages.compared(report)
    assert "| + global clip | 2.0 | **1.0** | 3.0 |" in text
    assert text.endswith("parameters' bytes | 0.00 % | 100 % | - |")
