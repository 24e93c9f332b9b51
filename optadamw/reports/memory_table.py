"""`MemoryPlan`: the bytes of a training by their purpose, printed as a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from optadamw.base.errors import counted


class Share(NamedTuple):
    """The bytes of the parameters, of the gradients or of one buffer.

    Attributes:
      total: bytes on all devices; copies of the same part are counted once.
      per_device: bytes on the device that holds the most.
    """

    total: int
    per_device: int


@dataclass(frozen=True)
class MemoryPlan:
    """The bytes that a training takes, computed by `memory_plan`; prints as a table.

    Attributes:
      count: number of elements of all parameters.
      devices: number of devices over which the parameters are divided.
      shares: the bytes of "parameters", of "gradients", of each buffer of the state by
        its name, and of "counters", the small arrays of the state.
      temporaries: bytes per device that XLA takes during a step in addition; None if
        they were not asked for or are not known.
      platform: the platform for which the step is compiled, such as "cpu".
      on_host: the buffers in the memory of the host; their bytes per device are those
        that the host keeps for one device, and no part of `persistent` and `peak`.
      notes: sentences that name parameters which the devices do not divide or which
        must be gathered, with the remedy.
    """

    count: int
    devices: int
    shares: Mapping[str, Share]
    temporaries: int | None
    platform: str
    notes: tuple[str, ...] = ()
    on_host: tuple[str, ...] = ()

    @property
    def persistent(self) -> Share:
        """The bytes that stay on the devices between steps: parameters and state."""
        others = ("gradients", *self.on_host)
        kept = [s for name, s in self.shares.items() if name not in others]
        return Share(sum(s.total for s in kept), sum(s.per_device for s in kept))

    @property
    def peak(self) -> int:
        """Bytes on a device during a step, with gradients and known temporaries."""
        held = self.persistent.per_device + self.shares["gradients"].per_device
        return held + (self.temporaries or 0)

    def per_parameter(self, name: str) -> float:
        """Return the bytes of `shares[name]` for each element of the parameters."""
        return self.shares[name].total / self.count

    def __str__(self) -> str:
        rows = [("", "bytes per parameter", "in all", "per device")]
        rows += [self._row(name, share) for name, share in self.shares.items()]
        rows.append(self._row("persistent", self.persistent))
        if self.temporaries is not None:
            share = self.temporaries / self.count * self.devices
            shown = scaled(self.temporaries)
            rows.append((f"temporaries ({self.platform})", f"{share:.2f}", "", shown))
            rows.append(("peak", "", "", scaled(self.peak)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        head = (
            f"{counted(self.count, 'parameter')} on {counted(self.devices, 'device')}"
        )
        notes = ["", *(f"note: {note}" for note in self.notes)] if self.notes else []
        return "\n".join([head, "", *lines, *notes])

    def _row(self, name: str, share: Share) -> tuple[str, str, str, str]:
        per = f"{share.total / self.count:.2f}"
        place = " (host)" if name in self.on_host else ""
        return name, per, scaled(share.total), scaled(share.per_device) + place


def scaled(size: float) -> str:
    """Return a number of bytes in a unit that a person reads, such as "1.50 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"
