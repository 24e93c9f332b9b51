"""The rooms of the house, read from docs/ideas/design.md: modules import downwards."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "optadamw"
PAGE = re.search(
    r"## Layers\n(.*?)\n## ", (ROOT / "docs/ideas/design.md").read_text(), re.S
)
TABLE = re.search(r"```text\n(.*?)```", PAGE[1], re.S)[1].splitlines()
NEVER = re.findall(r"^\| (`[^|]+) \| (`[^|]+) \| ([^|]+) \|$", PAGE[1], re.M)

ABOVE = {"__init__": "integrations", "__main__": "cli"}
"""The table of contents and the entry point: above this room, below the next."""

LAZY = {
    "base/lazy": "names that are imported when somebody first uses them",
    "cli/main": "`--help` must not wait for Flax, scikit-learn or Matplotlib",
    "leaf/pallas/kernel": "Pallas is experimental, and a CPU's user needs none of it",
    "checkpoint/replacing": "Windows has no fcntl",
    "dialects/files/packages": "a .pt takes PyTorch, a .h5 h5py, and no other file",
}
"""Modules that may import when they run, and why."""


TABLES = ("transforms/options",)
"""Modules that are a table and nothing else, which may be longer than 300 lines."""


class Never(NamedTuple):
    """Modules that must not import others, as patterns on their paths."""

    importer: str
    imported: str


class Layers(NamedTuple):
    """The place of every module of a package."""

    lines: list[list[str]]
    never: list[Never]
    above: dict[str, str]
    lazy: dict[str, str]

    def place(self, module: str) -> tuple[float, str] | None:
        """The line of the table and the room of a module; None if unlisted."""
        if module in self.above:
            below = self.place(self.above[module])
            return below and (below[0] + 0.5, module)
        room = module.partition("/")[0]
        for number, names in enumerate(self.lines):
            if room in names:
                return number, room
        return None

    def is_below(self, imported: str, module: str) -> bool:
        """Whether `module` may import `imported`; what is unlisted is found itself."""
        lower, upper = self.place(imported), self.place(module)
        if lower is None or upper is None:
            return True
        return lower[0] < upper[0] or lower[1] == upper[1]

    def forbids(self, imported: str, module: str) -> bool:
        return any(
            fnmatchcase(module, importer) and fnmatchcase(imported, target)
            for importer, target in self.never
        )


def nevers(rows: list[tuple[str, str, str]]) -> Iterator[Never]:
    """The rows of the page's second table, one for each pair of patterns."""
    for importers, targets, _ in rows:
        for importer in re.findall(r"`([^`]+)`", importers):
            for target in re.findall(r"`([^`]+)`", targets):
                yield Never(importer, target)


REAL = Layers([line.split(", ") for line in TABLE], [*nevers(NEVER)], ABOVE, LAZY)


def modules(package: Path) -> list[str]:
    """Every module of a package, as a path in it without its suffix."""
    paths = package.rglob("*.py")
    return sorted(p.relative_to(package).with_suffix("").as_posix() for p in paths)


def violations(package: Path, module: str, layers: Layers) -> Iterator[str]:
    """Yield each import of a module that the layers forbid."""
    tree = ast.parse((package / f"{module}.py").read_text())
    if layers.place(module) is None:
        yield f"{module} has no layer"
        return
    at_the_top = set(_imports_at_the_top(tree))
    for_types = set(_imports_for_types(tree))
    for node in ast.walk(tree):
        for target in _targets(node) if node not in for_types else ():
            if node not in at_the_top:
                yield f"{module}:{node.lineno} imports {target} below the top"
            first, *rest = target.split(".")
            if not first:
                yield f"{module}:{node.lineno} imports {target}, which is relative"
            elif first != package.name:
                if any(p.startswith("_") and not p.startswith("__") for p in rest):
                    yield f"{module}:{node.lineno} imports {target}, which is private"
            else:
                imported = module_of(package, rest)
                if not layers.is_below(imported, module):
                    yield f"{module}:{node.lineno} imports {imported}, not below it"
                elif layers.forbids(imported, module):
                    yield f"{module}:{node.lineno} imports {imported}, and never may"
        if _is_private_access(node):
            yield f"{module}:{node.lineno} reads a private module"
        if _is_dynamic(node) and module not in layers.lazy:
            yield f"{module}:{node.lineno} imports when it runs"


def circles(package: Path) -> list[str]:
    """The modules that import one another, directly or by way of others."""
    imports = {module: _imports_of(package, module) for module in modules(package)}
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            found.append(" -> ".join((*way[way.index(module) :], module)))
        elif module not in done:
            for target in sorted(imports[module] - {module}):
                visit(target, (*way, module))
            done.add(module)

    for module in imports:
        visit(module, ())
    return found


def _imports_of(package: Path, module: str) -> set[str]:
    tree = ast.parse((package / f"{module}.py").read_text())
    nodes = set(ast.walk(tree)) - set(_imports_for_types(tree))
    targets = (target for node in nodes for target in _targets(node))
    return {
        module_of(package, rest)
        for first, *rest in (target.split(".") for target in targets)
        if first == package.name
    }


def _imports_at_the_top(tree: ast.Module) -> Iterator[ast.stmt]:
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    for node in body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            return
        yield node


def _imports_for_types(tree: ast.Module) -> Iterator[ast.stmt]:
    """Imports that only a type checker makes, of what is lazy when the code runs."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "_TYPE_CHECKING":
            yield from node.body


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        source = "." * node.level + (node.module or "")
        return [f"{source}.{alias.name}" for alias in node.names]
    return []


def module_of(package: Path, parts: list[str]) -> str:
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


def test_no_imports_form_a_circle():
    assert circles(PACKAGE) == []


def test_every_room_of_the_table_is_there():
    found = {module.partition("/")[0] for module in modules(PACKAGE)}
    listed = [name for line in REAL.lines for name in line]
    assert sorted(listed) == sorted(found - set(ABOVE))
    assert set(LAZY) <= set(modules(PACKAGE))


def test_every_never_speaks_of_modules_that_are_there():
    found = modules(PACKAGE)
    assert len(REAL.never) >= 15
    for never in REAL.never:
        assert any(fnmatchcase(module, never.importer) for module in found), never
        assert any(fnmatchcase(module, never.imported) for module in found), never


def test_no_file_of_the_package_is_long():
    """At most 300 lines, but for a file that is a table."""
    lines = {
        m: len((PACKAGE / f"{m}.py").read_text().splitlines()) for m in modules(PACKAGE)
    }
    long = {m: n for m, n in lines.items() if n > 300 and m not in TABLES}
    assert long == {}
    assert all(m in lines for m in TABLES)


# --- The check itself ----------------------------------------------------------------

TOY = Layers(
    lines=[["base"], ["rules", "store"], ["top"], ["side", "app"]],
    never=[Never("rules/*", "base/tree")],
    above={"__init__": "app"},
    lazy={},
)
GOOD = {
    "base/__init__": "",
    "base/types": "from __future__ import annotations\nimport jax.numpy as jnp\n",
    "base/tree": "from toy.base.types import thing\n",
    "rules/one": "from toy.base.types import thing\nfrom toy.base import types\n",
    "rules/two": "import toy.base.types\nfrom toy.rules.one import rule\n",
    "store/dense": "",
    "top": "from toy.rules.one import rule\n",
    "__init__": "from toy.top import everything\n\nversion = 1\n",
    "side": "",
    "app/__init__": "from toy.app.high import x\n",
    "app/low": "",
    "app/high": "from toy.app.low import x\nfrom toy.app import low\n",
}
BAD = {
    "upwards": ("base/types", "from toy.top import x\n", "not below it"),
    "upwards by a name": ("base/types", "from toy import top\n", "not below it"),
    "upwards, plainly": ("base/types", "import toy.rules.two\n", "not below it"),
    "the root": ("rules/one", "from toy import x\n", "not below it"),
    "a room beside it": ("rules/one", "import toy.store.dense\n", "not below it"),
    "never": ("rules/one", "from toy.base.tree import x\n", "and never may"),
    "in a function": ("top", "def f():\n    import math\n", "below the top"),
    "in a condition": ("top", "if 1:\n    import math\n", "below the top"),
    "after code": ("top", "x = 1\nimport math\n", "below the top"),
    "relative": ("top", "from .base import x\n", "is relative"),
    "a file beside a folder": ("app/high", "import toy.side\n", "not below it"),
    "private": ("base/types", "from jax._src import core\n", "is private"),
    "a private member": ("base/types", "from optax import _src\n", "is private"),
    "a private attribute": (
        "base/types",
        "import jax\ny = jax._src.x\n",
        "private mod",
    ),
    "dynamic": ("top", "import importlib\nimportlib.import_module('x')\n", "when it"),
    "builtin": ("top", "__import__('x')\n", "when it runs"),
    "unlisted": ("new", "", "has no layer"),
    "unlisted in a folder": ("new/file", "", "has no layer"),
}


def _written(package: Path, sources: dict[str, str]) -> Path:
    for module, source in sources.items():
        path = package / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


def _found(tmp_path: Path, changes: dict[str, str]) -> list[str]:
    package = _written(tmp_path / "toy", GOOD | changes)
    return [v for m in modules(package) for v in violations(package, m, TOY)]


def test_a_good_package_passes(tmp_path):
    assert _found(tmp_path, {}) == []
    assert circles(tmp_path / "toy") == []


@pytest.mark.parametrize(("module", "source", "message"), BAD.values(), ids=BAD)
def test_a_bad_module_is_found(module, source, message, tmp_path):
    (found,) = _found(tmp_path, {module: source})
    assert found.startswith(module) and message in found


@pytest.mark.parametrize(
    "never", REAL.never, ids=lambda n: f"{n.importer}-{n.imported}"
)
def test_each_never_can_fail(never, tmp_path):
    """One import of each kind that the page forbids, in a package of two modules."""
    importer = never.importer.replace("*", "one")
    imported = never.imported.replace("*", "two")
    source = f"import optadamw.{imported.replace('/', '.')}\n"
    package = _written(tmp_path / "optadamw", {importer: source, imported: ""})
    (found,) = violations(package, importer, REAL)
    assert "not below it" in found or "and never may" in found
    package = _written(tmp_path / "optadamw", {importer: "import math\n"})
    assert list(violations(package, importer, REAL)) == []


def test_a_circle_within_a_room_is_found(tmp_path):
    package = _written(tmp_path / "toy", GOOD | {"app/low": "import toy.app.high\n"})
    assert circles(package) == ["app/high -> app/low -> app/high"]


def test_a_lazy_import_is_allowed_where_it_is_listed(tmp_path):
    _, source, _ = BAD["dynamic"]
    _found(tmp_path, {"top": source})
    lazy = TOY._replace(lazy={"top": "a reason"})
    assert list(violations(tmp_path / "toy", "top", lazy)) == []
