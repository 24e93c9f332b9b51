"""The report of a restore, for a person to read or a program to check."""

from collections.abc import Iterable
from dataclasses import dataclass

from optadamw.base.errors import some

_MOST = 4
"""The largest number of names that are listed; more names are counted."""


@dataclass(frozen=True)
class Report:
    """The result of a restore for each leaf, by the names of `to_portable`.

    Attributes:
      step: number of optimizer steps that the restored state has taken.
      kept: leaves that were restored from the saved state.
      fresh: leaves that start as `tx.init(params)` makes them.
      left_over: saved leaves that were not used.
      renamed: pairs of a restored leaf and its saved name, if the two differ.
      cast: restored leaves whose dtype changed, with the old and the new dtype.
      moved: restored leaves that lie otherwise than when they were saved, with the old
        and the new layout, as far as the old one is known.
      changed: parts of the chain that only the saved ("- ...") or only the new
        transformation ("+ ...") has.
      notes: consequences for the training, in sentences.
    """

    step: int
    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    cast: tuple[tuple[str, str, str], ...] = ()
    moved: tuple[tuple[str, str, str], ...] = ()
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all leaves were restored without a cast, and none is left over."""
        return not (self.fresh or self.left_over or self.cast)

    def __str__(self) -> str:
        lines = [f"Restored step {self.step:,}."]
        lines += _row("kept", grouped(self.kept))
        lines += _row("fresh", grouped(self.fresh))
        lines += _row("left over", grouped(self.left_over))
        renamed = [f"{new} from {old}" for new, old in self.renamed]
        lines += _row("renamed", some(renamed, _MOST))
        cast = [f"{name} {old} to {new}" for name, old, new in self.cast]
        lines += _row("cast", some(cast, _MOST))
        layouts: dict[str, list[str]] = {}
        for name, old, new in self.moved:
            layouts.setdefault(f"from {old} to {new}", []).append(name)
        for layout, names in layouts.items():
            lines += _row("moved", f"{grouped(names)} {layout}")
        lines += [f"  changed    {line}" for line in self.changed]
        lines += [f"  note       {line}" for line in self.notes]
        return "\n".join(lines)


def _row(title: str, text: str) -> list[str]:
    return [f"  {title:<11}{text}"] if text else []


def grouped(names: Iterable[str]) -> str:
    """Return a short list of names by their first part; many names are counted."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split("/")[0], []).append(name)
    shown = [
        f"{first} ({len(group)} leaves)" if len(group) > _MOST else ", ".join(group)
        for first, group in groups.items()
    ]
    return ", ".join(shown)
