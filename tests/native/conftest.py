"""Kernels are compiled here as users have them, and not as quickly as possible."""

import os

import pytest

from tests.conftest import QUICK_CC


@pytest.fixture(autouse=True, scope="module")
def _the_compiler_of_users():
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("CC") == QUICK_CC:
            patch.delenv("CC")
        yield
