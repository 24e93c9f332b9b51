"""A test that is skipped for a reason that is not listed here fails.

A version check or a missing package can switch tests off in silence; here it cannot.
"""

from typing import Any

import pytest

ALLOWED_SKIPS = {
    # PyTorch's default wheel is gigabytes: what compares with it runs where it is.
    ("test_oracle.py", "PyTorch is not installed"),
    ("test_benchmarks.py", "PyTorch is not installed"),
    ("test_benchmarks.py", "Keras is not installed"),
    ("test_loss_scale.py", "PyTorch is not installed"),
    ("test_loss_scale.py", "Keras is not installed"),
    ("test_interchange.py", "PyTorch is not installed"),
    ("test_interchange_live.py", "PyTorch is not installed"),
    ("test_interchange_live.py", "Keras is not installed"),
    ("test_interchange_live.py", "MLX is not installed"),
    ("test_interchange_live.py", "optimi is not installed"),
    ("test_interchange_live.py", "bitsandbytes is not installed"),
    ("test_interchange_live.py", "torchao is not installed"),
    ("test_interchange_files.py", "PyTorch is not installed"),
    ("test_interchange_files.py", "Keras is not installed"),
    ("test_interchange_files.py", "h5py is not installed"),
    ("test_interchange_recorded.py", "h5py is not installed"),
    ("test_dialects_live.py", "PyTorch is not installed"),
    ("test_dialects_live.py", "Keras is not installed"),
    ("test_dialects_live.py", "MLX is not installed"),
    ("test_dialects_live.py", "timm is not installed"),
    ("test_dialects_live.py", "optimi is not installed"),
    ("test_dialects_live.py", "TensorFlow is not installed"),
    ("test_dialects_live.py", "TensorFlow Addons is not installed"),
    # The guides run what they say of another library where that library is.
    ("test_dialects_guides.py", "Keras is not installed"),
    ("test_dialects_guides.py", "MLX is not installed"),
    ("test_dialects_guides.py", "PyTorch is not installed"),
    ("test_dialects_guides.py", "TensorFlow Addons is not installed"),
    ("test_dialects_guides.py", "TensorFlow with Keras 2 is not installed"),
    ("test_dialects_guides.py", "optimi is not installed"),
    ("test_dialects_guides.py", "timm is not installed"),
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Any:
    return _judged((yield))


def _judged(report: Any) -> Any:
    """The report, failed if it is that of a skip that is not listed."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return report
    path, _, reason = report.longrepr
    file, reason = path.replace("\\", "/").rpartition("/")[2], str(reason)
    reason = reason.removeprefix("Skipped: ")
    if (file, reason) not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} is skipped for a reason that tests/conftest.py does not "
            f"list: {reason}"
        )
    return report
