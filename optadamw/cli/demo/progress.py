"""Show progress: a live bar on a terminal, else a line for each epoch."""

import shutil
from typing import TextIO

from optadamw.cli.demo.training import Epoch

_WIDEST_BAR = 40


class Progress:
    """A context that shows each epoch of one training when the epoch ends.

    Args:
        label: The optimizer's name.
        epochs: The number of epochs.
        stream: The stream to which progress is written.
    """

    def __init__(self, label: str, epochs: int, stream: TextIO):
        self._label = label
        self._epochs = epochs
        self._stream = stream
        self._live = stream.isatty()
        if self._live:
            self._show(f"{self._label}  compiling ...")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """End the line, so that the last state of the bar stays visible."""
        if self._live:
            print(file=self._stream, flush=True)

    def update(self, epoch: Epoch) -> None:
        """Show an epoch that has ended."""
        if self._live:
            self._draw(epoch.epoch, _short(epoch))
        else:
            number = f"{epoch.epoch:>{len(str(self._epochs))}}/{self._epochs}"
            print(
                f"{self._label}  epoch {number}  {_long(epoch)}",
                file=self._stream,
                flush=True,
            )

    def _draw(self, epoch: int, text: str) -> None:
        count = f"{epoch:>{len(str(self._epochs))}}/{self._epochs}"
        room = _columns() - len(f"{self._label}   {count}  {text}")
        bar = _bar(epoch / self._epochs, min(room, _WIDEST_BAR), self._stream)
        self._show(f"{self._label}  {bar} {count}  {text}")

    def _show(self, line: str) -> None:
        width = _columns()
        print(f"\r{line[:width]:<{width}}", end="", file=self._stream, flush=True)


def _columns() -> int:
    # The last column stays free, because a character there makes some terminals wrap.
    return shutil.get_terminal_size().columns - 1


def _bar(part: float, width: int, stream: TextIO) -> str:
    full = round(part * max(width, 0))
    done, rest = "█░"
    try:
        (done + rest).encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        done, rest = "#-"
    return done * full + rest * (width - full)


def _short(epoch: Epoch) -> str:
    return (
        f"loss {epoch.training_loss:.4f}  "
        f"val acc {epoch.validation_accuracy:.1%}  "
        f"|g| {epoch.gradient_norm:.3f}  "
        f"lr {epoch.learning_rate:.1e}"
    )


def _long(epoch: Epoch) -> str:
    return (
        f"training loss {epoch.training_loss:.4f} "
        f"accuracy {epoch.training_accuracy:.2%}  "
        f"validation loss {epoch.validation_loss:.4f} "
        f"accuracy {epoch.validation_accuracy:.2%}  "
        f"gradient norm {epoch.gradient_norm:.3f}  "
        f"learning rate {epoch.learning_rate:.2e}"
    )
