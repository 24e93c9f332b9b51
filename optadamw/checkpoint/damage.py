"""The error for a checkpoint whose bytes are not those that were written."""


class DamagedCheckpoint(ValueError):
    """A checkpoint is cut short, altered, or no checkpoint at all.

    The remedy is an earlier checkpoint, so a program can catch this error and load that
    one. A whole checkpoint that does not fit raises a plain ValueError.

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
    """Build the error, with its remedy."""
    return DamagedCheckpoint(f"{what} Use an earlier checkpoint.")
