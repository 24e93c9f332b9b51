"""The page on Keras, and the docstring of its optimizer, run beside the real Keras."""

import doctest
import os
import re
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="Keras is not installed")
from optadamw.integrations import keras as integration  # noqa: E402

ROOT = Path(__file__).parents[2]


def test_the_page_runs(capsys):
    keras.utils.clear_session()  # names of layers are counted
    page = (ROOT / "docs" / "guides" / "keras.md").read_text()
    blocks = re.findall(r"^```python keras\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) >= 5 and page.count("```python") == len(blocks)
    namespace = {"__name__": "snippet"}
    for block in blocks:
        exec(compile(block, "docs/guides/keras.md", "exec"), namespace)
    assert "dense/kernel" in capsys.readouterr().out


def test_the_docstring_runs():
    result = doctest.testmod(integration, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0
