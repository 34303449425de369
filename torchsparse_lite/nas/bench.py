# SPDX-License-Identifier: MIT
"""How long the parts of networks take on a device of the machine at hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchsparse_lite import nn as spnn
from torchsparse_lite.coordinates import HALVING, Level
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.models.setting import Setting
from torchsparse_lite.nas.operations import Operation, geometry_of, maps_of
from torchsparse_lite.nn.compose import shared_mlp
from torchsparse_lite.point_grid import PointGrid, Size
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor, cat
from torchsparse_lite.timing import between_ms, elapsed_ms, mark

__all__ = ["VOXELIZE", "Bench", "WidthGrid", "measure_latency", "middle_of"]

VOXELIZE = "voxelize"
# Time goes in steps with the channels that are made, of vector lanes, and straight with those read.
_OUTPUTS = (*range(4, 64, 4), *range(64, 256, 16), *range(256, 2048, 64))
_INPUTS = (8, 64, 512)
_PASSES = 7
_ONE_WIDTH = ("gather", "scatter", "join", "excite")


def measure_latency(
    run: Callable[[], object],
    device: torch.device,
    *,
    budget_s: float = 1.0,
    repeats: int = 5,
    statistic: Callable[[list[float]], float] = statistics.median,
) -> float:
    """Milliseconds of a call, after one that is not counted.

    Args:
        run: to call.
        device: where it computes.
        budget_s: seconds to spend, roughly.
        repeats: calls at least.
        statistic: makes one number of the times of all calls; a median needs several.
    """
    run()
    samples: list[float] = []
    begun = time.perf_counter()
    while len(samples) < repeats or (time.perf_counter() - begun < budget_s and len(samples) < 200):
        samples.append(elapsed_ms(run, device))
    return statistic(samples)


@dataclass(frozen=True, eq=False)
class WidthGrid:
    """Milliseconds by channels.

    Attributes:
        inputs: (I,) ascending.
        outputs: (O,) ascending; one for operations with a single width.
        ms: (I, O).
    """

    inputs: Sequence[int]
    outputs: Sequence[int]
    ms: Sequence[Sequence[float]]

    def at(self, inputs: int, outputs: int) -> float:
        """Linear between the measured ones; in proportion beyond the last."""
        by_input = [_between(self.outputs, row, outputs) for row in self.ms]
        return _between(self.inputs, by_input, inputs)


def middle_of(grids: Sequence[WidthGrid]) -> WidthGrid:
    """The median of each width.

    When a shared machine stalls, all calls of a width can: only grids that were measured at other
    times show which is the exception.

    Args:
        grids: of one operation in the same widths, one or more.

    Returns:
        A grid of these widths.
    """
    return replace(grids[0], ms=np.median([grid.ms for grid in grids], axis=0).tolist())


def _between(places: Sequence[int], values: Sequence[float], at: int) -> float:
    if len(places) == 1:
        return values[0]
    if at > places[-1]:
        return values[-1] * at / places[-1]
    return float(np.interp(at, places, values))


class Bench:
    """Operations on a real scan.

    Args:
        setting: where and in which type they run.
        scan: its points.
        voxel_size: edge length in metres, one number or one per axis.
        levels: tensor strides 1, 2, ..., ``2**(levels - 1)``.
    """

    def __init__(self, setting: Setting, scan: PointTensor, voxel_size: Size, levels: int) -> None:
        self._setting = setting
        self._scan = setting.place(scan)
        self._voxel_size = voxel_size
        self._grid = PointGrid(self._scan, voxel_size)
        self._levels = [self._grid.sites.level]
        manager = self._grid.sites.manager
        for _ in range(levels - 1):
            self._levels.append(manager.strided(self._levels[-1], HALVING))

    def maps(self, operations: Sequence[Operation]) -> dict[tuple[str, int], float]:
        """Milliseconds of each part that the operations have in common, and of voxelisation."""
        needed = maps_of(operations, len(self._levels))
        samples: dict[tuple[str, int], list[float]] = {}
        for _ in range(_PASSES):
            for key, ms in self._one_pass(needed):
                samples.setdefault(key, []).append(ms)
        return {key: statistics.median(values) for key, values in samples.items()}

    def _one_pass(
        self, needed: Sequence[tuple[str, int]]
    ) -> Iterator[tuple[tuple[str, int], float]]:
        device = self._setting.device
        begin = mark(device)
        points = PointTensor(self._scan.feats, self._scan.coords, self._scan.batch_size)
        grid = PointGrid(points, self._voxel_size)
        grid.scatter(points.feats, grid.sites)
        yield (VOXELIZE, 0), between_ms(begin, mark(device))
        levels = [grid.sites.level]
        for form, level in needed:
            begin = mark(device)
            self._make(grid, levels, form, level)
            yield (form, level), between_ms(begin, mark(device))

    def _make(self, grid: PointGrid, levels: list[Level], form: str, level: int) -> None:
        manager = CoordinateManager()  # another one each time: it would keep what forms share
        if form == "cells":
            levels.append(levels[level].cells.level)
        elif form == "cube":
            _ = levels[level].cube_neighbors
        elif form == "table":
            _ = levels[level].table
        elif form == "rows":
            grid.rows(levels[level])
        elif form in ("down", "up"):
            made = manager.kernel_map(levels[level], levels[level + 1], HALVING)
            (made if form == "down" else made.transposed).pairs(with_backward=False)
        elif form in ("gather", "scatter"):
            feats = grid.points.feats
            x = SparseTensor.from_level(
                feats.new_zeros((len(levels[level]), 1)), levels[level], manager
            )
            if form == "gather":
                grid.gather(x)
            else:
                grid.scatter(feats[:, :1], x)
        else:
            geometry = geometry_of(form.removeprefix("conv:"))
            manager.submanifold(levels[level], geometry).pairs(with_backward=False)

    def grid(self, most: Operation, budget_s: float) -> WidthGrid:
        """The operation in all widths up to its largest: the fastest of a few calls of each.

        All parts are faster so than in a network; the fit to whole ones knows.
        """
        has_one_width = most.kind in _ONE_WIDTH or most.kind.startswith("depthwise")
        outputs = _up_to(_OUTPUTS, most.outputs)
        inputs = [0] if has_one_width else _up_to(_INPUTS, most.inputs)
        ms = [
            [self._measure(most.kind, most.level, i or o, o, budget_s) for o in outputs]
            for i in inputs
        ]
        return WidthGrid(inputs, outputs, ms)

    def _measure(self, kind: str, level: int, inputs: int, outputs: int, budget_s: float) -> float:
        run = self._run(kind, level, inputs, outputs)
        with torch.inference_mode():
            return measure_latency(
                run, self._setting.device, budget_s=budget_s, repeats=3, statistic=min
            )

    def _run(self, kind: str, level: int, inputs: int, outputs: int) -> Callable[[], object]:
        name, _, form = kind.partition(":")
        points = self._scan
        if name in ("mlp", "linear", "scatter"):
            points = points.replace_feats(self._feats(len(points), inputs))
        if name in ("mlp", "linear"):
            made = shared_mlp(inputs, outputs) if name == "mlp" else spnn.Linear(inputs, outputs)
            layer = self._placed(made)
            return lambda: layer(points)
        finer, manager = self._levels[level], self._grid.sites.manager
        x = SparseTensor.from_level(self._feats(len(finer), inputs), finer, manager)
        if name == "gather":
            return lambda: self._grid.gather(x)
        if name == "scatter":
            return lambda: self._grid.scatter(points.feats, x)
        if name == "join":
            half = x.replace_feats(x.feats[:, : inputs // 2].contiguous())
            return lambda: cat([half, half])
        if name == "excite":
            excite = self._placed(spnn.SqueezeExcitation(inputs))
            return lambda: excite(x)
        if name in ("down", "up"):
            conv = self._placed(spnn.Conv3d(inputs, outputs, 2, 2, transposed=name == "up"))
            if name == "down":
                return lambda: conv(x, relu=True)
            coarse = self._levels[level + 1]
            y = SparseTensor.from_level(self._feats(len(coarse), inputs), coarse, manager)
            return lambda: conv(y, finer, relu=True)
        geometry, groups = geometry_of(form), 1
        if name == "depthwise":
            inputs = groups = outputs
            x = x.replace_feats(self._feats(len(finer), outputs))
        size, taps = geometry.kernel_size, geometry.taps
        conv = self._placed(spnn.Conv3d(inputs, outputs, size, groups=groups, taps=taps))
        return lambda: conv(x, relu=True)

    def _feats(self, rows: int, channels: int) -> Tensor:
        options: Any = {"device": self._setting.device, "dtype": self._setting.dtype}
        return torch.randn(rows, channels, **options)

    def _placed(self, layer: nn.Module) -> nn.Module:
        return layer.to(self._setting.device, self._setting.dtype).eval()


def _up_to(widths: Sequence[int], most: int) -> list[int]:
    return [*(width for width in widths if width < most), most]
