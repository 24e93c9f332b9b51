"""Packages that only some files need, imported when such a file is read or written."""

import importlib
from types import ModuleType


class MissingPackage(ImportError):
    """A file needs a package that is not installed."""


def needed(module: str, package: str, why: str) -> ModuleType:
    """Import `module`, which `package` provides.

    Raises:
      MissingPackage: it is not installed; `why` says what needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f"{why} needs {package}, which is not installed ({error}). Install it "
            f"with: pip install {package}"
        ) from error
