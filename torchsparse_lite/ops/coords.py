# SPDX-License-Identifier: MIT
"""Coordinates: quantisation, uniqueness, the stride-2 pyramid.

Coordinates are int32 (N, 4): batch, x, y, z; batch in 0..1023, axes in [-131072, 131071]. Where
there is :class:`~torchsparse_lite.ops.room.Room`, dead rows follow them and may be in the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import data_dependent_size, define_op, opaque
from torchsparse_lite.ops.room import DEAD, Room, fill_up, settled
from torchsparse_lite.ops.scratch import scratch_on

__all__ = [
    "AXIS_MAX",
    "AXIS_MIN",
    "MAX_BATCH_SIZE",
    "check_range",
    "coarsen",
    "is_morton_ordered",
    "quantize",
    "unique_coords",
]

AXIS_MIN: int = C.axis_min
AXIS_MAX: int = C.axis_max
MAX_BATCH_SIZE: int = C.batch_max + 1


def _quantize_native(
    points: Tensor,
    batch: Tensor | None,
    voxel_size: Sequence[float],
    origin: Sequence[float],
    overflow: Tensor | None = None,
) -> Tensor:
    if overflow is not None and not points.is_cuda:
        return _quantize_alive(points, batch, voxel_size, origin, overflow)
    coords = points.new_empty((points.shape[0], 4), dtype=torch.int32)
    batch = None if batch is None else batch.contiguous()
    C.quantize(
        points.contiguous(),
        batch,
        tuple(voxel_size),
        tuple(origin),
        coords,
        scratch_on(points),
        torch.get_num_threads(),
        overflow,
    )
    return coords


def _quantize_alive(
    points: Tensor,
    batch: Tensor | None,
    voxel_size: Sequence[float],
    origin: Sequence[float],
    overflow: Tensor,
) -> Tensor:
    count = len(points) if batch is None else int((batch != DEAD).sum())
    alive = None if batch is None else batch[:count]
    try:
        coords = _quantize_native(points[:count], alive, voxel_size, origin)
    except ValueError:
        overflow.fill_(1)
        coords = points.new_empty((0, 4), dtype=torch.int32)
    return fill_up(coords, len(points), DEAD)


_quantize = define_op(
    "quantize(Tensor points, Tensor? batch, float[3] voxel_size, float[3] origin, "
    "Tensor(a!)? overflow=None) -> Tensor",
    cpu=_quantize_native,
    cuda=_quantize_native if has_cuda() else None,
    fake=lambda points, *_: points.new_empty((points.shape[0], 4), dtype=torch.int32),
)


def quantize(
    points: Tensor,
    batch: Tensor | None,
    voxel_size: Sequence[float],
    origin: Sequence[float],
    *,
    overflow: Tensor | None = None,
) -> Tensor:
    """Return the voxel of each point, ``floor((points - origin) / voxel_size)``.

    Args:
        points: (N, 3) float32 or float64, metres. The arithmetic is done in this dtype.
        batch: (N,) int32 or None for batch 0.
        voxel_size: edge lengths of a voxel, metres.
        origin: the corner of voxel (0, 0, 0), metres.
        overflow: of a :class:`~torchsparse_lite.ops.room.Room`. Points of batch -1, behind all
            others, then become dead rows, and what is refused otherwise sets the flag.

    Returns:
        (N, 4) int32 coordinates, not unique.

    Raises:
        ValueError: a point is not finite, or falls outside the representable range.
    """
    result: Tensor = _quantize(points, batch, list(voxel_size), list(origin), overflow)
    return result


_Unique = tuple[Tensor, Tensor, Tensor, Tensor]


def _unique_coords_native(
    coords: Tensor, capacity: int = -1, overflow: Tensor | None = None
) -> _Unique:
    if overflow is not None and not coords.is_cuda:
        return _unique_coords_alive(coords, capacity, overflow)
    count = coords.shape[0]
    point_to_voxel = coords.new_empty(count, dtype=torch.int64)
    order = coords.new_empty(count, dtype=torch.int64)
    made: list[Tensor] = []

    def allocate(groups: int) -> tuple[Tensor, ...]:
        made.append(coords.new_empty((groups, 4)))
        made.append(coords.new_empty(groups + 1, dtype=torch.int64))
        return tuple(made)

    C.unique_coords(
        coords.contiguous(),
        point_to_voxel,
        order,
        allocate,
        scratch_on(coords),
        torch.get_num_threads(),
        capacity,
        overflow,
    )
    voxels, ptr = made
    return voxels, point_to_voxel, order, ptr


def _unique_coords_alive(coords: Tensor, capacity: int, overflow: Tensor) -> _Unique:
    made = settled(_unique_coords_native, 0, coords, capacity, overflow)
    voxels, point_to_voxel, order, ptr = made
    return (
        fill_up(voxels, capacity, DEAD),
        fill_up(point_to_voxel, len(coords), 0),
        order,
        fill_up(ptr, capacity + 1, int(ptr[-1])),
    )


def _unique_coords_fake(
    coords: Tensor, capacity: int = -1, overflow: Tensor | None = None
) -> _Unique:
    groups = data_dependent_size() if capacity < 0 else capacity
    count = coords.shape[0]
    return (
        coords.new_empty((groups, 4)),
        coords.new_empty(count, dtype=torch.int64),
        coords.new_empty(count, dtype=torch.int64),
        coords.new_empty(groups + 1, dtype=torch.int64),
    )


_unique_coords = define_op(
    "unique_coords(Tensor coords, SymInt capacity=-1, Tensor(a!)? overflow=None) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_unique_coords_native,
    cuda=_unique_coords_native if has_cuda() else None,
    fake=_unique_coords_fake,
)


def unique_coords(coords: Tensor, *, room: Room | None = None) -> _Unique:
    """Group equal coordinates; groups come in Morton order.

    Args:
        coords: (N, 4) int32 in range, in any order, with duplicates.
        room: for voxels.

    Returns:
        voxels (V, 4) int32, unique; point_to_voxel (N,) int64; order (N,) int64, the rows voxel
        after voxel, in input order inside one; ptr (V + 1,) int64 into ``order``.

    O(N) time and memory: one radix sort of 64-bit keys.
    """
    result: _Unique = _unique_coords(coords, *(room or ()))
    return result


_Coarsened = tuple[Tensor, Tensor, Tensor, Tensor]


def _coarsen_native(
    coords: Tensor, capacity: int = -1, overflow: Tensor | None = None
) -> _Coarsened:
    if overflow is not None and not coords.is_cuda:
        return _coarsen_alive(coords, capacity, overflow)
    parent = coords.new_empty(coords.shape[0])
    made: list[Tensor] = []

    def allocate(cells: int) -> tuple[Tensor, ...]:
        made.append(coords.new_empty((cells, 4)))
        made.append(coords.new_empty(cells + 1))
        made.append(coords.new_empty(cells, dtype=torch.uint8))
        return tuple(made)

    C.coarsen(
        coords.contiguous(),
        parent,
        allocate,
        scratch_on(coords),
        torch.get_num_threads(),
        capacity,
        overflow,
    )
    coarse, child_ptr, child_mask = made
    return coarse, parent, child_ptr, child_mask


def _coarsen_alive(coords: Tensor, capacity: int, overflow: Tensor) -> _Coarsened:
    made = settled(_coarsen_native, 0, coords, capacity, overflow)
    coarse, parent, child_ptr, child_mask = made
    return (
        fill_up(coarse, capacity, DEAD),
        fill_up(parent, len(coords), 0),
        fill_up(child_ptr, capacity + 1, int(child_ptr[-1])),
        fill_up(child_mask, capacity, 0),
    )


def _coarsen_fake(coords: Tensor, capacity: int = -1, overflow: Tensor | None = None) -> _Coarsened:
    cells = data_dependent_size() if capacity < 0 else capacity
    return (
        coords.new_empty((cells, 4)),
        coords.new_empty(coords.shape[0]),
        coords.new_empty(cells + 1),
        coords.new_empty(cells, dtype=torch.uint8),
    )


_coarsen = define_op(
    "coarsen(Tensor coords, SymInt capacity=-1, Tensor(a!)? overflow=None) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_coarsen_native,
    cuda=_coarsen_native if has_cuda() else None,
    fake=_coarsen_fake,
)


def coarsen(coords: Tensor, *, room: Room | None = None) -> _Coarsened:
    """One step of the pyramid: the occupied cells of twice the size.

    Args:
        coords: (N, 4) int32, unique rows in Morton order.
        room: for cells.

    Returns:
        coarse (M, 4) int32 in Morton order; parent (N,) int32; child_ptr (M + 1,) int32, the
        children of a cell are consecutive rows; child_mask (M,) uint8, bit ``4 x + 2 y + z`` for
        each occupied octant.
    """
    result: _Coarsened = _coarsen(coords, *(room or ()))
    return result


@opaque
def check_range(function: str, coords: Tensor) -> None:
    """Raise ValueError naming the first coordinate outside the representable range."""
    C.check_range(coords.contiguous(), function, scratch_on(coords), torch.get_num_threads())


@opaque
def is_morton_ordered(coords: Tensor) -> bool:
    """Whether rows strictly ascend in Morton order, which makes them unique too.

    Args:
        coords: (N, 4) int32 in range.
    """
    threads = torch.get_num_threads()
    return bool(C.is_morton_ordered(coords.contiguous(), scratch_on(coords), threads))
