# SPDX-License-Identifier: MIT
"""Convolution on the CPU against ``torch.mm`` (1024 x 1024 x 1024, float32) in the same rounds.

A ratio of 1 means: the useful multiplications of the sparse convolution run as fast as those of a
dense matrix product. Useful are 2 * pairs * in_channels * out_channels, three times that for
forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import torchsparse_lite as tsl
from benchmarks.scan import load_scan, voxels_of
from torchsparse_lite.timing import Times, race

VOXEL_SIZES_M = (0.05, 0.2)
CHANNELS = (32, 64, 96, 128, 256)
MM_SIZE = 1024


def run(threads: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows: forward, forward + backward and bfloat16 forward per voxel size and channel count."""
    torch.manual_seed(0)
    name, points = load_scan()
    a, b = torch.randn(2, MM_SIZE, MM_SIZE)
    mm_flops = 2 * MM_SIZE**3
    for voxel_size in VOXEL_SIZES_M:
        voxels = voxels_of(points, voxel_size)
        for channels in CHANNELS:
            conv = tsl.nn.Conv3d(channels, channels, 3, bias=False)
            x = tsl.nn.Conv3d(4, channels, 3)(voxels).detach()  # features as layers get them
            pairs = x.manager.submanifold(x.level, conv.window.geometry).num_pairs
            times = race({"mm": lambda: torch.mm(a, b), **_contestants(conv, x)})
            flops = 2 * pairs * channels * channels
            mm_rate = _rate(mm_flops, times["mm"])
            forward = _rate(flops, times["forward"])
            yield {
                "scan": name,
                "voxel_size_m": voxel_size,
                "voxels": len(x),
                "pairs_per_voxel": round(pairs / len(x), 2),
                "channels": channels,
                "mm_gflops": round(mm_rate, 1),
                "forward": times["forward"].as_dict(),
                "forward_gflops": round(forward, 1),
                "forward_vs_mm": round(forward / mm_rate, 3),
                "train": times["train"].as_dict(),
                "train_vs_mm": round(_rate(3 * flops, times["train"]) / mm_rate, 3),
                "bf16_forward": times["bf16"].as_dict(),
                "bf16_vs_fp32": round(times["forward"].median / times["bf16"].median, 3),
            }


def _contestants(conv: tsl.nn.Conv3d, x: tsl.SparseTensor) -> dict[str, Callable[[], object]]:
    trained = x.replace_feats(x.feats.clone().requires_grad_())
    grad = torch.randn(len(x), conv.out_channels)
    half_conv = tsl.nn.Conv3d(conv.in_channels, conv.out_channels, 3, bias=False).bfloat16()
    half_x = x.bfloat16()

    def forward() -> None:
        with torch.no_grad():
            conv(x)

    def train() -> None:
        conv.weight.grad = trained.feats.grad = None
        conv(trained).feats.backward(grad)

    def bf16() -> None:
        with torch.no_grad():
            half_conv(half_x)

    return {"forward": forward, "train": train, "bf16": bf16}


def _rate(flops: int, times: Times) -> float:
    """GFLOP/s."""
    return flops / times.median / 1e6
