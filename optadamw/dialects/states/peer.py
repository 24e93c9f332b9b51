"""What another library keeps in its saved state, as far as it matters here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from optadamw.base.errors import invalid

Maximum = Literal["raw", "corrected"]

DIFFERENCE = (
    "the maximum of the raw second moments, max(v_t), does not tell that of the "
    "corrected ones, max(v_t / (1 - b2^t)), nor the reverse"
)


@dataclass(frozen=True)
class Peer:
    """A library, and how its state differs from ours."""

    title: str
    """How messages call it."""
    keys: Mapping[str, str]
    """The fields of State that its state can hold, and what it calls them."""
    maximum: Maximum | None = None
    """Which second moments its AMSGrad takes the maximum of."""
    is_pairwise: bool = False
    """Whether it treats a complex number as two reals, as we do."""
    has_gaps: bool = False
    """Whether a parameter may be without a state."""

    def key(self, field: str) -> str:
        """What it calls a field of State."""
        return self.keys.get(field, field)


def check_maximum(name: str, value: Maximum | None) -> None:
    """Refuse another kind of maximum than there are."""
    if value not in (None, "raw", "corrected"):
        raise invalid(name, "'raw', 'corrected' or None", value)
