"""Import a package's names at their first use (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazily(
    package: str, sources: Mapping[str, str], public: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package with lazily imported names.

    Args:
      package: the package's `__name__`.
      sources: maps each lazy name to its module, or to `module:object` for an object
        inside a module.
      public: the package's `__all__`; `dir` lists these names only.
    """

    def find(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, inner = sources[name].partition(":")
        imported = importlib.import_module(module)
        return getattr(imported, inner) if inner else imported

    return find, lambda: sorted(public)
