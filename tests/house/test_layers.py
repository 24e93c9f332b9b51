"""The architecture's layers, read from `docs/design.md`: modules import downwards."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "optadamw"
TABLE = re.search(
    r"## Layers\n.*?```text\n(.*?)```", (ROOT / "docs/design.md").read_text(), re.S
)[1].splitlines()

INSIDE = {
    "commits": ["narrow", "kahan, master, stochastic, __init__"],
    "memory": ["arguments, plan, shapes", "command", "__init__"],
    "checkpoint": [
        "damage, fitting, inside, names, rename, replacing, report",
        "arrays, blocks, matching, record",
        "meaning, packed, window",
        "portable",
        "decisions, file, source",
        "draft, params",
        "restore",
        "__init__",
    ],
    "interchange": [
        "arguments, arrays, naming, nesting, packages, peer, powers, records, "
        "safetensors, settings",
        "blocks, contents, packing",
        "state_dict",
        "files, request, variables",
        "checkpoints, entering, leaving",
        "assembly, grouping",
        "bitsandbytes, flux, keras, mlx, optax, optimi, tensorflow_addons, torch, "
        "torchao",
        "tensorflow, timm",
        "conversion",
        "command, __init__",
    ],
    "dialects": [
        "checks, door",
        "callables, every_call, selections",
        "keras_arguments, torch_arguments",
        "flux, keras, mlx, optax, optimi, paper",
        "r_keras3, tensorflow, tensorflow_addons, timm, torch",
        "catalogue",
        "arguments, page",
        "command",
        "__init__",
    ],
    "integrations": ["flush", "flax_nnx, flax_linen, equinox, __init__"],
    "demo": [
        "settings",
        "arguments, data, model, optimizers",
        "evaluation",
        "training",
        "progress, report, summary",
        "command",
        "__init__",
    ],
}
"""Folders with layers of their own, where the table names the folder alone."""

ABOVE = {"__init__": "describe", "__main__": "cli"}
"""The table of contents and the entry point: above this line, below the next."""

LAZY = {
    "cli": "`--help` must not wait for Flax, scikit-learn or Matplotlib",
    "tiles": "Pallas is experimental: who does not ask for it does not import it",
    "interchange/packages": "a .pt takes PyTorch, a .h5 h5py, and no other file does",
}
"""Modules that may import when they run, and why."""


class Layers(NamedTuple):
    """Where every module of a package stands."""

    lines: list[list[str]]
    inside: dict[str, list[str]]
    above: dict[str, str]
    lazy: dict[str, str]

    def place(self, module: str) -> tuple[float, int] | None:
        """The line of the table, and the line inside a folder; None if unlisted."""
        folder, _, rest = module.rpartition("/")
        if module in self.above:
            below = self.place(self.above[module])
            return below and (below[0] + 0.5, 0)
        for number, names in enumerate(self.lines):
            if any(fnmatchcase(module, name) for name in names):
                return number, 0
            if folder in names and folder in self.inside:
                for inner, text in enumerate(self.inside[folder]):
                    if rest in text.split(", "):
                        return number, inner
        return None

    def is_below(self, imported: str, module: str) -> bool:
        """Whether `module` may import `imported`; what is unlisted is found itself."""
        lower, upper = self.place(imported), self.place(module)
        if lower is None or upper is None:
            return True
        folders = {name.rpartition("/")[0] for name in (imported, module)}
        is_inside = lower[0] == upper[0] and folders <= set(self.inside)
        return lower < upper if is_inside else lower[0] < upper[0]


REAL = Layers([line.split(", ") for line in TABLE], INSIDE, ABOVE, LAZY)


def modules(package: Path) -> list[str]:
    """Every module of a package, as a path in it without its suffix."""
    paths = package.rglob("*.py")
    return sorted(p.relative_to(package).with_suffix("").as_posix() for p in paths)


def violations(package: Path, module: str, layers: Layers) -> Iterator[str]:
    """What one module does that the layers forbid."""
    tree = ast.parse((package / f"{module}.py").read_text())
    if layers.place(module) is None:
        yield f"{module} has no layer"
        return
    at_the_top = set(_imports_at_the_top(tree))
    for node in ast.walk(tree):
        for target in _targets(node):
            if node not in at_the_top:
                yield f"{module}:{node.lineno} imports {target} below the top"
            first, *rest = target.split(".")
            if not first:
                yield f"{module}:{node.lineno} imports {target}, which is relative"
            elif first != package.name:
                if any(p.startswith("_") and not p.startswith("__") for p in rest):
                    yield f"{module}:{node.lineno} imports {target}, which is private"
            elif not layers.is_below(imported := _module_of(package, rest), module):
                yield f"{module}:{node.lineno} imports {imported}, which is not below"
        if _is_private_access(node):
            yield f"{module}:{node.lineno} reads a private module"
        if _is_dynamic(node) and module not in layers.lazy:
            yield f"{module}:{node.lineno} imports when it runs"


def _imports_at_the_top(tree: ast.Module) -> Iterator[ast.stmt]:
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    for node in body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            return
        yield node


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        source = "." * node.level + (node.module or "")
        return [f"{source}.{alias.name}" for alias in node.names]
    return []


def _module_of(package: Path, parts: list[str]) -> str:
    """The module that `parts` leads to; its last ones may be names inside it."""
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        for module in (path, f"{path}/__init__"):
            if (package / f"{module}.py").exists():
                return module
    return "__init__"


def _is_private_access(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "_src"


def _is_dynamic(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = (
        called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    )
    return name in ("import_module", "__import__")


@pytest.mark.parametrize("module", modules(PACKAGE))
def test_a_module_imports_downwards(module):
    assert list(violations(PACKAGE, module, REAL)) == []


def test_every_line_of_the_table_has_modules():
    found = modules(PACKAGE)
    folders = {m.rpartition("/")[0] for m in found}
    for names in REAL.lines:
        for name in names:
            is_there = any(fnmatchcase(m, name) for m in found) or name in folders
            assert is_there, f"{name} is no module"
    for folder, lines in INSIDE.items():
        listed = {f"{folder}/{name}" for line in lines for name in line.split(", ")}
        assert listed == {m for m in found if m.startswith(f"{folder}/")}
    assert set(LAZY) <= set(found)


# --- The check itself ----------------------------------------------------------------

TOY = Layers(
    lines=[["base", "types"], ["rules/*"], ["top"], ["side", "app"]],
    inside={"app": ["low", "high, __init__"]},
    above={"__init__": "top"},
    lazy={},
)
GOOD = {
    "base": '"""Doc."""\nimport math\nimport jax.numpy as jnp\n',
    "types": "from __future__ import annotations\n",
    "rules/one": "from toy.base import thing\nfrom toy import types\n",
    "rules/two": "import toy.base\n",
    "top": "from toy.rules.one import rule\n",
    "__init__": "from toy.top import everything\n\nversion = 1\n",
    "side": "",
    "app/__init__": "",
    "app/low": "import toy\n",
    "app/high": "from toy.app.low import x\nfrom toy.app import low\n",
}
BAD = {
    "upwards": ("base", "from toy.top import x\n", "which is not below"),
    "upwards by a name": ("base", "from toy import top\n", "which is not below"),
    "upwards, plainly": ("base", "import toy.rules.two\n", "which is not below"),
    "the root": ("rules/one", "from toy import x\n", "which is not below"),
    "sideways": ("base", "from toy.types import x\n", "which is not below"),
    "between rules": ("rules/one", "import toy.rules.two\n", "which is not below"),
    "inside a folder": ("app/low", "from toy.app import high\n", "which is not below"),
    "in a function": ("top", "def f():\n    import math\n", "below the top"),
    "in a condition": ("top", "if 1:\n    import math\n", "below the top"),
    "after code": ("top", "x = 1\nimport math\n", "below the top"),
    "relative": ("top", "from .base import x\n", "is relative"),
    "beside a folder": ("app/high", "import toy.side\n", "which is not below"),
    "private": ("base", "from jax._src import core\n", "is private"),
    "a private member": ("base", "from optax import _src\n", "is private"),
    "a private attribute": ("base", "import jax\ny = jax._src.x\n", "private module"),
    "dynamic": ("top", "import importlib\nimportlib.import_module('x')\n", "when it"),
    "builtin": ("top", "__import__('x')\n", "when it runs"),
    "unlisted": ("new", "", "has no layer"),
    "unlisted in a folder": ("app/new", "", "has no layer"),
}


def _toy(tmp_path: Path, changes: dict[str, str]) -> list[str]:
    package = tmp_path / "toy"
    for module, source in (GOOD | changes).items():
        path = package / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return [v for m in modules(package) for v in violations(package, m, TOY)]


def test_a_good_package_passes(tmp_path):
    assert _toy(tmp_path, {}) == []


@pytest.mark.parametrize(("module", "source", "message"), BAD.values(), ids=BAD)
def test_a_bad_module_is_found(module, source, message, tmp_path):
    (found,) = _toy(tmp_path, {module: source})
    assert found.startswith(module) and message in found


def test_a_lazy_import_is_allowed_where_it_is_listed(tmp_path):
    _, source, _ = BAD["dynamic"]
    _toy(tmp_path, {"top": source})
    lazy = TOY._replace(lazy={"top": "a reason"})
    assert list(violations(tmp_path / "toy", "top", lazy)) == []
