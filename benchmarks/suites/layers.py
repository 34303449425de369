# SPDX-License-Identifier: MIT
"""Single layers and kernel maps on any device: the operator, the plain path, the processor.

Maps are at hand in every time but that of the maps. "operator" is what a layer runs, "plain" the
same convolution by torch alone, "mm" a dense product of matrices in the same dtype. On a GPU the
times are those between two events of its stream, and "cpu" is the operator on this machine's
processor. The last rows are checks: two passes are equal to the bit, and a thousand leave nothing
behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torchsparse_lite as tsl
from benchmarks.attempt import attempt, largest_error
from benchmarks.plainly import Plainly
from benchmarks.scan import load_scan, voxels_of
from benchmarks.suites.cpu_maps import unet_maps
from torchsparse_lite.timing import CPU, Times, race

VOXEL_SIZES_M = (0.05, 0.2)
CHANNELS = (32, 64, 96, 128, 256)
RESAMPLED_CHANNELS = 64
ITERATIONS = 1000
OUTPUT_GRADIENT = 2.0**-10  # float16 holds its sum with 100,000 rows of features up to 600
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3}
MM_SIZE = {"cpu": 1024, "cuda": 4096}
KINDS = {"submanifold 3x3x3": (3, 1), "down 2x2x2": (2, 2), "up 2x2x2": (2, 2)}
_STATM = Path("/proc/self/statm")
_PAGE = 4096


def run(threads: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows: maps, layers by kind, voxel size, channels and dtype, and the checks."""
    torch.manual_seed(0)
    name, points = load_scan()
    for voxel_size in VOXEL_SIZES_M:
        voxels = voxels_of(points, voxel_size)
        about = {"scan": name, "voxel_size_m": voxel_size, "voxels": len(voxels)}
        yield attempt({"case": "maps of a 5-level U-Net", **about}, partial(_maps, voxels, device))
        for kind, channels, dtype in _cases():
            case = {"case": kind, **about, "channels": channels, "dtype": name_of(dtype)}
            yield attempt(case, partial(_layer, kind, channels, dtype, voxels, device))
    case = {"case": f"memory after {ITERATIONS} passes", "iterations": ITERATIONS}
    yield attempt(case, partial(_memory_growth, device))


def _cases() -> Iterator[tuple[str, int, torch.dtype]]:
    for dtype in TOLERANCE:
        for kind in KINDS:
            channels = CHANNELS if kind.startswith("submanifold") else (RESAMPLED_CHANNELS,)
            for count in channels:
                yield kind, count, dtype


def name_of(dtype: torch.dtype) -> str:
    """Without "torch."."""
    return str(dtype).removeprefix("torch.")


def _maps(voxels: tsl.SparseTensor, device: torch.device) -> dict[str, Any]:
    """All maps from raw coordinates in Morton order, by descent and by hashing."""
    coords = voxels.coords.to(device)
    contestants = {search: partial(unet_maps, coords, search) for search in ("auto", "hash")}
    times = race(contestants, device=device, budget_s=2.0)
    row = {"pyramid": times["auto"].as_dict(), "hash": times["hash"].as_dict()}
    if device != CPU:
        row["cpu"] = _on_cpu(partial(unet_maps, voxels.coords, "auto")).as_dict()
        both = zip(unet_maps(coords, "auto"), unet_maps(voxels.coords, "auto"), strict=True)
        if not all(_is_same(here, there) for here, there in both):
            row["failed"] = "the maps are not those of the CPU"
    return row


def _is_same(here: tsl.KernelMap, there: tsl.KernelMap) -> bool:
    """Whether two maps are equal, pair by pair."""
    return torch.equal(here.in_index.cpu(), there.in_index) and torch.equal(
        here.out_index.cpu(), there.out_index
    )


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with its map.

    Attributes:
        conv: without a bias.
        x: its input.
        kernel_map: from the input to the output.
    """

    conv: tsl.nn.Conv3d
    x: tsl.SparseTensor
    kernel_map: tsl.KernelMap

    def forward(self) -> Tensor:
        """Output."""
        with torch.no_grad():
            return self.conv(self.x).feats

    def train(self) -> tuple[Tensor, ...]:
        """Output and gradients of input and weight."""
        feats = self.x.feats.detach().requires_grad_()
        out = self.conv(self.x.replace_feats(feats)).feats
        grad = torch.full_like(out, OUTPUT_GRADIENT)
        grads = torch.autograd.grad(out, (feats, self.conv.weight), grad)
        return out, *grads

    def plain(self) -> Tensor:
        """Output, by torch alone."""
        with Plainly():
            return self.forward()

    def plain_train(self) -> tuple[Tensor, ...]:
        """Output and gradients, by torch alone."""
        with Plainly():
            return self.train()


def make_layer(
    kind: str, channels: int, dtype: torch.dtype, voxels: tsl.SparseTensor, device: torch.device
) -> Layer:
    """The layer on ``device``, with features as layers get them, and its map made."""
    torch.manual_seed(0)
    kernel, stride = KINDS[kind]
    is_up = kind.startswith("up")
    options = {"bias": False, "device": device, "dtype": dtype, "transposed": is_up}
    conv = tsl.nn.Conv3d(channels, channels, kernel, stride, **options)
    x = tsl.nn.Conv3d(4, channels, 3)(voxels).detach().to(device).to(dtype)
    if is_up:
        coarse = x.manager.strided(x.level, conv.window.geometry)
        x = tsl.SparseTensor.from_level(x.feats[: len(coarse)], coarse, x.manager)
    return Layer(conv, x, conv.window.link("layers", x, None).kernel_map)


def _layer(
    kind: str, channels: int, dtype: torch.dtype, voxels: tsl.SparseTensor, device: torch.device
) -> dict[str, Any]:
    layer = make_layer(kind, channels, dtype, voxels, device)
    size = MM_SIZE[device.type]
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    contestants = {
        "mm": lambda: torch.mm(a, b),
        "operator": layer.forward,
        "plain": layer.plain,
        "train": layer.train,
        "plain_train": layer.plain_train,
    }
    times = race(contestants, device=device, budget_s=1.5)
    flops = 2 * layer.kernel_map.num_pairs * channels * channels
    mm_rate = 2 * size**3 / times["mm"].median
    row = {
        "pairs_per_voxel": round(layer.kernel_map.num_pairs / len(voxels), 2),
        "mm_tflops": round(mm_rate / 1e9, 2),
        **{name: value.as_dict() for name, value in times.items()},
        "operator_vs_mm": round(flops / times["operator"].median / mm_rate, 3),
        "train_vs_mm": round(3 * flops / times["train"].median / mm_rate, 3),
        "plain_vs_operator": round(times["plain"].median / times["operator"].median, 3),
        "plain_vs_operator_train": round(times["plain_train"].median / times["train"].median, 3),
    }
    if device != CPU and dtype == torch.float32:
        there = make_layer(kind, channels, dtype, voxels, CPU)
        row["cpu"] = _on_cpu(there.forward).as_dict()
    return {**row, **_checked(layer, dtype)}


def _on_cpu(run: Callable[[], object]) -> Times:
    """A few repeats on this machine's processor, for comparison."""
    return race({"cpu": run}, budget_s=0.5, min_repeats=5)["cpu"]


def _checked(layer: Layer, dtype: torch.dtype) -> dict[str, Any]:
    """How far the operator is from the plain path, and whether its passes repeat to the bit."""
    first, second, plain = layer.train(), layer.train(), layer.plain_train()
    error = max(largest_error(a, b) for a, b in zip(first, plain, strict=True))
    is_repeated = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    row = {"error": float(f"{error:.3g}"), "bitwise": is_repeated}
    if not error <= TOLERANCE[dtype]:
        row["failed"] = f"{error:.3g} away from the plain path"
    elif not is_repeated:
        row["failed"] = "two passes differ"
    return row


def _memory_growth(device: torch.device) -> dict[str, Any]:
    """Bytes more after the passes, each over other sites with a map of its own, than before."""
    conv = tsl.nn.Conv3d(16, 16, 3, bias=False).to(device)
    clouds = [_small_cloud(seed).to(device) for seed in range(7)]

    def one_pass(index: int) -> None:
        coords = clouds[index % len(clouds)]
        feats = torch.ones(len(coords), 16, device=device, requires_grad=True)
        conv(tsl.SparseTensor(feats, coords)).feats.sum().backward()
        conv.weight.grad = None

    for index in range(50):
        one_pass(index)
    before = _bytes_held(device)
    for index in range(ITERATIONS):
        one_pass(index)
    growth = _bytes_held(device) - before
    # What malloc keeps for later is not lost; torch's allocator on a GPU counts to the byte.
    limit = 2**24 if device == CPU else 0
    return {"bytes": growth, **({"failed": f"{growth} bytes more"} if growth > limit else {})}


def _bytes_held(device: torch.device) -> int:
    if device != CPU:
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    return int(_STATM.read_text().split()[1]) * _PAGE if _STATM.is_file() else 0


def _small_cloud(seed: int) -> Tensor:
    """(N, 4) coordinates of a rough sheet."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    z = torch.randint(0, 3, x.shape, generator=generator)
    return torch.stack([torch.zeros_like(x), x, y, z], dim=-1).reshape(-1, 4).int()
