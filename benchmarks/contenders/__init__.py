"""The implementations that are compared, one per file, and which are installed."""

import importlib

from benchmarks.contenders.contender import Contender

# The order of the table: ours first, then from the closest relative outward.
_PLACES = {
    "optadamw": ("optadamw_adamw", "STEP"),
    "optadamw-update": ("optadamw_adamw", "UPDATE"),
    "optax": ("optax_adamw", "CONTENDER"),
    "keras": ("keras_adamw", "CONTENDER"),
    "torch": ("torch_adamw", "CONTENDER"),
}
NAMES = tuple(_PLACES)
_PEERS = ("keras", "torch")


def find(name: str) -> Contender | str:
    """Imports a contender, or says in words why it cannot take part."""
    module, attribute = _PLACES[name]
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        # Anything else that is missing is a broken installation, not an absent peer.
        if error.name not in _PEERS:
            raise
        return "not installed"
