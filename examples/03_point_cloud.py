# SPDX-License-Identifier: MIT
"""From points to voxels, through a network, and back to points.

Run: python examples/03_point_cloud.py
"""

from __future__ import annotations

import math

import torch

import torchsparse_lite as tsl
from torchsparse_lite import nn as spnn

VOXEL_SIZE_M = 0.1


def scan(num_points: int) -> tsl.PointTensor:
    """Make points on a wavy ground and on a pole, in metres; the feature is the height."""
    ground = torch.rand(num_points, 3) * 8 - 4
    ground[:, 2] = 0.3 * torch.sin(ground[:, 0]) * torch.cos(ground[:, 1])
    turn = torch.rand(num_points // 8) * 2 * math.pi
    pole = torch.stack([turn.cos() * 0.15, turn.sin() * 0.15, torch.rand_like(turn) * 2], dim=1)
    xyz = torch.cat([ground, pole])
    return tsl.PointTensor(xyz[:, 2:].clone(), xyz)


def main() -> None:
    """Voxelize two scans, convolve, and read the result at every point."""
    torch.manual_seed(0)
    scans = [scan(6000), scan(4000)]

    # A point belongs to the cell floor(xyz / voxel_size), also left of zero. The features of a
    # voxel are here the mean over its points; sum, max and first exist too.
    samples = [tsl.voxelize(points, VOXEL_SIZE_M) for points in scans]
    for points, (voxels, _, counts) in zip(scans, samples, strict=True):
        print(
            f"{len(points.feats)} points fill {len(voxels)} voxels, at most {counts.max()} in one"
        )

    # A batch is one sparse tensor whose first coordinate column says which scan a row is from.
    x = tsl.sparse_collate([sample.voxels for sample in samples])
    net = spnn.Sequential(
        spnn.Conv3d(1, 16),
        spnn.BatchNorm(16),
        spnn.ReLU(),
        spnn.Conv3d(16, 16, kernel_size=(3, 3, 1)),  # any size per axis, here flat in z
        spnn.ReLU(),
    )
    y = net(x)
    print("features of the batch:", tuple(y.shape))

    # Global pooling gives one vector per scan: the input of a classifier.
    print("one vector a scan:    ", tuple(spnn.GlobalAvgPool()(y).shape))

    # Back to points, three ways. The index that voxelize returned copies each voxel to its points.
    first = y.decompose()[0]
    points, index = scans[0], samples[0].point_to_voxel
    copied = first.feats[index]
    # devoxelize finds the voxels by itself, so it also serves points that were never voxelized.
    nearest = tsl.devoxelize(first, points, VOXEL_SIZE_M, mode="nearest")
    torch.testing.assert_close(copied, nearest)
    # Trilinear interpolation mixes the eight voxels around a point; missing ones are left out.
    smooth = tsl.devoxelize(first, points, VOXEL_SIZE_M, mode="trilinear", anchor="center")
    change = (smooth - nearest).abs().mean() / nearest.abs().mean()
    print(f"nearest and trilinear differ by {change:.0%} on average")


if __name__ == "__main__":
    main()
