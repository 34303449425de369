# SPDX-License-Identifier: MIT
"""The 8 voxels around each point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import define_op

__all__ = ["corners"]

_CORNERS = 8


def _made(xyz: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    size = (cells.shape[0], _CORNERS)
    return cells.new_empty(size, dtype=torch.int64), xyz.new_empty(size)


def _corners_native(
    keys: Tensor,
    rows: Tensor,
    bits: Tensor,
    xyz: Tensor,
    cells: Tensor,
    origin: Sequence[float],
    voxel_size: Sequence[float],
    stride: Sequence[float],
    anchor: float,
    renormalize: bool,
) -> tuple[Tensor, Tensor]:
    index, weight = _made(xyz, cells)
    C.corners(
        (keys, rows, bits),
        xyz.contiguous(),
        cells.contiguous(),
        origin,
        voxel_size,
        stride,
        anchor,
        renormalize,
        index,
        weight,
        torch.get_num_threads(),
    )
    return index, weight


_corners = define_op(
    "corners(Tensor keys, Tensor rows, Tensor bits, Tensor xyz, Tensor cells, float[3] origin, "
    "float[3] voxel_size, float[3] stride, float anchor, bool renormalize) -> (Tensor, Tensor)",
    cpu=_corners_native,
    cuda=_corners_native if has_cuda() else None,
    fake=lambda keys, rows, bits, xyz, cells, *_: _made(xyz, cells),
)


def corners(
    table: tuple[Tensor, Tensor, Tensor],
    xyz: Tensor,
    cells: Tensor,
    *,
    origin: Sequence[float],
    voxel_size: Sequence[float],
    stride: Sequence[int],
    anchor: float = 0.0,
    renormalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Rows and trilinear weights of the voxels around each point; not differentiable.

    Args:
        table: of the voxels, from :func:`~torchsparse_lite.ops.hash_build`.
        xyz: (N, 3) float32 or float64, in metres.
        cells: (N, 4) int32 cell that holds each point. It is taken to be inside, whatever was
            rounded.
        origin: corner of voxel (0, 0, 0) in metres.
        voxel_size: edge lengths in metres.
        stride: fine voxels per cell, per axis.
        anchor: where a voxel's value sits, from its lower corner, in cells: 0 or 0.5.
        renormalize: divide by the sum of the weights of the voxels that exist.

    Returns:
        (N, 8) int64 rows, -1 for voxels that are missing, and (N, 8) weights, zero for those, in
        the order of their offsets (0, 0, 0), (0, 0, 1), (0, 1, 0), and so on.
    """
    result: tuple[Tensor, Tensor] = _corners(
        *table, xyz, cells, origin, voxel_size, [float(s) for s in stride], anchor, renormalize
    )
    return result
