# SPDX-License-Identifier: MIT
"""MinkUNet on a scan at 0.05 m: inference and training step, in time and memory.

Coordinates are fresh in every pass, so building the kernel maps is part of each time. Inference is
that of the fused network. A ratio of 1 to ``torch.mm`` means: the multiplications that the layers
need run as fast as those of a dense matrix product (1024^3, float32) in the same rounds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
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
_STATUS = Path("/proc/self/status")


def run(threads: int) -> Iterator[dict[str, Any]]:
    """Rows: inference and training step of MinkUNet by width."""
    name, points = load_scan()
    a, b = torch.randn(2, MM_SIZE, MM_SIZE)
    for width in WIDTHS:
        voxels = voxels_of(points, VOXEL_SIZE_M)
        contestants = {
            "mm": lambda: torch.mm(a, b),
            "inference": _inference(width, voxels),
            "train": _training_step(width, voxels),
        }
        times = race(contestants, budget_s=30.0, min_repeats=7)
        profile = models.profile(models.minkunet(width=width).eval(), voxels)
        mm_gflops = 2 * MM_SIZE**3 / times["mm"].median / 1e6
        gflops = 2 * profile.macs / times["inference"].median / 1e6
        yield {
            "scan": name,
            "network": f"MinkUNet cr {width}",
            "voxel_size_m": VOXEL_SIZE_M,
            "voxels": len(voxels),
            "pairs_per_voxel": round(profile.layers[0].pairs / len(voxels), 2),
            "parameters": profile.parameters,
            "gmacs": round(profile.macs / 1e9, 1),
            "mm_gflops": round(mm_gflops, 1),
            "inference": times["inference"].as_dict(),
            "inference_vs_mm": round(gflops / mm_gflops, 3),
            "inference_peak_mb": _peak_mb("inference", width, threads),
            "train": times["train"].as_dict(),
            "train_peak_mb": _peak_mb("train", width, threads),
        }


def _inference(width: float, voxels: tsl.SparseTensor) -> Callable[[], object]:
    network = spnn.fuse(models.minkunet(width=width).eval())

    def run_once() -> None:
        with torch.no_grad():
            network(_fresh(voxels))

    return run_once


def _training_step(width: float, voxels: tsl.SparseTensor) -> Callable[[], object]:
    """Forward, cross-entropy, backward, and a step of SGD with momentum."""
    torch.manual_seed(0)
    network = models.minkunet(width=width)
    labels = torch.randint(0, 19, (len(voxels),))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run_once() -> None:
        optimizer.zero_grad()
        scores = network(_fresh(voxels)).feats
        torch.nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()

    return run_once


def _fresh(voxels: tsl.SparseTensor) -> tsl.SparseTensor:
    """The same voxels with nothing known about them."""
    return tsl.SparseTensor(voxels.feats, voxels.coords)


def _peak_mb(what: str, width: float, threads: int) -> int | None:
    """How much the memory of a new process grows at most, weights and gradients included."""
    if not _STATUS.is_file():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth_mb, (what, width, threads))


def _growth_mb(what: str, width: float, threads: int) -> int:
    torch.set_num_threads(threads)
    voxels = voxels_of(load_scan()[1], VOXEL_SIZE_M)
    before = _status_mb("VmRSS")
    one_pass = {"inference": _inference, "train": _training_step}[what](width, voxels)
    for _ in range(2):
        one_pass()
    return round(_status_mb("VmHWM") - before)


def _status_mb(key: str) -> float:
    """Of this process; unlike ``ru_maxrss``, nothing of the process that started it."""
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6
