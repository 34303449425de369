# SPDX-License-Identifier: MIT
"""MinkUNet on a scan at 0.05 m: inference and training step, in time and memory.

Coordinates are fresh in every pass, so building the kernel maps is part of each time. Inference is
that of the fused network. A ratio of 1 to ``torch.mm`` means: the multiplications that the layers
need run as fast as those of a dense matrix product (1024^3, float32) in the same rounds.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

import torchsparse_lite as tsl
from benchmarks.scan import load_scan, voxels_of
from benchmarks.timing import race
from torchsparse_lite import models
from torchsparse_lite import nn as spnn

VOXEL_SIZE_M = 0.05
WIDTHS = (0.5, 1.0)
MM_SIZE = 1024


def run(threads: int) -> Iterator[dict[str, Any]]:
    """Rows: inference and training step of MinkUNet by width."""
    name, points = load_scan()
    a, b = torch.randn(2, MM_SIZE, MM_SIZE)
    for width in WIDTHS:
        voxels = voxels_of(points, VOXEL_SIZE_M)
        passes = _passes(width, voxels)
        times = race({"mm": lambda: torch.mm(a, b), **passes}, budget_s=30.0, min_repeats=7)
        profile = models.profile(models.minkunet(width=width).eval(), voxels)
        mm_gflops = 2 * MM_SIZE**3 / times["mm"].median / 1e6
        gflops = 2 * profile.macs / times["inference"].median / 1e6
        yield {
            "scan": name,
            "network": f"MinkUNet cr {width}",
            "voxel_size_m": VOXEL_SIZE_M,
            "voxels": len(voxels),
            "parameters": profile.parameters,
            "gmacs": round(profile.macs / 1e9, 1),
            "mm_gflops": round(mm_gflops, 1),
            "inference": times["inference"].as_dict(),
            "inference_vs_mm": round(gflops / mm_gflops, 3),
            "inference_peak_mb": _peak_mb("inference", width, threads),
            "train": times["train"].as_dict(),
            "train_peak_mb": _peak_mb("train", width, threads),
        }


def _passes(width: float, voxels: tsl.SparseTensor) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    network = models.minkunet(width=width)
    fused = spnn.fuse(models.minkunet(width=width).eval())

    def fresh() -> tsl.SparseTensor:
        return tsl.SparseTensor(voxels.feats, voxels.coords)

    def inference() -> None:
        with torch.no_grad():
            fused(fresh())

    def train() -> None:
        network.zero_grad()
        network(fresh()).feats.square().mean().backward()

    return {"inference": inference, "train": train}


def _peak_mb(what: str, width: float, threads: int) -> int:
    """How much the memory of a new process grows at most, weights and gradients included."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth_mb, (what, width, threads))


def _growth_mb(what: str, width: float, threads: int) -> int:
    torch.set_num_threads(threads)
    voxels = voxels_of(load_scan()[1], VOXEL_SIZE_M)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_pass = _passes(width, voxels)[what]
    for _ in range(2):
        one_pass()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return round((after - before) * unit / 1e6)
