"""Rules for all tests: skips are listed, and programs are compiled once.

A test that is skipped for a reason that is not listed here fails: a version check or a
missing package can switch tests off in silence elsewhere.

XLA takes most of the time of this suite, and many tests compile a program that another
test, another worker or a process of its own compiled before. All of one run share one
folder of compiled programs, which is made anew for each run and removed after it. It
also has the kernels, which a C compiler makes.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.lanes import COLLECTED, is_in, is_short

CACHE = "JAX_COMPILATION_CACHE_DIR"
OWN_CACHE = CACHE not in os.environ
if OWN_CACHE:  # JAX reads these when it is imported, here and in the workers
    os.environ[CACHE] = tempfile.mkdtemp(prefix="optadamw-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ.setdefault("OPTADAMW_CACHE_DIR", f"{os.environ[CACHE]}/kernels")

QUICK_CC = f"{os.environ[CACHE]}/cc"
if OWN_CACHE and "CC" not in os.environ and (found := shutil.which("cc")):
    # Most tests run a kernel a few times. gcc makes it in 0.15 s of CPU time instead of
    # 0.25 to 0.95, with equal bits; tests/native has kernels as users have them.
    Path(QUICK_CC).write_text(f'#!/bin/sh\nexec {found} "$@" -O0\n')
    Path(QUICK_CC).chmod(0o700)
    os.environ["CC"] = QUICK_CC

# An assertion of a helper, too, says which values it compared.
FOLDERS = [path.parent.name for path in Path(__file__).parent.glob("*/__init__.py")]
pytest.register_assert_rewrite(*(f"tests.{name}" for name in FOLDERS))

ALLOWED_SKIPS = {
    # By the path of the file in this folder, and the reason.
    # PyTorch's default wheel is gigabytes: what compares with it runs where it is.
    ("cli/test_demo_report.py", "Chromium is not installed"),
    ("support/test_oracle.py", "PyTorch is not installed"),
    ("house/test_benchmarks.py", "PyTorch is not installed"),
    ("house/test_benchmarks.py", "Keras is not installed"),
    ("house/test_docs.py", "Keras is not installed"),
    ("house/test_flashoptim.py", "flashoptim-jax is not installed"),
    ("house/test_studies.py", "PyTorch is not installed"),
    ("house/test_studies.py", "torchao is not installed"),
    ("integrations/test_keras.py", "Keras is not installed"),
    ("integrations/test_keras_adjustable.py", "Keras is not installed"),
    ("integrations/test_keras_average.py", "Keras is not installed"),
    ("integrations/test_keras_processes.py", "Keras is not installed"),
    ("integrations/test_keras_processes.py", "PyTorch is not installed"),
    ("integrations/test_keras_prose.py", "Keras is not installed"),
    ("integrations/test_keras_state.py", "Keras is not installed"),
    ("rules/test_schedule_free.py", "PyTorch is not installed"),
    ("rules/test_schedule_free.py", "schedulefree is not installed"),
    ("rules/test_slow_moment.py", "PyTorch is not installed"),
    ("rules/test_slow_moment.py", "bitsandbytes is not installed"),
    ("rules/test_clip_update.py", "PyTorch is not installed"),
    ("rules/test_clip_update.py", "optimi is not installed"),
    ("control/test_loss_scale.py", "PyTorch is not installed"),
    ("control/test_loss_scale.py", "Keras is not installed"),
    ("house/test_face.py", "mypy is not installed"),
    # A compiler of 200 MB: tests of what it makes run where it is.
    ("leaf/test_topology.py", "libtpu is not installed"),
    *(
        (f"native/test_{name}.py", "no C compiler")
        for name in (
            *("operations", "cache", "pass", "blocks", "norm"),
            *("laws", "devices", "sanitizers", "aarch64", "shapes", "default"),
        )
    ),
    (
        "native/test_aarch64.py",
        "no x86-64 with aarch64-linux-gnu-gcc and qemu-aarch64",
    ),
    (
        "native/test_sanitizers.py",
        "the sanitizers of the C compiler are not installed",
    ),
    ("interchange/test_agreement.py", "PyTorch is not installed"),
    ("interchange/test_bounds.py", "PyTorch is not installed"),
    ("interchange/test_bounds.py", "h5py is not installed"),
    ("interchange/test_bounds_hdf5.py", "h5py is not installed"),
    ("interchange/test_command.py", "PyTorch is not installed"),
    ("interchange/test_damaged_keras.py", "h5py is not installed"),
    ("interchange/test_files.py", "PyTorch is not installed"),
    ("interchange/test_found_names.py", "PyTorch is not installed"),
    ("interchange/test_orders.py", "PyTorch is not installed"),
    ("interchange/test_orders.py", "h5py is not installed"),
    ("interchange/test_models.py", "PyTorch is not installed"),
    ("interchange/test_models.py", "h5py is not installed"),
    ("interchange/test_strangers.py", "h5py is not installed"),
    ("interchange/test_files.py", "Keras is not installed"),
    ("interchange/test_files.py", "h5py is not installed"),
    ("interchange/test_live_torch.py", "PyTorch is not installed"),
    ("interchange/test_live_keras.py", "Keras is not installed"),
    ("interchange/test_live_others.py", "PyTorch is not installed"),
    ("interchange/test_live_others.py", "MLX is not installed"),
    ("interchange/test_live_others.py", "optimi is not installed"),
    ("interchange/test_live_others.py", "bitsandbytes is not installed"),
    ("interchange/test_live_others.py", "torchao is not installed"),
    ("interchange/test_recorded.py", "h5py is not installed"),
    ("interchange/test_shared_arguments.py", "mypy is not installed"),
    ("dialects/test_phrases.py", "PyTorch is not installed"),
    ("dialects/test_phrases.py", "Keras is not installed"),
    ("dialects/test_live.py", "PyTorch is not installed"),
    ("dialects/test_live.py", "Keras is not installed"),
    ("dialects/test_live.py", "MLX is not installed"),
    ("dialects/test_live.py", "timm is not installed"),
    ("dialects/test_live.py", "optimi is not installed"),
    ("dialects/test_live.py", "TensorFlow is not installed"),
    ("dialects/test_live.py", "TensorFlow Addons is not installed"),
    # The guides run what they say of another library where that library is.
    ("dialects/test_guides.py", "Keras is not installed"),
    ("dialects/test_guides.py", "MLX is not installed"),
    ("dialects/test_guides.py", "PyTorch is not installed"),
    ("dialects/test_guides.py", "TensorFlow Addons is not installed"),
    ("dialects/test_guides.py", "TensorFlow with Keras 2 is not installed"),
    ("dialects/test_guides.py", "optimi is not installed"),
    ("dialects/test_guides.py", "timm is not installed"),
    # Loops of other libraries, which a lane of .ci/run installs.
    *(
        ("foreign/test_libraries.py", f"{library} is not installed")
        for library in (
            *("numpyro", "flowjax", "blackjax", "evosax", "gpjax"),
            *("penzai", "haiku", "sbx", "tunix", "netket"),
        )
    ),
    ("foreign/test_optax.py", "another Optax"),
    # XLA's compilers for devices, which the lanes of .ci/run install by themselves.
    ("reports/test_topology.py", "libtpu is not installed"),
    ("reports/test_topology.py", "JAX's plugin for CUDA is not installed"),
    ("topology/test_model.py", "libtpu is not installed"),
    ("topology/test_model.py", "JAX's plugin for CUDA is not installed"),
    ("topology/test_peak.py", "libtpu is not installed"),
    ("topology/test_peak.py", "JAX's plugin for CUDA is not installed"),
    ("topology/test_release.py", "libtpu is not installed"),
    ("topology/test_release.py", "JAX's plugin for CUDA is not installed"),
    ("topology/test_compiled.py", "libtpu is not installed"),
    ("topology/test_compiled.py", "JAX's plugin for CUDA is not installed"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    lanes = ["short", "long", "all"]
    told = "which tests to run, see tests/lanes.py (default: short)"
    parser.addoption("--lane", choices=lanes, default="short", help=told)
    told = "1/3: each third test of the lane, from the first on (default: all)"
    parser.addoption("--part", default="1/1", help=told)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    config.stash[COLLECTED] = list(items)
    lane = config.option.lane
    # Whoever names a test wants it.
    if config.option.keyword or _names_tests(config):
        return
    chosen = [lane == "all" or short == (lane == "short") for short in is_short(items)]
    places = iter(is_in(config.option.part, sum(chosen)))
    chosen = [yes and next(places) for yes in chosen]
    out = [item for item, yes in zip(items, chosen, strict=True) if not yes]
    items[:] = [item for item, yes in zip(items, chosen, strict=True) if yes]
    config.hook.pytest_deselected(items=out)


def _names_tests(config: pytest.Config) -> bool:
    return any("::" in argument for argument in config.args)


def pytest_unconfigure() -> None:
    if OWN_CACHE:  # the process that made it, and not one of its workers
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


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
    file = report.nodeid.partition("::")[0].removeprefix("tests/")
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if (file, reason) not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} is skipped for a reason that tests/conftest.py does not "
            f"list: {reason}"
        )
    return report
