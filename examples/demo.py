# SPDX-License-Identifier: MIT
"""The whole way once: a LiDAR scan, voxels, a small U-Net forward and backward, a latency table.

Run: make demo    (or: python -m examples.demo)

Takes a real SemanticKITTI scan if the folder TSL_DATA has one, else a ray-cast street.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import torchsparse_lite as tsl
from benchmarks.scan import load_scan
from benchmarks.timing import Times, race
from torchsparse_lite import nn as spnn

VOXEL_SIZE_M = 0.1
NUM_CLASSES = 19
OUTPUT = Path("demo_output")


def block(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Module:
    """Convolution, batch norm, ReLU; stride 2 halves the resolution with a 2x2x2 kernel."""
    kernel_size = 3 if stride == 1 else stride
    return spnn.Sequential(
        spnn.Conv3d(in_channels, out_channels, kernel_size, stride, bias=False),
        spnn.BatchNorm(out_channels),
        spnn.ReLU(),
    )


class UNet(nn.Module):
    """Four resolutions down and up again, with a skip connection at each."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        """Make the layers."""
        super().__init__()
        widths = (32, 32, 64, 128)
        self.stem = block(in_channels, widths[0])
        self.down = nn.ModuleList(
            spnn.Sequential(block(a, b, stride=2), block(b, b))
            for a, b in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            spnn.Conv3d(b, a, 2, 2, transposed=True)
            for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.merge = nn.ModuleList(block(2 * a, a) for a in widths[-2::-1])
        self.head = spnn.Linear(widths[0], num_classes)

    def forward(self, x: tsl.SparseTensor) -> tsl.SparseTensor:
        """Return scores at the sites of ``x``."""
        skips = [self.stem(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(tsl.cat([up(x), skips.pop()]))
        return self.head(x)


def main() -> None:
    """Voxelise, run, measure, draw, and say where everything lies."""
    torch.manual_seed(0)
    tsl.keep_host_memory()
    name, scan = load_scan()
    cloud = torch.from_numpy(scan)
    points = tsl.PointTensor(cloud, cloud[:, :3].contiguous())
    voxels, point_to_voxel, _ = tsl.voxelize(points, VOXEL_SIZE_M)
    print(f"{name}: {len(points)} points, {len(voxels)} voxels of {VOXEL_SIZE_M} m")

    model = UNet(4, NUM_CLASSES)
    start = time.perf_counter()
    scores = model(voxels).feats[point_to_voxel]
    loss = nn.functional.cross_entropy(scores, torch.zeros(len(points), dtype=torch.long))
    loss.backward()
    seconds = time.perf_counter() - start
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"U-Net with {parameters} parameters: forward and backward in {seconds:.2f} s")
    print(f"kernel maps of that pass: {voxels.manager}\n")

    table = latency_table(model, points)
    print(table)
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "latency.txt"
    path.write_text(table + "\n")
    lies = [str(path), *draw(voxels)]
    print("\nwritten: " + ", ".join(lies))


def latency_table(model: nn.Module, points: tsl.PointTensor) -> str:
    """Where the time of one scan goes, per number of threads."""
    fused = spnn.fuse(model)
    half = spnn.fuse(model).bfloat16()
    available = torch.get_num_threads()
    columns = [_latencies(model, fused, half, points, threads) for threads in (1, available)]
    torch.set_num_threads(available)
    lines = [f"{'median, ms':34s}  1 thread  {available} threads"]
    lines += [
        f"{step:34s}  {columns[0][step].median:8.1f}  {columns[1][step].median:9.1f}"
        for step in columns[0]
    ]
    return "\n".join(lines)


def _latencies(
    model: nn.Module, fused: nn.Module, half: nn.Module, points: tsl.PointTensor, threads: int
) -> dict[str, Times]:
    torch.set_num_threads(threads)
    voxels = tsl.voxelize(points, VOXEL_SIZE_M).voxels

    def fresh() -> tsl.SparseTensor:
        """Make a tensor whose kernel maps are not built yet."""
        return tsl.SparseTensor(voxels.feats, voxels.coords)

    def infer(network: nn.Module, x: tsl.SparseTensor) -> None:
        with torch.no_grad():
            network(x)

    def train() -> None:
        model.train()
        model.zero_grad()
        model(voxels).feats.square().mean().backward()

    steps: dict[str, Callable[[], object]] = {
        "voxelise": lambda: tsl.voxelize(points, VOXEL_SIZE_M),
        "inference, maps included": lambda: infer(fused, fresh()),
        "inference": lambda: infer(fused, voxels),
        "inference, bfloat16": lambda: infer(half, voxels.bfloat16()),
        "training step (forward, backward)": train,
    }
    return race(steps, budget_s=6.0, min_repeats=5)


def draw(voxels: tsl.SparseTensor) -> list[str]:
    """Bird's-eye view of the voxels by height; nothing without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("\nNo picture: pip install matplotlib to get one.")
        return []
    mpl.use("agg")
    from matplotlib import pyplot as plt

    xyz = voxels.coords[:, 1:].float() * VOXEL_SIZE_M
    order = xyz[:, 2].argsort()
    x, y, z = xyz[order].T.numpy()
    figure, axes = plt.subplots(figsize=(10, 7), layout="constrained")
    dots = axes.scatter(x, y, c=z, s=0.4, cmap="viridis", vmin=-2.5, vmax=3, linewidths=0)
    axes.set(xlabel="x, m", ylabel="y, m", aspect="equal", title="Occupied voxels from above")
    axes.set(xlim=(-50, 50), ylim=(-35, 35))
    figure.colorbar(dots, label="height, m", shrink=0.8)
    path = OUTPUT / "voxels.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return [str(path)]


if __name__ == "__main__":
    main()
