# SPDX-License-Identifier: MIT
"""What a network costs, from its description and counts of typical scans: no forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.coordinates import HALVING
from torchsparse_lite.errors import Triple, refuse
from torchsparse_lite.kernel_map import ConvGeometry
from torchsparse_lite.models.profile import LayerProfile, Profile, layer_profile
from torchsparse_lite.models.spvcnn import SPVCNN, as_spvcnn
from torchsparse_lite.point_grid import PointGrid, Size, edge_lengths
from torchsparse_lite.points import PointTensor

__all__ = ["ScanStatistics", "count_scans", "counts_for", "estimate", "levels_of"]

_REACH = ConvGeometry.same(5)


@dataclass(frozen=True, eq=False)
class ScanStatistics:
    """Counts of voxelised scans, the mean over them.

    Attributes:
        voxel_size: edge lengths in metres.
        points: of a scan.
        voxels: (L,) at tensor strides 1, 2, 4, ...
        neighbors: (L, 5, 5, 5) pairs of voxels at each offset from -2 to 2 in x, y and z.
    """

    voxel_size: tuple[float, float, float]
    points: float
    voxels: npt.NDArray[np.float64]
    neighbors: npt.NDArray[np.float64]

    def pairs(self, level: int, offsets: Iterable[Triple]) -> float:
        """Of a submanifold kernel with taps at these offsets, at tensor stride ``2**level``."""
        places = np.array(list(offsets)) + 2
        if places.min() < 0 or places.max() > 4:
            rule, remedy = "at most 2 in every axis", "Count kernels of up to 5x5x5."
            refuse("ScanStatistics.pairs: offsets", rule, np.abs(places - 2).max(), remedy)
        return float(self.neighbors[level][tuple(places.T)].sum())


def count_scans(
    scans: Iterable[PointTensor], voxel_size: Size, *, levels: int = 5
) -> ScanStatistics:
    """Voxelise scans and count.

    Args:
        scans: each by itself.
        voxel_size: edge length of a voxel in metres, one number or one per axis.
        levels: tensor strides 1, 2, ..., ``2**(levels - 1)``.
    """
    voxels, neighbors, points = np.zeros(levels), np.zeros((levels, 5, 5, 5)), []
    for scan in scans:
        x = PointGrid(scan, voxel_size, function="count_scans").sites
        level, manager = x.level, x.manager
        for depth in range(levels):
            if depth:
                level = manager.strided(level, HALVING)
            counts = manager.submanifold(level, _REACH).tap_ptr.diff()
            voxels[depth] += len(level)
            neighbors[depth] += counts.view(5, 5, 5).cpu().numpy()
        points.append(len(scan))
    if not points:
        refuse("count_scans: scans", "at least one", "none", "Give scans like those to come.")
    size = edge_lengths("count_scans: voxel_size", voxel_size)
    count = len(points)
    return ScanStatistics(size, float(np.mean(points)), voxels / count, neighbors / count)


def estimate(network: nn.Module, statistics: Sequence[ScanStatistics]) -> Profile:
    """What :func:`~torchsparse_lite.models.profile` would count on the mean scan.

    Args:
        network: an SPVCNN; its weights may be on the meta device.
        statistics: for several voxel sizes, that of the network among them.

    Raises:
        TypeError: it is another network.
        ValueError: its voxel size was not counted, or fewer levels than it has.
    """
    network = as_spvcnn("estimate", network)
    counts = counts_for("estimate", network, statistics)
    layers: list[LayerProfile] = []
    for name, module in network.named_modules():
        if isinstance(module, spnn.Conv3d):
            fine, coarse = levels_of(name, len(network.unet.down))
            if fine == coarse:
                pairs = counts.pairs(fine, module.window.geometry.offsets)
            else:
                pairs = counts.voxels[fine]
            ends = counts.voxels[fine], counts.voxels[coarse]
            num_in, num_out = ends[::-1] if module.window.transposed else ends
        elif isinstance(module, nn.Linear):
            num_in = num_out = pairs = counts.points if "unet" not in name else 1.0
        else:
            continue
        layers.append(layer_profile(name, module, round(num_in), round(num_out), round(pairs)))
    return Profile(tuple(layers), sum(p.numel() for p in network.parameters()))


def counts_for(
    function: str, network: SPVCNN, statistics: Sequence[ScanStatistics]
) -> ScanStatistics:
    """Those of the network's voxel size; ValueError, in the name of the function, without any."""
    size = edge_lengths(f"{function}: voxel_size", network.voxel_size)
    for counts in statistics:
        if np.allclose(counts.voxel_size, size):
            if len(counts.voxels) > len(network.unet.down):
                return counts
            rule = f"of at least {len(network.unet.down) + 1} levels"
            refuse(f"{function}: statistics", rule, len(counts.voxels), "Count more levels.")
    known = [counts.voxel_size for counts in statistics]
    remedy = "Count scans in that size."
    return refuse(f"{function}: statistics", f"for voxels of {size}", known, remedy)


def levels_of(name: str, halvings: int) -> tuple[int, int]:
    """Finer and coarser level that a module of the U-Net of an SPVCNN connects, by its name."""
    part, *rest = name.removeprefix("unet.").split(".")
    if part == "stem":
        return 0, 0
    number, role = int(rest[0]), rest[1]
    finer = number if part == "down" else halvings - 1 - number
    if role == "transition":
        return finer, finer + 1
    level = finer + 1 if part == "down" else finer
    return level, level
