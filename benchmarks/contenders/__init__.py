"""The compared implementations, one per file, and the list of the installed ones."""

import importlib

from benchmarks.contenders.contender import Contender
from optadamw.native.kernel import Refusal, usable_compiler

# The order of the table: ours first, then from the closest relative outward.
_PLACES = {
    "optadamw": ("optadamw_adamw", "STEP"),
    "optadamw-update": ("optadamw_adamw", "UPDATE"),
    "optax": ("optax_adamw", "CONTENDER"),
    "keras": ("keras_adamw", "CONTENDER"),
    "torch": ("torch_adamw", "CONTENDER"),
    "add": ("costs", "ADD"),
    "set-or-add": ("costs", "SET_OR_ADD"),
    "read": ("costs", "READ"),
}
NAMES = tuple(_PLACES)
_PEERS = ("keras", "torch")


def find(name: str) -> Contender | str:
    """Imports a contender, or says in words why it cannot take part.

    `optadamw+part+part` is the step of optadamw with these parts besides.
    """
    if name.startswith("optadamw+"):
        ours = importlib.import_module(f"{__name__}.optadamw_adamw")
        parts = name.split("+")[1:]
        compiler = usable_compiler() if "native" in parts else None
        if isinstance(compiler, Refusal):
            return compiler.reason
        return ours.with_parts(*parts)
    module, attribute = _PLACES[name]
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        # Anything else that is missing is a broken installation, not an absent peer.
        if error.name not in _PEERS:
            raise
        return "not installed"
