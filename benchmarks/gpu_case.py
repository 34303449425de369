# SPDX-License-Identifier: MIT
"""A small case of everything that runs on a GPU, for a tool that watches it.

``python -m benchmarks.gpu_case`` is what compute-sanitizer runs, and every operator runs once:
nothing is timed, and results are compared by the tests.
"""

from __future__ import annotations

import argparse

import torch

import torchsparse_lite as tsl
from torchsparse_lite import models, ops
from torchsparse_lite.nn import functional as tsf
from torchsparse_lite.ops.room import DEAD
from torchsparse_lite.sizes import Capacities


def main(arguments: list[str] | None = None) -> None:
    """Maps of every kind, layers forward and backward, sampling and neighbour search."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_case", description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args(arguments).device)
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(700, 3, generator=generator) * torch.tensor([6.0, 6.0, 1.0])
    _convolve(xyz.to(device))
    _multiply(xyz.to(device))
    _reduce(xyz.to(device))
    _search(xyz.to(device))
    _with_room(xyz.to(device))
    print(f"done on {device}")


def _convolve(xyz: torch.Tensor) -> None:
    coords = ops.quantize(xyz, None, [0.2] * 3, [0.0] * 3)
    for found in (ops.unique_coords(coords)[0], ops.unique_coords(coords)[0].flip(0)):
        feats = torch.ones(len(found), 8, device=xyz.device, requires_grad=True)
        x = tsl.SparseTensor(feats, found)
        for options in (
            {"kernel_size": 3},
            {"kernel_size": 3, "groups": 8},
            {"kernel_size": (2, 3, 4), "stride": 2},
            {"kernel_size": 3, "stride": 2, "transposed": True, "generative": True},
        ):
            conv = tsl.nn.Conv3d(8, 8, bias=False, **options).to(xyz.device)
            target = tsl.SparseTensor(feats, found, stride=2) if "generative" in options else x
            conv(target).feats.sum().backward()
        down = tsl.nn.Conv3d(8, 8, 2, 2, bias=False).to(xyz.device)
        up = tsl.nn.Conv3d(8, 8, 2, 2, bias=False, transposed=True).to(xyz.device)
        up(down(x)).feats.sum().backward()


def _multiply(xyz: torch.Tensor) -> None:
    """Convolution on tensor cores, with channels that are no whole tiles."""
    coords = ops.unique_coords(ops.quantize(xyz, None, [0.2] * 3, [0.0] * 3))[0]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # so float32 goes there too, as TF32
    try:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            feats = torch.ones(len(coords), 20, dtype=dtype, device=xyz.device, requires_grad=True)
            x = tsl.SparseTensor(feats, coords)
            for kernel_size, stride in ((3, 1), (5, 1), (2, 2)):
                conv = tsl.nn.Conv3d(20, 40, kernel_size, stride).to(xyz.device, dtype)
                conv(x).feats.float().sum().backward()
            _sum(x.detach(), conv.weight.new_ones(27, 20, 40))
    finally:
        torch.set_float32_matmul_precision(before)


def _sum(x: tsl.SparseTensor, weight: torch.Tensor) -> None:
    """Two convolutions in one pass, one over features side by side."""
    kernel_map = x.manager.submanifold(x.level, tsl.ConvGeometry.same(3))
    ops.table_of_pairs(kernel_map.lists, kernel_map.num_out)
    with torch.no_grad():
        pairs = kernel_map.pairs(with_backward=False)
        sides = ops.ConvTerm((x.feats, x.feats), torch.cat([weight, weight], dim=1), pairs)
        ops.sparse_conv_sum([sides, ops.ConvTerm((x.feats,), weight, pairs)], relu=True)


def _with_room(xyz: torch.Tensor) -> None:
    """A network on fixed memory, as it is recorded; more points than there are."""
    dtype = torch.float16 if xyz.is_cuda else torch.float32
    network = models.spvcnn("18", width=0.25, voxel_size=0.2).eval().to(xyz.device, dtype)
    coords = torch.cat([xyz.new_zeros(len(xyz), 1), xyz], dim=1)
    coords = torch.cat([coords, xyz.new_full((100, 4), DEAD)])
    feats = coords.to(dtype)
    sizes = Capacities(xyz.device, 1.3)
    with torch.no_grad():
        for _ in range(2):
            sizes.begin()
            network(tsl.PointTensor.of_checked(feats, coords, 1, sizes))


def _reduce(xyz: torch.Tensor) -> None:
    """What is bound by memory, with channels that are whole words and with others."""
    for dtype, channels in ((torch.float32, 8), (torch.float16, 8), (torch.float32, 5)):
        feats = torch.rand(len(xyz), channels, device=xyz.device).to(dtype).requires_grad_()
        points = tsl.PointTensor(feats, xyz)
        for reduce in ("mean", "max"):
            voxels = tsl.voxelize(points, 0.2, reduce=reduce).voxels
            normed = tsl.nn.BatchNorm(channels).to(xyz.device)(voxels)
            pools = (
                tsf.max_pool3d(normed, 2, 2),
                tsf.sum_pool3d(normed, 3),
                tsf.avg_pool3d(voxels, 2, 2),
            )
            read = tsl.devoxelize(normed, points, 0.2)
            sum(t.float().sum() for t in (read, *(pool.feats for pool in pools))).backward()


def _search(xyz: torch.Tensor) -> None:
    cloud = torch.arange(len(xyz), device=xyz.device) % 3
    segments = ops.segments(cloud, 3)
    sample_ptr = torch.tensor([0, 5, 5, 40], device=xyz.device)
    rows = ops.furthest_points(xyz, segments, sample_ptr, num_samples=40)
    centers = xyz[rows]
    ops.ball_query(xyz, segments, centers, cloud[rows], radius=0.5, max_neighbors=16)
    ops.nearest_points(xyz, segments, centers, cloud[rows], k=3)


if __name__ == "__main__":
    main()
