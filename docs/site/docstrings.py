"""An extension of Griffe: the section "Example:" of our docstrings is code that runs.

Griffe knows the section as "Examples:", and takes "Example:" for prose.
"""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Rename the section when a docstring has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of one object."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = text.replace("\nExample:\n", "\nExamples:\n")
