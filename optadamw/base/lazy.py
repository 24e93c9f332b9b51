"""Names of a package that are imported when somebody first uses them (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazily(
    package: str, sources: Mapping[str, str], public: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
      package: its `__name__`.
      sources: for each lazy name its module, or `module:name` of an object in one.
      public: its `__all__`, which is all that `dir` shows.
    """

    def find(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, inner = sources[name].partition(":")
        found = importlib.import_module(module)
        return getattr(found, inner) if inner else found

    return find, lambda: sorted(public)
