# SPDX-License-Identifier: MIT
"""Kernel maps that many networks share."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchsparse_lite.models.spvcnn import SPVCNN
from torchsparse_lite.point_grid import PointGrid, edge_lengths
from torchsparse_lite.points import PointTensor

__all__ = ["SharedGrids"]


class SharedGrids:
    """One batch of points, for networks that are run on it one after the other.

    Maps depend on coordinates and kernels alone: they are made once, by the first network that
    needs them, and kept until a network comes with other voxels.

    Args:
        points: of the batch.
    """

    def __init__(self, points: PointTensor) -> None:
        self.points = points
        self._grid: PointGrid | None = None

    def inputs(self, network: nn.Module) -> tuple[Any, ...]:
        """What to call the network with."""
        if not isinstance(network, SPVCNN):
            return (self.points,)
        size = edge_lengths("SharedGrids: voxel_size", network.voxel_size)
        if self._grid is None or self._grid.voxel_size != size:
            self._grid = PointGrid(self.points, size)
        return self.points, self._grid
