"""The record of another library: the facts about its saved state that all code uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from optadamw.base.errors import invalid

Maximum = Literal["raw", "corrected"]

DIFFERENCE = (
    "the maximum of the raw second moments, max(v_t), does not tell that of the "
    "corrected ones, max(v_t / (1 - b2^t)), nor the reverse"
)

MOMENTS = ("mu", "nu", "nu_max")
"""The fields of `State` that hold Adam's moments."""


@dataclass(frozen=True)
class Peer:
    """A library, and how its saved state differs from a `State`."""

    name: str
    """The end of the names of its functions: "torch" for `from_torch`."""
    title: str
    """The name of the library in messages."""
    keys: Mapping[str, str]
    """The fields of `State` that its state can hold, and its names for them."""
    maximum: Maximum | None = None
    """Which second moments its AMSGrad takes the maximum of; None without AMSGrad."""
    is_pairwise: bool = False
    """Whether it treats a complex number as two reals, as this library does."""
    has_gaps: bool = False
    """Whether a parameter may be without a state."""
    has_groups: bool = False
    """Whether parameters have options by groups, as in PyTorch."""
    maximizes: bool = False
    """Whether its optimizer can maximize."""
    outputs_first: bool | None = None
    """Whether its dense layers have weights of shape (outputs, inputs), instead of
    (inputs, outputs) as kernels of Flax and Keras are; None: it has no layers."""
    follows: tuple[str, ...] = ()
    """The options beyond PyTorch's AdamW that its groups can express."""

    def key(self, field: str) -> str:
        """Return the library's name for a field of `State`."""
        return self.keys.get(field, field)


def check_maximum(name: str, value: Maximum | None) -> None:
    """Refuse every value but "raw", "corrected" and None."""
    if value not in (None, "raw", "corrected"):
        raise invalid(name, "'raw', 'corrected' or None", value)
