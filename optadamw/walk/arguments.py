"""The keywords that a step reads; others are for other transformations."""

from collections.abc import Iterable
from difflib import SequenceMatcher

ARGUMENTS = ("loss", "weight", "grad_norm")


def refuse_misspelt(given: Iterable[str]) -> None:
    """Refuse a keyword that is almost one of a step, such as `weights`.

    Raises:
      TypeError: there is one. Other unknown keywords are ignored, as in Optax, where
        one call serves transformations with different arguments.
    """
    for name in given:
        for known in ARGUMENTS:
            if name not in ARGUMENTS and _is_almost(name, known):
                raise TypeError(
                    f"`{name}` is no argument of a step, and `{known}` is. Write "
                    f"`{known}`, or leave it out: it would have no effect."
                )


def _is_almost(name: str, known: str) -> bool:
    """Whether letters changed places or size, or one of seven is missing or too many.

    An s at the end may be too many besides.
    """
    plain = name.lower()
    likeness = SequenceMatcher(None, plain, known).ratio()
    letters = [sorted(known + end) for end in ("", "s")]
    return sorted(plain) in letters or likeness > 0.85
