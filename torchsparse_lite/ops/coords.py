# SPDX-License-Identifier: MIT
"""Coordinates: quantisation, uniqueness, the stride-2 pyramid, sites of a convolution.

Coordinates are int32 (N, 4): batch, x, y, z; batch in 0..1023, axes in [-131072, 131071].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import data_dependent_size, define_op, opaque
from torchsparse_lite.ops.scratch import scratch_on

__all__ = [
    "AXIS_MAX",
    "AXIS_MIN",
    "MAX_BATCH_SIZE",
    "check_range",
    "coarse_sites",
    "coarsen",
    "extent",
    "fine_sites",
    "is_morton_ordered",
    "quantize",
    "unique_coords",
]

AXIS_MIN: int = C.axis_min
AXIS_MAX: int = C.axis_max
MAX_BATCH_SIZE: int = C.batch_max + 1
Triples = tuple[tuple[int, int, int], ...]


def _quantize_native(
    points: Tensor, batch: Tensor | None, voxel_size: Sequence[float], origin: Sequence[float]
) -> Tensor:
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
    )
    return coords


_quantize = define_op(
    "quantize(Tensor points, Tensor? batch, float[3] voxel_size, float[3] origin) -> Tensor",
    cpu=_quantize_native,
    cuda=_quantize_native if has_cuda() else None,
    fake=lambda points, batch, voxel_size, origin: points.new_empty(
        (points.shape[0], 4), dtype=torch.int32
    ),
)


def quantize(
    points: Tensor, batch: Tensor | None, voxel_size: Sequence[float], origin: Sequence[float]
) -> Tensor:
    """Return the voxel of each point, ``floor((points - origin) / voxel_size)``.

    Args:
        points: (N, 3) float32 or float64, metres. The arithmetic is done in this dtype.
        batch: (N,) int32 or None for batch 0.
        voxel_size: edge lengths of a voxel, metres.
        origin: the corner of voxel (0, 0, 0), metres.

    Returns:
        (N, 4) int32 coordinates, not unique.

    Raises:
        ValueError: a point is not finite, or falls outside the representable range.
    """
    result: Tensor = _quantize(points, batch, list(voxel_size), list(origin))
    return result


def _unique_coords_native(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    )
    voxels, ptr = made
    return voxels, point_to_voxel, order, ptr


def _unique_coords_fake(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups = data_dependent_size()
    count = coords.shape[0]
    return (
        coords.new_empty((groups, 4)),
        coords.new_empty(count, dtype=torch.int64),
        coords.new_empty(count, dtype=torch.int64),
        coords.new_empty(groups + 1, dtype=torch.int64),
    )


_unique_coords = define_op(
    "unique_coords(Tensor coords) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_unique_coords_native,
    cuda=_unique_coords_native if has_cuda() else None,
    fake=_unique_coords_fake,
)


def unique_coords(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Group equal coordinates; groups come in Morton order.

    Args:
        coords: (N, 4) int32 in range, in any order, with duplicates.

    Returns:
        voxels (V, 4) int32, unique; point_to_voxel (N,) int64; order (N,) int64, the rows voxel
        after voxel, in input order inside one; ptr (V + 1,) int64 into ``order``.

    O(N) time and memory: one radix sort of 64-bit keys.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _unique_coords(coords)
    return result


def _coarsen_native(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parent = coords.new_empty(coords.shape[0])
    made: list[Tensor] = []

    def allocate(cells: int) -> tuple[Tensor, ...]:
        made.append(coords.new_empty((cells, 4)))
        made.append(coords.new_empty(cells + 1))
        made.append(coords.new_empty(cells, dtype=torch.uint8))
        return tuple(made)

    C.coarsen(coords.contiguous(), parent, allocate, scratch_on(coords), torch.get_num_threads())
    coarse, child_ptr, child_mask = made
    return coarse, parent, child_ptr, child_mask


def _coarsen_fake(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cells = data_dependent_size()
    return (
        coords.new_empty((cells, 4)),
        coords.new_empty(coords.shape[0]),
        coords.new_empty(cells + 1),
        coords.new_empty(cells, dtype=torch.uint8),
    )


_coarsen = define_op(
    "coarsen(Tensor coords) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_coarsen_native,
    cuda=_coarsen_native if has_cuda() else None,
    fake=_coarsen_fake,
)


def coarsen(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of the pyramid: the occupied cells of twice the size.

    Args:
        coords: (N, 4) int32, unique rows in Morton order.

    Returns:
        coarse (M, 4) int32 in Morton order; parent (N,) int32; child_ptr (M + 1,) int32, the
        children of a cell are consecutive rows; child_mask (M,) uint8, bit ``4 x + 2 y + z`` for
        each occupied octant.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _coarsen(coords)
    return result


def _geometry(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
) -> tuple[tuple[int, ...], ...]:
    return tuple(kernel_size), tuple(stride), tuple(dilation), tuple(padding)


def _sites_native(
    coords: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    kind: str,
    shape: Sequence[int] | None,
) -> Tensor:
    geometry = _geometry(kernel_size, stride, dilation, padding)
    limit = None if shape is None else tuple(shape)
    made: list[Tensor] = []

    def allocate(count: int) -> tuple[Tensor, ...]:
        made.append(coords.new_empty((count, 4)))
        return tuple(made)

    how = allocate, scratch_on(coords), torch.get_num_threads()
    if kind == "fine":
        C.fine_sites(coords.contiguous(), geometry, limit, *how)
    else:
        C.coarse_sites(coords.contiguous(), geometry, kind == "cell", limit, *how)
    return made[0]


_sites = define_op(
    "sites(Tensor coords, int[3] kernel_size, int[3] stride, int[3] dilation, int[3] padding, "
    "str kind, int[]? shape) -> Tensor",
    cpu=_sites_native,
    cuda=_sites_native if has_cuda() else None,
    fake=lambda coords, *_: coords.new_empty((data_dependent_size(), 4)),
)


def coarse_sites(
    coords: Tensor, geometry: Triples, rule: str, shape: Sequence[int] | None
) -> Tensor:
    """Output sites of a strided convolution.

    Args:
        coords: (N, 4) int32 input sites.
        geometry: kernel_size, stride, dilation, padding.
        rule: "full" (every site whose window holds an input) or "cell" (one per occupied cell).
        shape: keep only sites in [0, shape), or None.

    Returns:
        (M, 4) int32, unique, in Morton order.

    Raises:
        ValueError: an output lies outside the representable range.
    """
    result: Tensor = _sites(coords, *geometry, rule, shape)
    return result


def fine_sites(coords: Tensor, geometry: Triples, shape: Sequence[int] | None) -> Tensor:
    """Output sites of a generative transposed convolution: all that the kernel reaches.

    Args and errors as for :func:`coarse_sites`.
    """
    result: Tensor = _sites(coords, *geometry, "fine", shape)
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


@opaque
def extent(
    geometry: Triples, shape: tuple[int, int, int], *, transposed: bool
) -> tuple[int, int, int]:
    """Extent of the output grid of a convolution over a grid of extent ``shape``.

    Args:
        geometry: kernel_size, stride, dilation, padding.
        shape: X, Y, Z in sites.
        transposed: from coarse to fine.
    """
    x, y, z = C.extent(geometry, shape, transposed)
    return x, y, z
