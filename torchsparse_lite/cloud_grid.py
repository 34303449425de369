# SPDX-License-Identifier: MIT
"""A full grid around each cloud, and the way between its cells and the points."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.coordinates import Level
from torchsparse_lite.errors import check_integer, check_shape, refuse
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.points import PointTensor, check_points
from torchsparse_lite.tensor import SparseTensor, check_sparse

__all__ = ["CloudGrid"]


class CloudGrid:
    """Cubes of cells, one around each cloud that has points.

    The cube follows its cloud, not the metres: the mean of the points is its centre. Cell ``i`` is
    around position ``i``: a point adds to the cell that is nearest, and reads from the 8 around it.
    What is known of the points is worked out once, however often features go to and fro; the same
    goes for the kernel maps of the cells.

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

    Memory: clouds * resolution**3 * channels for features, and up to 27 pairs of 8 bytes a cell for
    the kernel map that its layers share.

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
        present, cloud = torch.unique(points.batch, return_inverse=True)
        axis = torch.arange(resolution, dtype=torch.int32, device=points.device)
        cube = torch.cartesian_prod(axis.new_zeros(1), axis, axis, axis)
        cells, self._rank, _, _ = ops.unique_coords(cube)
        self.sites = self._sites(present, cells)
        position = self._positions(cloud, len(present))
        rows = self._row(cloud, position.round().long())
        self._segments = ops.segments(rows, len(self.sites))
        self._corners = self._trilinear(cloud, position)

    def scatter(self, feats: Tensor) -> SparseTensor:
        """Mean of the points in each cell; zero in a cell without points.

        Args:
            feats: (N, C) of the points.

        Returns:
            (V, C) at ``sites``; its ``dense()`` is (batch_size, C, resolution, ...).
        """
        wanted = (len(self.points), None)
        check_shape("CloudGrid.scatter: feats", feats, wanted, "Give one row per point.")
        return self.sites.replace_feats(
            ops.segment_reduce(feats, *self._segments, reduce="mean")[0]
        )

    def gather(self, x: SparseTensor) -> Tensor:
        """Read cells at the points, trilinearly.

        Args:
            x: (V, C) at ``sites``.

        Returns:
            (N, C), dtype of ``x``.
        """
        check_sparse("CloudGrid.gather", x)
        level = self.sites.level
        if x.level is not level and not x.coords.equal(level.coords):
            remedy = "Give what scatter made, through layers of stride 1."
            refuse("CloudGrid.gather: x", f"at the grid's {len(level)} cells", repr(x), remedy)
        return ops.interpolate(x.feats, *self._corners)

    def _sites(self, present: Tensor, cells: Tensor) -> SparseTensor:
        """(V, 0): every cell of every cube, in Morton order."""
        coords = cells.repeat(len(present), 1)
        coords[:, 0] = present.repeat_interleave(len(cells))
        r, size = self.resolution, self.points.batch_size
        level = Level(coords, (1, 1, 1), spatial_shape=(r, r, r), batch_size=size, is_morton=True)
        feats = self.points.feats.new_empty((len(coords), 0))
        return SparseTensor.from_level(feats, level, CoordinateManager())

    def _positions(self, cloud: Tensor, num_clouds: int) -> Tensor:
        """(N, 3) in cells, from 0 to resolution - 1."""
        segments = ops.segments(cloud, num_clouds)
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

    def _row(self, cloud: Tensor, cells: Tensor) -> Tensor:
        """(N,) int64 row among the sites of the cells (N, 3) of a cloud."""
        x, y, z = cells.unbind(1)
        r = self.resolution
        return cloud * r**3 + self._rank[(x * r + y) * r + z]

    def _trilinear(self, cloud: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (N, 8) and weights (N, 8) of the cells around each point."""
        low = position.floor().long()
        high = (low + 1).clamp_max(self.resolution - 1)  # beyond the border, where the weight is 0
        fraction = position - low
        rows, weights = [], []
        for corner in product((0, 1), repeat=3):
            is_high = torch.tensor(corner, dtype=torch.bool, device=low.device)
            rows.append(self._row(cloud, torch.where(is_high, high, low)))
            weights.append(torch.where(is_high, fraction, 1 - fraction).prod(1))
        return torch.stack(rows, dim=1), torch.stack(weights, dim=1)


def check_resolution(function: str, resolution: int) -> None:
    """Raise unless ``resolution`` is a positive integer."""
    remedy = "Give the cells per axis of the grid, for example 32."
    check_integer(f"{function}: resolution", resolution, remedy)
    if resolution < 1:
        refuse(f"{function}: resolution", "at least 1", resolution, remedy)
