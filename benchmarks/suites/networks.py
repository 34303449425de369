# SPDX-License-Identifier: MIT
"""MinkUNet on a scan at 0.05 m: inference and training step, in time and memory.

Coordinates are fresh in every pass, so building the kernel maps is part of each time. Inference is
that of the fused network. A ratio of 1 to ``torch.mm`` means: the multiplications that the layers
need run as fast as those of a dense matrix product (1024^3, on a GPU 4096^3, float32) in the same
rounds. On a GPU the times are those between two events of its stream, inference is timed in
float16, as a CUDA graph of that ("captured"), and with plain convolutions too, and the peak is that
of torch's allocator. "bitwise" says whether two training steps from the same weights give the same
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import torchsparse_lite as tsl
from benchmarks.attempt import attempt
from benchmarks.plainly import Plainly
from benchmarks.scan import load_scan, voxels_of
from torchsparse_lite import models
from torchsparse_lite import nn as spnn
from torchsparse_lite.deploy import capture
from torchsparse_lite.memory_growth import memory_growth_mb
from torchsparse_lite.timing import CPU, race

VOXEL_SIZE_M = 0.05
WIDTHS = (0.5, 1.0)
MM_SIZE = {"cpu": 1024, "cuda": 4096}


def run(threads: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows: inference and training step of MinkUNet by width."""
    name, points = load_scan()
    voxels = voxels_of(points, VOXEL_SIZE_M)
    for width in WIDTHS:
        case = {
            "scan": name,
            "network": f"MinkUNet cr {width}",
            "voxel_size_m": VOXEL_SIZE_M,
            "voxels": len(voxels),
        }
        yield attempt(case, partial(_row, width, voxels, threads, device))


def _row(
    width: float, voxels: tsl.SparseTensor, threads: int, device: torch.device
) -> dict[str, Any]:
    size = MM_SIZE[device.type]
    a, b = torch.randn(2, size, size, device=device)
    there = voxels.to(device)
    infer = _inference(width, there)
    contestants = {
        "mm": lambda: torch.mm(a, b),
        "inference": infer,
        "train": _training_step(width, there),
    }
    if device != CPU:
        halves = there.half()
        captured = capture(_network(width, halves))
        contestants["inference_half"] = _inference(width, halves)
        contestants["inference_captured"] = lambda: captured(_fresh(halves))
        contestants["inference_plain"] = partial(_plainly, infer)
    times = race(contestants, device=device, budget_s=30.0, min_repeats=7)
    profile = models.profile(models.minkunet(width=width).eval(), voxels)
    mm_gflops = 2 * size**3 / times["mm"].median / 1e6
    gflops = 2 * profile.macs / times["inference"].median / 1e6
    peak_mb = partial(_peak_mb, width=width, threads=threads, device=device)
    extra = {name: times[name].as_dict() for name in contestants if name.startswith("inference_")}
    if device != CPU:
        cpu = race({"cpu": _inference(width, voxels)}, budget_s=1.0, min_repeats=5)["cpu"]
        extra["inference_cpu"] = cpu.as_dict()
        extra["fallbacks"] = captured.fallbacks
    is_repeated = _repeats(width, there)
    return {
        "pairs_per_voxel": round(profile.layers[0].pairs / len(voxels), 2),
        "parameters": profile.parameters,
        "gmacs": round(profile.macs / 1e9, 1),
        "mm_gflops": round(mm_gflops, 1),
        "inference": times["inference"].as_dict(),
        "inference_vs_mm": round(gflops / mm_gflops, 3),
        "inference_peak_mb": peak_mb("inference"),
        **extra,
        "train": times["train"].as_dict(),
        "train_peak_mb": peak_mb("train"),
        "bitwise": is_repeated,
        **({} if is_repeated else {"failed": "two training steps differ"}),
    }


def _inference(width: float, voxels: tsl.SparseTensor) -> Callable[[], object]:
    network = _network(width, voxels)

    def run_once() -> None:
        with torch.no_grad():
            network(_fresh(voxels))

    return run_once


def _network(width: float, voxels: tsl.SparseTensor) -> torch.nn.Module:
    """For inference, in the dtype and on the device of these voxels."""
    network = spnn.fuse(models.minkunet(width=width).eval())
    return network.to(device=voxels.device, dtype=voxels.dtype)


def _plainly(run_once: Callable[[], object]) -> None:
    with Plainly():
        run_once()


def _training_step(
    width: float, voxels: tsl.SparseTensor
) -> Callable[[], Iterator[torch.nn.Parameter]]:
    """Forward, cross-entropy, backward, and a step of SGD with momentum; gives the weights."""
    torch.manual_seed(0)
    network = models.minkunet(width=width).to(voxels.device)
    labels = torch.randint(0, 19, (len(voxels),)).to(voxels.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run_once() -> Iterator[torch.nn.Parameter]:
        optimizer.zero_grad()
        scores = network(_fresh(voxels)).feats
        torch.nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()
        return network.parameters()

    return run_once


def _repeats(width: float, voxels: tsl.SparseTensor) -> bool:
    """Whether a training step from the same weights gives the same weights, to the bit."""
    first, second = (_training_step(width, voxels)() for _ in range(2))
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _fresh(voxels: tsl.SparseTensor) -> tsl.SparseTensor:
    """The same voxels as they come out of voxelize, without maps."""
    level = tsl.Level(
        voxels.coords,
        voxels.stride,
        spatial_shape=None,
        batch_size=voxels.batch_size,
        is_morton=voxels.level.is_morton,
    )
    return tsl.SparseTensor.from_level(voxels.feats, level, tsl.CoordinateManager())


def _peak_mb(what: str, width: float, threads: int, device: torch.device) -> int | None:
    """How much memory grows at most, weights and gradients too."""
    run = partial(_two_passes, what, width)
    return memory_growth_mb(run, partial(_voxels, device), device=device, threads=threads)


def _voxels(device: torch.device) -> tsl.SparseTensor:
    return voxels_of(load_scan()[1], VOXEL_SIZE_M).to(device)


def _two_passes(what: str, width: float, voxels: tsl.SparseTensor) -> None:
    one_pass = {"inference": _inference, "train": _training_step}[what](width, voxels)
    for _ in range(2):
        one_pass()
