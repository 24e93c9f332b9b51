"""Cut a leaf into tiles: the view of its arrays, and the shape of a tile.

A tile holds whole blocks of 8-bit codes, so a kernel can encode what it has computed
without a second pass over the leaf.
"""

import math
from typing import Literal, NamedTuple

from optadamw.store import block_code

Target = Literal["tpu", "gpu"]
"""The compiler of a kernel: Mosaic, or Triton for NVIDIA GPUs."""

THREADS = 1024
"""Size of a tile on a GPU: eight numbers for each of 128 threads."""

VMEM = 6 * 2**20
"""Bytes for the arrays of a tile on a TPU, of the 16 MiB that a kernel may have.

The compiler holds two tiles of each array, one that is computed and one that is copied,
and needs room for the numbers in between.
"""

ROWS, LANES = 32, 128
"""Rows and columns of a tile on a TPU are multiples of these, or the whole axis.

This is how a TPU lays out arrays of 8 bits, and holds for the scales of a tile too.
"""


class Tiling(NamedTuple):
    """How a leaf is cut into tiles."""

    view: tuple[int, ...]
    """The shape to which the leaf is reshaped, which costs nothing on the target."""
    tile: tuple[int, ...]
    """The shape of a tile of the view; the last tile of an axis may stick out."""
    part: tuple[int, ...]
    """The shape of the parts that a kernel computes one after the other.

    They divide the tile. Mosaic writes down each operation once for each register of
    what it is applied to: without parts, compiling the kernels of 8-bit moments takes
    3 to 8 times as long.
    """

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.view, self.tile, strict=True))


def tiling(
    target: Target, shape: tuple[int, ...], axis: int, block: int, width: int
) -> Tiling:
    """Return the tiles of a leaf.

    Args:
      target: the compiler of the kernel.
      shape: the shape of the leaf.
      axis: the axis of its blocks, -1 or -2.
      block: the numbers of a block, 1 if it has none.
      width: the bytes of one element in all arrays that a kernel reads and writes.
    """
    if target == "gpu":
        return _triton(shape, axis, block)
    return _mosaic(shape, block, width)


def _triton(shape: tuple[int, ...], axis: int, block: int) -> Tiling:
    """Rows and columns; every size is a power of two."""
    columns = shape[-1]
    rows = math.prod(shape) // columns
    least = block if axis == -2 else 1
    width = min(THREADS // least, 1 << (columns - 1).bit_length())
    height = min(THREADS // width, 1 << (rows - 1).bit_length())
    tile = max(height, least), width
    return Tiling((rows, columns), tile, tile)


def _mosaic(shape: tuple[int, ...], block: int, width: int) -> Tiling:
    """The axes of the leaf itself, because on a TPU a reshape may be a copy."""
    *front, rows, columns = shape
    room = max(VMEM // (2 * width), 1)
    down = min(rows, ROWS * block)
    across = min(columns, max(room // down // LANES, 1) * LANES)
    if across == columns:
        down = min(rows, max(room // across // (ROWS * block), 1) * ROWS * block)
    tile = [down, across]
    whole = tile == [rows, columns]
    for size in reversed(front):
        share = min(size, max(room // math.prod(tile), 1)) if whole else 1
        whole = whole and share == size
        tile.insert(0, share)
    # The scales of a part fill a register of 32-bit numbers.
    part = [1] * len(front) + [block_code.ROWS * block, LANES]
    if block == 1 or down % part[-2] or across % LANES:
        part = tile
    return Tiling(shape, tuple(tile), tuple(part))
