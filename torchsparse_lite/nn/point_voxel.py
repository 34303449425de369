# SPDX-License-Identifier: MIT
"""Convolution of points through voxels: on a full grid (PVConv) and on sparse cells (SPVConv).

A coarse branch convolves voxels and is read back at the points; a fine branch is a linear layer,
norm and ReLU for every point by itself. Their sum is the output.
"""

from __future__ import annotations

from torch import nn

from torchsparse_lite.cloud_grid import CloudGrid, check_resolution
from torchsparse_lite.errors import check_integer, check_type, refuse
from torchsparse_lite.features import WRAP, check_rows
from torchsparse_lite.nn.activation import LeakyReLU
from torchsparse_lite.nn.compose import conv_norm_relu, shared_mlp
from torchsparse_lite.nn.container import Sequential
from torchsparse_lite.nn.conv import Conv3d
from torchsparse_lite.nn.norm import BatchNorm
from torchsparse_lite.nn.squeeze_excitation import SqueezeExcitation
from torchsparse_lite.point_grid import PointGrid, Size, check_same_points, edge_lengths
from torchsparse_lite.points import PointTensor

__all__ = ["PVConv", "SPVConv"]

# Of the coarse branch of PVConv, as in the published networks.
_NORM_EPS = 1e-4
_SLOPE = 0.1


class PVConv(nn.Module):
    """Point-voxel convolution: two convolutions on a full grid around each cloud.

    For objects and rooms, which a coarse cube holds well; driving scenes are mostly empty, and
    there is :class:`SPVConv` for them.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: taps per axis, odd.
        resolution: cells per axis of the grid.
        normalize: see :class:`~torchsparse_lite.CloudGrid`.
        with_se: end the coarse branch with squeeze-and-excitation.

    Raises:
        TypeError: a number is no integer.
        ValueError: an even ``kernel_size``, a ``resolution`` that is not positive.

    Source: Liu et al., "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        resolution: int,
        normalize: bool = True,
        with_se: bool = False,
    ) -> None:
        super().__init__()
        check_resolution("PVConv", resolution)
        check_integer("PVConv: kernel_size", kernel_size, "Give the taps per axis, for example 3.")
        if kernel_size < 1 or kernel_size % 2 == 0:
            remedy = "Only then has the output the cells of the input."
            refuse("PVConv: kernel_size", "odd and positive", kernel_size, remedy)
        self.in_channels = in_channels
        self.resolution = resolution
        self.normalize = normalize
        self.voxels = Sequential()
        for channels in (in_channels, out_channels):
            conv = Conv3d(channels, out_channels, kernel_size)
            norm = BatchNorm(out_channels, eps=_NORM_EPS)
            self.voxels.extend([conv, norm, LeakyReLU(_SLOPE)])
        if with_se:
            self.voxels.append(SqueezeExcitation(out_channels))
        self.points = shared_mlp(in_channels, out_channels)

    def forward(self, points: PointTensor, grid: CloudGrid | None = None) -> PointTensor:
        """(N, in_channels) to (N, out_channels) at the same points.

        Args:
            points: float coordinates.
            grid: of these points, where one is known already; it must be the layer's own kind.
        """
        _check_input("PVConv", points, self.in_channels)
        if grid is None:
            r, normalize = self.resolution, self.normalize
            grid = CloudGrid(points, r, normalize=normalize, function="PVConv")
        check_type("PVConv: grid", grid, CloudGrid, "Make one of these points, or leave it out.")
        if (grid.resolution, grid.normalize) != (self.resolution, self.normalize):
            refuse(
                "PVConv: grid",
                f"of resolution {self.resolution} with normalize={self.normalize}",
                f"{grid.resolution} with normalize={grid.normalize}",
                "Make one for this layer, or leave it out.",
            )
        check_same_points("PVConv", points, grid.points)
        coarse = grid.gather(self.voxels(grid.scatter(points.feats)))
        return points.replace_feats(coarse + self.points(points).feats)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"resolution={self.resolution}, normalize={self.normalize}"


class SPVConv(nn.Module):
    """Sparse point-voxel convolution: sparse convolution on cells of a fixed size.

    Points are the raw ones, at their own positions. With one point at the corner of every voxel the
    coarse branch is the convolution itself, as in the released SPVNAS networks.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: taps per axis.
        voxel_size: edge length of a cell, one number or one per axis, in the unit of the
            coordinates.
        voxels: the coarse branch: takes a SparseTensor of ``in_channels`` and gives one of
            ``out_channels``, at any tensor stride. By default convolution, batch norm and ReLU.

    Source: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution",
    ECCV 2020.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        voxel_size: Size,
        voxels: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.voxel_size = edge_lengths("SPVConv: voxel_size", voxel_size)
        if voxels is None:
            voxels = conv_norm_relu(in_channels, out_channels, kernel_size)
        self.voxels = voxels
        self.points = shared_mlp(in_channels, out_channels)

    def forward(self, points: PointTensor, grid: PointGrid | None = None) -> PointTensor:
        """(N, in_channels) to (N, out_channels) at the same points.

        Args:
            points: float coordinates.
            grid: of these points, where one is known already: layers that share it share its cells
                and kernel maps.
        """
        _check_input("SPVConv", points, self.in_channels)
        if grid is None:
            grid = PointGrid(points, self.voxel_size, function="SPVConv")
        check_type("SPVConv: grid", grid, PointGrid, "Make one of these points, or leave it out.")
        grid.check_fits("SPVConv", points, self.voxel_size)
        coarse = self.voxels(grid.scatter(points.feats, grid.sites))
        return points.replace_feats(grid.gather(coarse) + self.points(points).feats)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"voxel_size={self.voxel_size}"


def _check_input(function: str, points: PointTensor, in_channels: int) -> None:
    check_type(f"{function}: points", points, PointTensor, WRAP)
    check_rows(function, points, in_channels)
