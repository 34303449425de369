# SPDX-License-Identifier: MIT
"""From points to voxels and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.errors import check_dtype, check_shape, check_type
from torchsparse_lite.point_grid import Origin, PointGrid, Size, Voxelized, edge_lengths, quantized
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor

__all__ = ["Voxelized", "devoxelize", "sparse_quantize", "voxelize"]


def voxelize(
    points: PointTensor,
    voxel_size: Size,
    *,
    reduce: str = "mean",
    origin: Origin = None,
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
    grid = PointGrid(points, voxel_size, origin=origin, precision=precision, function="voxelize")
    return grid.voxelize(reduce=reduce, spatial_shape=spatial_shape)


def devoxelize(
    voxels: SparseTensor,
    points: PointTensor,
    voxel_size: Size,
    *,
    mode: str = "trilinear",
    origin: Origin = None,
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
    grid = PointGrid(points, voxel_size, origin=origin, precision=precision, function="devoxelize")
    return grid.gather(voxels, mode=mode, anchor=anchor, renormalize=renormalize)


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
    size = edge_lengths("sparse_quantize: voxel_size", voxel_size)
    voxel = quantized("sparse_quantize: coords", xyz, None, size, (0.0, 0.0, 0.0))
    voxels, inverse, order, ptr = ops.unique_coords(voxel)
    result = [voxels[:, 1:].contiguous()]
    if return_index:
        result.append(order[ptr[:-1]])
    if return_inverse:
        result.append(inverse)
    if isinstance(coords, np.ndarray):
        arrays = [tensor.numpy() for tensor in result]
        return arrays[0] if len(arrays) == 1 else tuple(arrays)
    return result[0] if len(result) == 1 else tuple(result)
