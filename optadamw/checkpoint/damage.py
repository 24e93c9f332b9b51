"""The one error of its own: what was read is not what was written."""


class DamagedCheckpoint(ValueError):
    """A checkpoint that is cut short, altered or not one at all.

    Apart from other errors because the remedy is another one: take the checkpoint
    before it. A checkpoint that is whole and does not fit raises a plain ValueError.

    Example:
      >>> import io, numpy as np
      >>> from optadamw import checkpoint
      >>> try:
      ...     checkpoint.opened({"step": np.int32(3)})
      ... except checkpoint.DamagedCheckpoint as error:
      ...     print(str(error)[:44])
      The checkpoint has no entry 'optadamw.json',
    """


def damaged(what: str) -> DamagedCheckpoint:
    """The error, with what to do."""
    return DamagedCheckpoint(f"{what} Use an earlier checkpoint.")
