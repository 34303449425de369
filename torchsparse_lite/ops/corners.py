# SPDX-License-Identifier: MIT
"""The 8 voxels around each point."""

from __future__ import annotations

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import define_op

__all__ = ["corners"]

_CORNERS = 8


def _made(cells: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    size = (cells.shape[0], _CORNERS)
    return cells.new_empty(size, dtype=torch.int64), offset.new_empty(size)


def _corners_native(
    keys: Tensor, rows: Tensor, bits: Tensor, cells: Tensor, offset: Tensor, renormalize: bool
) -> tuple[Tensor, Tensor]:
    index, weight = _made(cells, offset)
    C.corners(
        (keys, rows, bits),
        cells.contiguous(),
        offset.contiguous(),
        renormalize,
        index,
        weight,
        torch.get_num_threads(),
    )
    return index, weight


_corners = define_op(
    "corners(Tensor keys, Tensor rows, Tensor bits, Tensor cells, Tensor offset, bool renormalize) "
    "-> (Tensor, Tensor)",
    cpu=_corners_native,
    cuda=_corners_native if has_cuda() else None,
    fake=lambda keys, rows, bits, cells, offset, renormalize: _made(cells, offset),
)


def corners(
    table: tuple[Tensor, Tensor, Tensor], cells: Tensor, offset: Tensor, *, renormalize: bool
) -> tuple[Tensor, Tensor]:
    """Rows and trilinear weights of the voxels around each point; not differentiable.

    Args:
        table: of the voxels, from :func:`~torchsparse_lite.ops.hash_build`.
        cells: (N, 4) int32 cell of each point.
        offset: (N, 3) float32 or float64 distance from the cell's anchor, in cells, in [-1, 1);
            where it is negative the voxels begin a cell before.
        renormalize: divide by the sum of the weights of the voxels that exist.

    Returns:
        (N, 8) int64 rows, -1 for voxels that are missing, and (N, 8) weights, zero for those, in
        the order of their offsets (0, 0, 0), (0, 0, 1), (0, 1, 0), and so on.
    """
    result: tuple[Tensor, Tensor] = _corners(*table, cells, offset, renormalize)
    return result
