# SPDX-License-Identifier: MIT
"""Kernel maps and voxelisation on the CPU, from raw coordinates.

The peer is plain torch: sort the packed keys, search 27 times, as a user would write it. Everybody
starts from the same coordinates, one per voxel in no order; the sort into Morton order that octree
descent needs is part of its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import torchsparse_lite as tsl
from benchmarks.scan import load_scan, voxels_of
from torchsparse_lite.timing import race

VOXEL_SIZE_M = 0.05
LEVELS = 5
_CUBE = tsl.ConvGeometry.same(3)
_HALVE = tsl.ConvGeometry(2, 2)


def run(threads: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows: all maps of a five-level U-Net by three methods, and voxelisation."""
    name, points = load_scan()
    coords = voxels_of(points, VOXEL_SIZE_M).coords
    coords = coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))]
    times = race(
        {
            "pyramid": lambda: unet_maps(tsl.ops.unique_coords(coords)[0], "auto"),
            "hash": lambda: unet_maps(coords, "hash"),
            "torch": lambda: torch_maps(coords),
        },
        budget_s=8.0,
    )
    yield {
        "what": "all kernel maps of a 5-level U-Net (k3 at 5 levels, k2s2 between)",
        "scan": name,
        "voxels": coords.shape[0],
        **{method: value.as_dict() for method, value in times.items()},
        "hash_vs_pyramid": round(times["hash"].median / times["pyramid"].median, 2),
        "pyramid_vs_torch": round(times["pyramid"].median / times["torch"].median, 3),
    }
    cloud = torch.from_numpy(points)
    tensor = tsl.PointTensor(cloud, cloud[:, :3].contiguous())
    scaled = cloud[:, :3] / VOXEL_SIZE_M
    times = race(
        {
            "voxelize": lambda: tsl.voxelize(tensor, VOXEL_SIZE_M),
            "torch": lambda: torch.unique(scaled.floor().int(), dim=0, return_inverse=True),
        },
        budget_s=4.0,
    )
    yield {
        "what": "voxelize (mean of 4 features, inverse map, counts)",
        "scan": name,
        "points": len(tensor),
        "voxel_size_m": VOXEL_SIZE_M,
        **{method: value.as_dict() for method, value in times.items()},
    }


def unet_maps(coords: Tensor, search: str) -> list[tsl.KernelMap]:
    """Every map of the network, through a fresh manager. Descent takes rows in Morton order."""
    manager = tsl.CoordinateManager(search)
    level = tsl.Level(coords, (1, 1, 1), spatial_shape=None, batch_size=1)
    maps = []
    for depth in range(LEVELS):
        maps.append(manager.submanifold(level, _CUBE))
        if depth + 1 < LEVELS:
            coarse = manager.strided(level, _HALVE)
            maps.append(manager.kernel_map(level, coarse, _HALVE))
            level = coarse
    return maps


def torch_maps(coords: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The same maps by torch alone: packed keys, one sort a level, one search a tap."""
    maps = []
    xyz = coords[:, 1:].long() - coords[:, 1:].min() + 1
    for depth in range(LEVELS):
        keys = (xyz[:, 0] << 40) | (xyz[:, 1] << 20) | xyz[:, 2]
        ordered, order = keys.sort()
        for x in (-1, 0, 1):
            for y in (-1, 0, 1):
                for z in (-1, 0, 1):
                    wanted = keys + (x << 40) + (y << 20) + z
                    at = torch.searchsorted(ordered, wanted).clamp_max(len(keys) - 1)
                    out = (ordered[at] == wanted).nonzero().squeeze(1)
                    maps.append((order[at[out]], out))
        if depth + 1 < LEVELS:
            half = xyz >> 1
            coarse_keys = (half[:, 0] << 40) | (half[:, 1] << 20) | half[:, 2]
            unique, parent = torch.unique(coarse_keys, return_inverse=True)
            maps.append((torch.arange(len(xyz)), parent))
            mask = (1 << 20) - 1
            xyz = torch.stack([unique >> 40, (unique >> 20) & mask, unique & mask], dim=1)
    return maps
