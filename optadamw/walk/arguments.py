"""The keywords that a step reads; others are for other transformations."""

import difflib
from collections.abc import Iterable

ARGUMENTS = ("loss", "weight", "grad_norm")


def refuse_misspelt(given: Iterable[str]) -> None:
    """Refuse a keyword that is almost one of a step, such as `weights`.

    Raises:
      TypeError: there is one. Other unknown keywords are ignored, as in Optax, where
        one call serves transformations with different arguments.
    """
    for name in given:
        near = difflib.get_close_matches(name, ARGUMENTS, n=1, cutoff=0.75)
        if name not in ARGUMENTS and near:
            raise TypeError(
                f"`{name}` is no argument of a step, and `{near[0]}` is. Write "
                f"`{near[0]}`, or leave it out: it would have no effect."
            )
