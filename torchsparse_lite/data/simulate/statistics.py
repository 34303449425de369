# SPDX-License-Identifier: MIT
"""Numbers that say whether a simulated scan is like a real one for a sparse network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from torchsparse_lite.kernel_map import ConvGeometry
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor
from torchsparse_lite.voxelize import voxelize

__all__ = ["ScanStatistics", "statistics"]

_DOWN = ConvGeometry(kernel_size=(2, 2, 2), stride=(2, 2, 2))
_SAME = ConvGeometry.same(kernel_size=3, dilation=1)


@dataclass(frozen=True)
class ScanStatistics:
    """Density of a scan.

    Attributes:
        points: number of points.
        voxels: occupied voxels at each level, the finest first.
        pairs: (input, output) pairs of the submanifold 3x3x3 kernel map at each level.
        classes: points of each raw class id; empty without labels.
    """

    points: int
    voxels: tuple[int, ...]
    pairs: tuple[int, ...]
    classes: dict[int, int]

    @property
    def pairs_per_voxel(self) -> tuple[float, ...]:
        """Neighbours of a voxel at each level, itself included."""
        return tuple(p / v if v else 0.0 for p, v in zip(self.pairs, self.voxels, strict=True))


def statistics(
    points: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint32] | None = None,
    *,
    voxel_size_m: float = 0.05,
    levels: int = 5,
) -> ScanStatistics:
    """Count voxels and kernel-map pairs as a U-Net would meet them.

    Level k has the voxels of level 0, minus their minimum over the cloud, shifted right by k bits:
    what strided convolutions with kernel 2 leave.

    Args:
        points: (N, 3 or more) float32, x, y, z in metres first.
        labels: (N,) uint32 raw labels.
        voxel_size_m: edge of the finest voxels.
        levels: how many.
    """
    xyz = torch.from_numpy(np.ascontiguousarray(points[:, :3])).double()
    coords = voxelize(
        PointTensor(torch.ones(len(xyz), 1), xyz), voxel_size_m, precision=torch.float64
    ).voxels.coords
    low = coords.amin(0) if len(coords) else coords.new_zeros(4)
    low[0] = 0
    tensor = SparseTensor(torch.ones(len(coords), 1), coords - low)
    level, voxels, pairs = tensor.level, [], []
    for _ in range(levels):
        voxels.append(len(level))
        pairs.append(tensor.manager.submanifold(level, _SAME).num_pairs)
        level = tensor.manager.strided(level, _DOWN, rule="full")
    ids, counts = np.unique(
        np.empty(0, int) if labels is None else labels & 0xFFFF, return_counts=True
    )
    classes = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return ScanStatistics(len(points), tuple(voxels), tuple(pairs), classes)
