# SPDX-License-Identifier: MIT
"""From points to voxels and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.coordinates import CoordinateManager, Level
from torchsparse_lite.errors import check_choice, check_dtype, check_shape, check_type, refuse
from torchsparse_lite.tensor import PointTensor, SparseTensor

__all__ = ["Voxelized", "devoxelize", "sparse_quantize", "voxelize"]

Size = float | Sequence[float]
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


def voxelize(
    points: PointTensor,
    voxel_size: Size,
    *,
    reduce: str = "mean",
    origin: Sequence[float] | None = None,
    precision: torch.dtype = torch.float32,
    spatial_shape: Sequence[int] | None = None,
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
    coords = _quantized("voxelize", points, voxel_size, origin=origin, precision=precision)
    voxel_coords, point_to_voxel, order, ptr = ops.unique_coords(coords)
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
    origin: Sequence[float] | None = None,
    anchor: str = "corner",
    renormalize: bool = True,
) -> Tensor:
    """Read voxel features at points.

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

    Returns:
        (N, C) features, dtype of the voxels; zero for points around which there is no voxel.
        Differentiable in the voxel features.

    Source: Liu et al., "Point-Voxel CNN", NeurIPS 2019, section 3.
    """
    check_type("devoxelize: voxels", voxels, SparseTensor, "Pass the tensor to be read.")
    check_type("devoxelize: points", points, PointTensor, "Wrap them: PointTensor(feats, coords).")
    check_choice("devoxelize: mode", mode, ("nearest", "trilinear"))
    check_choice("devoxelize: anchor", anchor, ("corner", "center"))
    sizes = _sizes("devoxelize: voxel_size", voxel_size)
    cell = tuple(size * step for size, step in zip(sizes, voxels.stride, strict=True))
    if mode == "nearest":
        coords = _quantized("devoxelize", points, cell, origin=origin, precision=points.coords.dtype)
        row = ops.hash_lookup(voxels.level.table, coords).unsqueeze(1)
        weight = voxels.feats.new_ones(row.shape)
        return ops.interpolate(voxels.feats, row, weight)
    index, weight = _trilinear(voxels, points, cell, origin=origin, anchor=anchor)
    if renormalize:
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return ops.interpolate(voxels.feats, index, weight)


def _trilinear(
    voxels: SparseTensor,
    points: PointTensor,
    cell: Sequence[float],
    *,
    origin: Sequence[float] | None,
    anchor: str,
) -> tuple[Tensor, Tensor]:
    """Rows and weights of the 8 voxels around each point; (N, 8) int64, -1 missing, and (N, 8)."""
    xyz = points.xyz
    shift = xyz.new_tensor([0.0] * 3 if origin is None else list(origin))
    position = (xyz - shift) / xyz.new_tensor(list(cell))
    if anchor == "center":
        position = position - 0.5
    base = position.floor()
    fraction = position - base
    bounds = torch.tensor([-(2.0**30), 2.0**30], dtype=base.dtype, device=base.device)
    site = base.nan_to_num().clamp(*bounds).int()  # anything that far is simply not there
    batch = points.batch.unsqueeze(1)
    rows, weights = [], []
    for corner in _CORNERS:
        offset = torch.tensor(corner, dtype=torch.int32, device=site.device)
        coords = torch.cat([batch, site + offset], dim=1)
        rows.append(ops.hash_lookup(voxels.level.table, coords))
        weights.append(torch.where(offset.bool(), fraction, 1 - fraction).prod(1))
    index = torch.stack(rows, dim=1)
    return index, torch.stack(weights, dim=1) * (index >= 0)


def _sizes(where: str, voxel_size: Size) -> tuple[float, float, float]:
    is_number = isinstance(voxel_size, (int, float))
    sizes = (voxel_size,) * 3 if is_number else tuple(voxel_size)  # type: ignore[arg-type]
    if len(sizes) != 3 or not all(float(size) > 0 and float(size) < float("inf") for size in sizes):
        refuse(where, "positive, one number or three", voxel_size, "Give edge lengths in metres.")
    return float(sizes[0]), float(sizes[1]), float(sizes[2])


def _quantized(
    function: str,
    points: PointTensor,
    voxel_size: Size,
    *,
    origin: Sequence[float] | None,
    precision: torch.dtype,
) -> Tensor:
    sizes = _sizes(f"{function}: voxel_size", voxel_size)
    if precision not in (torch.float32, torch.float64):
        refuse(
            f"{function}: precision",
            "torch.float32 or torch.float64",
            precision,
            "Leave it out for float32.",
            error=TypeError,
        )
    start = (0.0, 0.0, 0.0) if origin is None else tuple(float(v) for v in origin)
    if len(start) != 3:
        refuse(f"{function}: origin", "three numbers", origin, "Give x, y, z in metres.")
    return ops.quantize(points.xyz.to(precision), points.batch, sizes, start)


_Array = npt.NDArray[np.generic]


@overload
def sparse_quantize(
    coords: Tensor, voxel_size: Size = 1, *, return_index: bool = False, return_inverse: bool = False
) -> Tensor | tuple[Tensor, ...]: ...
@overload
def sparse_quantize(
    coords: _Array, voxel_size: Size = 1, *, return_index: bool = False, return_inverse: bool = False
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
    is_array = isinstance(coords, np.ndarray)
    xyz = torch.from_numpy(np.ascontiguousarray(coords)) if is_array else coords
    remedy = "Give (N, 3) x, y, z."
    check_type("sparse_quantize: coords", xyz, Tensor, remedy)
    check_shape("sparse_quantize: coords", xyz, (None, 3), remedy)
    if not xyz.is_floating_point():
        xyz = xyz.double()
    check_dtype("sparse_quantize: coords", xyz, (torch.float32, torch.float64), "Use .float().")
    sizes = _sizes("sparse_quantize: voxel_size", voxel_size)
    quantized = ops.quantize(xyz, None, sizes, (0.0, 0.0, 0.0))
    voxels, inverse, order, ptr = ops.unique_coords(quantized)
    result = [voxels[:, 1:].contiguous()]
    if return_index:
        result.append(order[ptr[:-1]])
    if return_inverse:
        result.append(inverse)
    if is_array:
        arrays = [tensor.numpy() for tensor in result]
        return arrays[0] if len(arrays) == 1 else tuple(arrays)
    return result[0] if len(result) == 1 else tuple(result)
