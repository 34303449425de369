# SPDX-License-Identifier: MIT
"""From points to voxels and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite._native import C
from torchsparse_lite.coordinates import Level
from torchsparse_lite.errors import (
    check_choice,
    check_dtype,
    check_shape,
    check_type,
    per_axis,
    refuse,
)
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor

__all__ = ["Voxelized", "devoxelize", "sparse_quantize", "voxelize"]

Size = float | Iterable[float]
_Vector = tuple[float, float, float]
_CORNERS = tuple((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1))


class Voxelized(NamedTuple):
    """Result of :func:`voxelize`.

    Attributes:
        voxels: the voxels, rows in Morton order.
        point_to_voxel: (N,) int64 row of each point's voxel.
        counts: (V,) int64 points per voxel.
    """

    voxels: SparseTensor
    point_to_voxel: Tensor
    counts: Tensor


@dataclass(frozen=True)
class _Grid:
    """Where the voxels of stride 1 lie.

    Attributes:
        voxel_size: edge lengths in metres.
        origin: corner of voxel (0, 0, 0) in metres.
        precision: type in which points are divided by ``voxel_size``.
    """

    voxel_size: _Vector
    origin: _Vector
    precision: torch.dtype

    @classmethod
    def of(
        cls,
        function: str,
        voxel_size: Size,
        origin: Iterable[float] | None,
        precision: torch.dtype,
    ) -> _Grid:
        """Check the arguments of ``function``."""
        if precision not in (torch.float32, torch.float64):
            refuse(
                f"{function}: precision",
                "torch.float32 or torch.float64",
                precision,
                "Leave it out for float32.",
                error=TypeError,
            )
        size = _vector(f"{function}: voxel_size", voxel_size, is_size=True)
        corner = (0.0, 0.0, 0.0)
        if origin is not None:
            corner = _vector(f"{function}: origin", origin, is_size=False)
        return cls(size, corner, precision)

    def voxels(self, function: str, points: PointTensor) -> Tensor:
        """(N, 4) int32 voxel of each point."""
        xyz = points.xyz.to(self.precision)
        place = f"{function}: points"
        return _quantized(place, xyz, points.batch, self.voxel_size, self.origin)

    def positions(self, points: PointTensor) -> Tensor:
        """(N, 3) x, y, z of each point in voxels, in the finer of the two types."""
        xyz = points.xyz.to(torch.promote_types(points.coords.dtype, self.precision))
        return (xyz - xyz.new_tensor(self.origin)) / xyz.new_tensor(self.voxel_size)


def _vector(where: str, value: Size, *, is_size: bool) -> _Vector:
    """Three numbers: edge lengths, of which one may stand for all, or else a position."""
    rule, low = "three finite numbers", -math.inf
    if is_size:
        rule, low = "positive and finite, one number or three", 0.0
    remedy = "Give a number per axis x, y, z."
    values = per_axis(value, one_for_all=is_size)
    if not all(isinstance(v, Real) for v in values):
        refuse(where, rule, repr(value), remedy, error=TypeError)
    if len(values) != 3 or not all(low < v < math.inf for v in values):
        refuse(where, rule, value, remedy)
    x, y, z = (float(v) for v in values)
    return x, y, z


def _quantized(
    where: str, xyz: Tensor, batch: Tensor | None, voxel_size: _Vector, origin: _Vector
) -> Tensor:
    """Return ``ops.quantize``; an error names the caller's argument and the point."""
    try:
        return ops.quantize(xyz, batch, voxel_size, origin)
    except ValueError:
        cells = ((xyz - xyz.new_tensor(origin)) / xyz.new_tensor(voxel_size)).floor()
        fits = ((cells >= C.axis_min) & (cells <= C.axis_max)).all(1)
        if bool(fits.all()):
            raise
        row = int(fits.int().argmin())
        refuse(
            where,
            f"finite and inside voxels {C.axis_min} to {C.axis_max}",
            f"{xyz[row].tolist()} in row {row}",
            "Drop such points first, or use larger voxels or another origin.",
        )


def voxelize(
    points: PointTensor,
    voxel_size: Size,
    *,
    reduce: str = "mean",
    origin: Iterable[float] | None = None,
    precision: torch.dtype = torch.float32,
    spatial_shape: Iterable[int] | None = None,
) -> Voxelized:
    """Reduce the features of all points that share a voxel.

    The voxel of a point is ``floor((xyz - origin) / voxel_size)``.

    Args:
        points: float coordinates in metres.
        voxel_size: edge length of a voxel in metres, one number or one per axis.
        reduce: "mean", "sum", "max", or "first" (the first point of the voxel in input order).
        origin: corner of voxel (0, 0, 0) in metres; by default (0, 0, 0).
        precision: float32 or float64: type in which the division is made. Points that lie exactly
            on a border can fall into different voxels in the two.
        spatial_shape: extent of the grid in voxels, or None.

    Returns:
        Voxels in Morton order (which convolves fastest), the row of each point's voxel, and the
        number of points per voxel.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: a size that is not positive; points that are NaN, infinite or too far away.

    Source: Liu et al., "Point-Voxel CNN", NeurIPS 2019, section 3 (mean).
    """
    check_type("voxelize: points", points, PointTensor, "Wrap them: PointTensor(feats, coords).")
    check_choice("voxelize: reduce", reduce, ("mean", "sum", "max", "first"))
    grid = _Grid.of("voxelize", voxel_size, origin, precision)
    voxel_coords, point_to_voxel, order, ptr = ops.unique_coords(grid.voxels("voxelize", points))
    if reduce == "first":
        feats = points.feats.index_select(0, order[ptr[:-1]])
    else:
        feats, _ = ops.segment_reduce(points.feats, order, ptr, reduce=reduce)
    if spatial_shape is None:
        level = Level(
            voxel_coords,
            (1, 1, 1),
            spatial_shape=None,
            batch_size=points.batch_size,
            is_morton=True,
        )
        voxels = SparseTensor.from_level(feats, level, CoordinateManager())
    else:
        voxels = SparseTensor(feats, voxel_coords, 1, spatial_shape, points.batch_size)
    return Voxelized(voxels, point_to_voxel, ptr.diff())


def devoxelize(
    voxels: SparseTensor,
    points: PointTensor,
    voxel_size: Size,
    *,
    mode: str = "trilinear",
    origin: Iterable[float] | None = None,
    anchor: str = "corner",
    renormalize: bool = True,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Read voxel features at points.

    A point belongs to the cell that holds its voxel, and its voxel is the one that :func:`voxelize`
    finds with the same arguments.

    Args:
        voxels: at any tensor stride.
        points: float coordinates in metres, same batch elements.
        voxel_size: edge length of a stride-1 voxel in metres, as given to :func:`voxelize`.
        mode: "nearest" (the voxel that holds the point) or "trilinear" (the 8 around it).
        origin: as given to :func:`voxelize`.
        anchor: where a voxel's value sits in trilinear mode: "corner" (its lower corner, as in
            TorchSparse and SPVNAS) or "center".
        renormalize: divide by the sum of the weights of the voxels that exist (as TorchSparse);
            False counts missing ones as zero (as MinkowskiEngine).
        precision: as given to :func:`voxelize`: type in which a point's voxel is found.

    Returns:
        (N, C) features, dtype of the voxels; zero for points around which there is no voxel.
        Differentiable in the voxel features.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: a size that is not positive; points that are NaN, infinite or too far away.

    Source: Liu et al., "Point-Voxel CNN", NeurIPS 2019, section 3.
    """
    check_type("devoxelize: voxels", voxels, SparseTensor, "Pass the tensor to be read.")
    check_type("devoxelize: points", points, PointTensor, "Wrap them: PointTensor(feats, coords).")
    check_choice("devoxelize: mode", mode, ("nearest", "trilinear"))
    check_choice("devoxelize: anchor", anchor, ("corner", "center"))
    grid = _Grid.of("devoxelize", voxel_size, origin, precision)
    coords = grid.voxels("devoxelize", points)
    cells = coords.div(coords.new_tensor([1, *voxels.stride]), rounding_mode="floor")
    if mode == "nearest":
        row = ops.hash_lookup(voxels.level.table, cells).unsqueeze(1)
        return ops.interpolate(voxels.feats, row, voxels.feats.new_ones(row.shape))
    position = grid.positions(points)
    step = position.new_tensor(voxels.stride)
    # Inside its cell, whatever was rounded: so the voxel of a point always has a weight.
    offset = (position - cells[:, 1:] * step) / step
    offset = offset.clamp(0, 1 - torch.finfo(offset.dtype).eps)
    shift = 0.5 if anchor == "center" else 0.0
    index, weight = _trilinear(voxels.level, cells, offset - shift)
    if renormalize:
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return ops.interpolate(voxels.feats, index, weight)


def _trilinear(level: Level, cells: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and weights of the 8 voxels around each point.

    Args:
        level: the voxels.
        cells: (N, 4) int32 cell of each point.
        offset: (N, 3) distance from the cell's anchor, in cells, in [-0.5, 1).

    Returns:
        (N, 8) int64 rows, -1 for voxels that are missing, and (N, 8) weights, zero for those.
    """
    is_below = (offset < 0).int()
    fraction = offset + is_below
    batch, low = cells[:, :1], cells[:, 1:] - is_below
    rows, weights = [], []
    for corner in _CORNERS:
        upper = low.new_tensor(corner)
        rows.append(ops.hash_lookup(level.table, torch.cat([batch, low + upper], dim=1)))
        weights.append(torch.where(upper.bool(), fraction, 1 - fraction).prod(1))
    index = torch.stack(rows, dim=1)
    return index, torch.stack(weights, dim=1) * (index >= 0)


_Array = npt.NDArray[np.generic]


@overload
def sparse_quantize(
    coords: Tensor,
    voxel_size: Size = 1,
    *,
    return_index: bool = False,
    return_inverse: bool = False,
) -> Tensor | tuple[Tensor, ...]: ...
@overload
def sparse_quantize(
    coords: _Array,
    voxel_size: Size = 1,
    *,
    return_index: bool = False,
    return_inverse: bool = False,
) -> _Array | tuple[_Array, ...]: ...
def sparse_quantize(
    coords: Tensor | _Array,
    voxel_size: Size = 1,
    *,
    return_index: bool = False,
    return_inverse: bool = False,
) -> Tensor | _Array | tuple[Tensor, ...] | tuple[_Array, ...]:
    """Unique voxels of one cloud; TorchSparse's helper for data sets.

    Args:
        coords: (N, 3) x, y, z, NumPy array or tensor, floating or integer. The division is made in
            their type (integers: float64).
        voxel_size: edge length, one number or one per axis, in the unit of ``coords``.
        return_index: also give the first point of each voxel.
        return_inverse: also give the voxel of each point.

    Returns:
        (V, 3) int32 voxels in Morton order; then (V,) int64 and (N,) int64 as asked. NumPy in,
        NumPy out.
    """
    if isinstance(coords, np.ndarray):
        xyz = torch.from_numpy(np.require(coords, requirements=["C", "W"]))
    else:
        xyz = coords
    remedy = "Give (N, 3) x, y, z."
    check_type("sparse_quantize: coords", xyz, Tensor, remedy)
    check_shape("sparse_quantize: coords", xyz, (None, 3), remedy)
    if not xyz.is_floating_point():
        xyz = xyz.double()
    check_dtype("sparse_quantize: coords", xyz, (torch.float32, torch.float64), "Use .float().")
    size = _vector("sparse_quantize: voxel_size", voxel_size, is_size=True)
    quantized = _quantized("sparse_quantize: coords", xyz, None, size, (0.0, 0.0, 0.0))
    voxels, inverse, order, ptr = ops.unique_coords(quantized)
    result = [voxels[:, 1:].contiguous()]
    if return_index:
        result.append(order[ptr[:-1]])
    if return_inverse:
        result.append(inverse)
    if isinstance(coords, np.ndarray):
        arrays = [tensor.numpy() for tensor in result]
        return arrays[0] if len(arrays) == 1 else tuple(arrays)
    return result[0] if len(result) == 1 else tuple(result)
