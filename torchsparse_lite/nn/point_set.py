# SPDX-License-Identifier: MIT
"""Fewer points that know their surroundings, and back: the layers of PointNet++."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchsparse_lite import ops
from torchsparse_lite.channels import Joined
from torchsparse_lite.errors import check_shape
from torchsparse_lite.features import check_rows
from torchsparse_lite.neighborhoods import (
    ball_query,
    furthest_point_sample,
    group_points,
    interpolate_nearest,
)
from torchsparse_lite.nn.compose import shared_mlp
from torchsparse_lite.points import PointTensor, check_points

__all__ = ["FeaturePropagation", "SetAbstraction"]


class SetAbstraction(nn.Module):
    """Sample centers, and give each the maximum over what a shared MLP sees in a ball around it.

    The MLP sees a neighbour's position relative to the center, and its features.

    Args:
        in_channels: of the input.
        out_channels: of the layers of the MLP.
        num_centers: of each cloud, an integer or a share, see
            :func:`~torchsparse_lite.furthest_point_sample`.
        radius: of the ball, in the unit of the coordinates.
        max_neighbors: see :func:`~torchsparse_lite.ball_query`.

    Source: Qi et al., "PointNet++", NeurIPS 2017, section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: Sequence[int],
        *,
        num_centers: int | float,
        radius: float,
        max_neighbors: int,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_centers = num_centers
        self.radius = radius
        self.max_neighbors = max_neighbors
        self.mlp = shared_mlp(Joined(3, in_channels), *out_channels)

    def forward(self, points: PointTensor) -> PointTensor:
        """(N, in_channels) to (M, out_channels[-1]) at the centers, cloud after cloud."""
        check_points("SetAbstraction: points", points)
        check_rows("SetAbstraction", points, self.in_channels)
        rows = furthest_point_sample(points, self.num_centers)
        centers = PointTensor.of_checked(points.feats[rows], points.coords[rows], points.batch_size)
        index = ball_query(points, centers, radius=self.radius, max_neighbors=self.max_neighbors)
        neighbors = self.mlp(self._around(points, centers, index))
        # The neighbours of a center are consecutive.
        ptr = torch.arange(len(centers) + 1, device=index.device) * self.max_neighbors
        order = torch.arange(index.numel(), device=index.device)
        return centers.replace_feats(
            ops.segment_reduce(neighbors.feats, order, ptr, reduce="max")[0]
        )

    def _around(self, points: PointTensor, centers: PointTensor, index: Tensor) -> PointTensor:
        """The neighbours as points of their own, at their positions relative to the center."""
        flat = index.flatten()
        batch = points.coords[flat, :1]
        center = centers.xyz.repeat_interleave(self.max_neighbors, dim=0)
        offset = points.xyz[flat] - center
        feats = group_points(points.feats, index).flatten(0, 1)
        return PointTensor.of_checked(
            torch.cat([offset.to(feats.dtype), feats], dim=1),
            torch.cat([batch, offset], dim=1),
            points.batch_size,
        )

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return (
            f"num_centers={self.num_centers}, radius={self.radius}, "
            f"max_neighbors={self.max_neighbors}"
        )


class FeaturePropagation(nn.Module):
    """Carry features to more points: three-nearest interpolation, skip connection, shared MLP.

    Args:
        in_channels: of the coarse points plus of the fine ones.
        out_channels: of the layers of the MLP.

    Source: Qi et al., "PointNet++", NeurIPS 2017, section 3.4.
    """

    def __init__(self, in_channels: int, out_channels: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.mlp = shared_mlp(in_channels, *out_channels)

    def forward(self, coarse: PointTensor, fine: PointTensor) -> PointTensor:
        """Features of both to (N, out_channels[-1]) at the fine points."""
        for name, points in (("coarse", coarse), ("fine", fine)):
            check_points(f"FeaturePropagation: {name}", points)
        feats = torch.cat([interpolate_nearest(coarse, fine), fine.feats], dim=1)
        remedy = "Its in_channels are those of the coarse and of the fine points together."
        wanted = (None, self.in_channels)
        check_shape("FeaturePropagation: feats", feats, wanted, remedy)
        result: PointTensor = self.mlp(fine.replace_feats(feats))
        return result
