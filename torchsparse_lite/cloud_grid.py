# SPDX-License-Identifier: MIT
"""A dense grid around each cloud, and the way between its cells and the points."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.errors import check_integer, check_shape, refuse
from torchsparse_lite.points import PointTensor, check_points

__all__ = ["CloudGrid"]


class CloudGrid:
    """Cubes of cells, one around each cloud that has points.

    The cube follows its cloud, not the metres: the mean of the points is its centre. Cell ``i`` is
    around position ``i``: a point adds to the cell that is nearest, and reads from the 8 around it.
    What is known of the points is worked out once, however often features go to and fro.

    Args:
        points: float coordinates; where the features are.
        resolution: cells per axis.
        normalize: scale each cloud so that its furthest point is half a cube away from the centre;
            if False, the cube spans -1 to 1 around the centre, in the unit of the coordinates.
            Points outside count to the border.
        function: name of the caller, for messages.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ``resolution`` is not positive; coordinates that are not finite.

    Memory of a grid: clouds * resolution**3 * channels.

    Source: Liu et al., "Point-Voxel CNN", NeurIPS 2019, section 4.
    """

    def __init__(
        self,
        points: PointTensor,
        resolution: int,
        *,
        normalize: bool = True,
        function: str = "CloudGrid",
    ) -> None:
        check_points(f"{function}: points", points)
        check_resolution(function, resolution)
        self.points = points
        self.resolution = int(resolution)
        self.normalize = normalize
        present, cloud = torch.unique(points.batch.long(), return_inverse=True)
        self.num_clouds = len(present)
        position = self._positions(cloud)
        cells = position.round().long()
        rows = self._row(cloud, cells.unbind(1))
        self._segments = ops.segments(rows, self.num_clouds * self.resolution**3)
        self._corners = self._trilinear(cloud, position)

    def voxelize(self, feats: Tensor) -> Tensor:
        """Mean of the points in each cell; zero in a cell without points.

        Args:
            feats: (N, C) of the points.

        Returns:
            (num_clouds, C, resolution, resolution, resolution), channels last in memory.
        """
        wanted = (len(self.points), None)
        check_shape("CloudGrid.voxelize: feats", feats, wanted, "Give one row per point.")
        means, _ = ops.segment_reduce(feats, *self._segments, reduce="mean")
        r = self.resolution
        return means.view(self.num_clouds, r, r, r, feats.shape[1]).permute(0, 4, 1, 2, 3)

    def devoxelize(self, grid: Tensor) -> Tensor:
        """Read cells at the points, trilinearly.

        Args:
            grid: (num_clouds, C, resolution, resolution, resolution).

        Returns:
            (N, C), dtype of ``grid``.
        """
        wanted = (self.num_clouds, None, *(self.resolution,) * 3)
        remedy = "Keep the cells that voxelize made; a convolution needs padding for that."
        check_shape("CloudGrid.devoxelize: grid", grid, wanted, remedy)
        cells = grid.permute(0, 2, 3, 4, 1).reshape(-1, grid.shape[1])
        return ops.interpolate(cells, *self._corners)

    def _positions(self, cloud: Tensor) -> Tensor:
        """(N, 3) in cells, from 0 to resolution - 1."""
        segments = ops.segments(cloud, self.num_clouds)
        xyz = self.points.xyz.detach()
        xyz = xyz - ops.segment_reduce(xyz, *segments, reduce="mean")[0][cloud]
        if self.normalize:
            length = xyz.norm(dim=1, keepdim=True)
            radius, _ = ops.segment_reduce(length, *segments, reduce="max")
            # Points that all coincide are in the middle.
            diameter = 2 * radius.clamp_min(torch.finfo(xyz.dtype).tiny)
            xyz = xyz / diameter[cloud] + 0.5
        else:
            xyz = (xyz + 1) / 2
        return (xyz * self.resolution).clamp(0, self.resolution - 1)

    def _row(self, cloud: Tensor, cells: tuple[Tensor, ...]) -> Tensor:
        """(N,) int64 row of a cell among those of all grids, z fastest."""
        row = cloud
        for axis in cells:
            row = row * self.resolution + axis
        return row

    def _trilinear(self, cloud: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (N, 8) and weights (N, 8) of the cells around each point."""
        low = position.floor().long()
        high = (low + 1).clamp_max(self.resolution - 1)  # beyond the border, where the weight is 0
        fraction = position - low
        rows, weights = [], []
        for corner in product((0, 1), repeat=3):
            is_high = torch.tensor(corner, dtype=torch.bool, device=low.device)
            rows.append(self._row(cloud, torch.where(is_high, high, low).unbind(1)))
            weights.append(torch.where(is_high, fraction, 1 - fraction).prod(1))
        return torch.stack(rows, dim=1), torch.stack(weights, dim=1)


def check_resolution(function: str, resolution: int) -> None:
    """Raise unless ``resolution`` is a positive integer."""
    remedy = "Give the cells per axis of the dense grid, for example 32."
    check_integer(f"{function}: resolution", resolution, remedy)
    if resolution < 1:
        refuse(f"{function}: resolution", "at least 1", resolution, remedy)
