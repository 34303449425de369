# SPDX-License-Identifier: MIT
"""Latency of networks by a table of their parts, measured on the machine at hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchsparse_lite.errors import refuse
from torchsparse_lite.models.setting import HERE, Setting
from torchsparse_lite.models.spvcnn import SPVCNN, as_spvcnn
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.bench import (
    VOXELIZE,
    Bench,
    WidthGrid,
    measure_latency,
    middle_of,
)
from torchsparse_lite.nas.operations import Operation, maps_of, operations_of
from torchsparse_lite.nas.space import SearchSpace
from torchsparse_lite.point_grid import edge_lengths
from torchsparse_lite.points import PointTensor
from torchsparse_lite.whole_file import write_whole

__all__ = ["LatencyTable", "network_latency", "profile_latency"]

_SCHEMA = 2
_ROUNDS = 3  # of all measurements: a shared machine is slow for seconds now and then
_LEAST_FACTOR = 0.5  # less says that whole networks do not grow with their parts: noise
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Times of the parts of networks, and what a network is predicted to take.

    Attributes:
        machine: on which it was measured, and how, as :meth:`Setting.describe` has it.
        threads: of torch.
        points: of the scan that it was measured with.
        operations: by voxel size, kind and level.
        maps: milliseconds of each kernel map, by voxel size, form and level.
        factor: of the sum of the parts.
        offset_ms: beside it.
        errors: relative ones over networks that it was checked with: "median" and "largest".
    """

    machine: Mapping[str, str]
    threads: int
    points: int
    operations: Mapping[tuple[str, str, int], WidthGrid]
    maps: Mapping[tuple[str, str, int], float]
    factor: float = 1.0
    offset_ms: float = 0.0
    errors: Mapping[str, float] = field(default_factory=dict)

    def predict(self, network: nn.Module) -> float:
        """Milliseconds of the fused network on one scan, voxelisation and maps included.

        Args:
            network: an SPVCNN, not fused; its weights may be on the meta device.

        Raises:
            TypeError: it is another network.
            ValueError: it has a part that the table has not.
        """
        return self.offset_ms + self.factor * self._sum(network)

    def _sum(self, network: nn.Module) -> float:
        operations = operations_of(network)
        network = as_spvcnn("LatencyTable.predict", network)
        size = _size_of(network)
        total = self._map(size, VOXELIZE, 0)
        levels = len(network.unet.down) + 1
        total += sum(self._map(size, *part) for part in maps_of(operations, levels))
        for kind, level, inputs, outputs in operations:
            if (size, kind, level) not in self.operations:
                self._refuse(f"{kind} at level {level}", size)
            total += self.operations[size, kind, level].at(inputs, outputs)
        return total

    def _map(self, size: str, form: str, level: int) -> float:
        if (size, form, level) not in self.maps:
            self._refuse(f"map {form} at level {level}", size)
        return self.maps[size, form, level]

    def _refuse(self, part: str, size: str) -> Any:
        remedy = "Measure a table for the space: tsl search profile."
        refuse(
            "LatencyTable.predict: network", "of parts in the table", f"{part}, {size} m", remedy
        )

    def save(self, path: str | Path) -> None:
        """Write the table as JSON.

        Raises:
            OSError: it could not be written; an earlier file is as it was.
        """
        operations = [
            {"voxel_size": size, "kind": kind, "level": level, **vars(grid)}
            for (size, kind, level), grid in self.operations.items()
        ]
        maps = [
            {"voxel_size": size, "form": form, "level": level, "ms": ms}
            for (size, form, level), ms in self.maps.items()
        ]
        content = {
            "schema": _SCHEMA,
            "machine": dict(self.machine),
            "threads": self.threads,
            "points": self.points,
            "factor": self.factor,
            "offset_ms": self.offset_ms,
            "errors": dict(self.errors),
            "maps": maps,
            "operations": operations,
        }
        write_whole("LatencyTable.save", Path(path), (json.dumps(content) + "\n").encode())

    @classmethod
    def load(
        cls, path: str | Path, here: Setting = HERE, *, anywhere: bool = False
    ) -> LatencyTable:
        """Read a table.

        Args:
            path: of the file.
            here: the device and the type that it is to be of.
            anywhere: take it even if it is of another machine, device, type or number of threads.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no table, or of another machine.
        """
        path = Path(path)
        if not path.is_file():
            remedy = "Measure one: tsl search profile."
            refuse("LatencyTable.load: path", "a file", path, remedy, error=FileNotFoundError)
        try:
            content = json.loads(path.read_text())
            if content["schema"] != _SCHEMA:
                remedy = "Measure it again: tsl search profile."
                refuse(
                    f"LatencyTable.load: {path}", f"of schema {_SCHEMA}", content["schema"], remedy
                )
            table = cls(
                content["machine"],
                content["threads"],
                content["points"],
                {
                    (row["voxel_size"], row["kind"], row["level"]): WidthGrid(
                        row["inputs"], row["outputs"], row["ms"]
                    )
                    for row in content["operations"]
                },
                {
                    (row["voxel_size"], row["form"], row["level"]): row["ms"]
                    for row in content["maps"]
                },
                content["factor"],
                content["offset_ms"],
                content["errors"],
            )
        except (json.JSONDecodeError, KeyError, TypeError) as wrong:
            remedy = "Measure it again: tsl search profile."
            refuse(f"LatencyTable.load: {path}", "a latency table", repr(wrong), remedy)
        if not anywhere:
            table._check_machine(path, here)
        return table

    def check_scan(self, scan: PointTensor) -> None:
        """Raise ValueError unless it has as many points as the scan of the table: costs are its."""
        if len(scan.feats) != self.points:
            refuse(
                "LatencyTable.check_scan: scan",
                f"of {self.points} points, as that of the table",
                len(scan.feats),
                "Search on the scans that it was measured with, or measure: tsl search profile.",
            )

    def _check_machine(self, path: Path, setting: Setting) -> None:
        here = {**setting.describe(), "threads": str(torch.get_num_threads())}
        there = {**self.machine, "threads": str(self.threads)}
        other = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        if other:
            own, found = (
                ", ".join(f"{key} {values.get(key, 'none')}" for key in other)
                for values in (here, there)
            )
            refuse(
                f"LatencyTable.load: {path}",
                f"of this machine ({own})",
                found,
                "Measure one here: tsl search profile. To search for the other machine, take it "
                "with anywhere=True.",
            )


def _size_of(network: SPVCNN) -> str:
    edges = edge_lengths("LatencyTable: voxel_size", network.voxel_size)
    return "x".join(f"{edge:g}" for edge in edges)


def _plain(items: Iterable[Any], text: str, count: int) -> Iterable[Any]:
    return items


def profile_latency(
    space: SearchSpace,
    scan: PointTensor,
    setting: Setting = HERE,
    *,
    networks: int = 12,
    seed: int = 0,
    budget_s: float = 0.02,
    progress: Progress = _plain,
    **options: Any,
) -> LatencyTable:
    """Measure the parts of all networks of a space, and fit the sum to whole networks.

    Args:
        space: of SPVCNNs.
        scan: a typical one; one is in a batch at a time.
        setting: where and in which type they run, fused.
        networks: drawn at random, to fit factor and offset to.
        seed: of the draw.
        budget_s: seconds for each size of each part, spent in rounds apart from each other.
        progress: wraps what is iterated over, with a text and its length, as a bar does.
        **options: of the networks, as for :meth:`SearchSpace.build`.

    Raises:
        ValueError: no network to fit to.
    """
    if networks < 1:
        remedy = "The sum of the parts is fitted to whole networks."
        refuse("profile_latency: networks", "at least 1", networks, remedy)
    largest = list(_largest_parts(space, options))
    rng = np.random.default_rng(seed)
    wholes = [space.build(space.sample(rng), **options) for _ in range(networks)]
    maps: dict[tuple[str, str, int], list[float]] = {}
    grids: dict[tuple[str, str, int], list[WidthGrid]] = {}
    times: list[list[float]] = [[] for _ in wholes]
    for number in range(1, _ROUNDS + 1):
        text = f"round {number} of {_ROUNDS}"
        for network, most in largest:
            size = _size_of(network)
            bench = Bench(setting, scan, network.voxel_size, len(network.unet.down) + 1)
            for (form, level), ms in bench.maps(most).items():
                maps.setdefault((size, form, level), []).append(ms)
            for part in progress(most, f"{text}, voxels of {size} m", len(most)):
                grid = bench.grid(part, budget_s / _ROUNDS)
                grids.setdefault((size, part.kind, part.level), []).append(grid)
        pairs = zip(wholes, times, strict=True)
        for whole, own in progress(pairs, f"{text}, whole networks", networks):
            own.append(network_latency(whole, scan, setting, budget_s=1 / _ROUNDS))
    table = LatencyTable(
        setting.describe(),
        torch.get_num_threads(),
        len(scan.feats),
        {key: middle_of(several) for key, several in grids.items()},
        {key: statistics.median(several) for key, several in maps.items()},
    )
    sums = np.array([table._sum(whole) for whole in wholes])
    factor, offset = _fitted(sums, np.median(times, axis=1))
    return replace(table, factor=factor, offset_ms=offset)


def network_latency(
    network: nn.Module, scan: PointTensor, setting: Setting = HERE, *, budget_s: float = 1.0
) -> float:
    """Milliseconds of a network on one scan that is new to it: the median.

    Args:
        network: takes a PointTensor; left as it is.
        scan: its points.
        setting: where and how it is run.
        budget_s: seconds to spend, roughly.
    """
    ready, points = setting.ready(network), setting.place(scan)

    def run() -> None:
        with torch.inference_mode():
            ready(PointTensor(points.feats, points.coords, points.batch_size))

    return measure_latency(run, setting.device, budget_s=budget_s)


def _fitted(sums: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Factor and offset with the least sum of relative errors, among those that make sense.

    These are a factor alone, or one of at least ``_LEAST_FACTOR`` and a positive offset. Sums of
    errors, not of their squares: one network that was timed while the machine stalled must not bend
    the line. The best line goes through two of the points, or through the origin and one.
    """
    lines = [(ratio, 0.0) for ratio in measured / sums]
    for i, j in combinations(range(len(sums)), 2):
        if sums[i] != sums[j]:
            factor = (measured[i] - measured[j]) / (sums[i] - sums[j])
            lines.append((factor, measured[i] - factor * sums[i]))
    sound = [line for line in lines if line[1] == 0 or (line[1] > 0 and line[0] >= _LEAST_FACTOR)]
    factor, offset = min(
        sound, key=lambda line: np.abs((line[0] * sums + line[1]) / measured - 1).sum()
    )
    return float(factor), float(offset)


def _largest_parts(
    space: SearchSpace, options: Mapping[str, Any]
) -> Iterator[tuple[SPVCNN, list[Operation]]]:
    """For each voxel size a network of it, and every kind of operation at its largest."""
    sizes: dict[str, tuple[SPVCNN, dict[tuple[str, int], Operation]]] = {}
    for arch in _variants(space):
        with torch.device("meta"):
            network = as_spvcnn("profile_latency", space.build(arch, **options))
        _, most = sizes.setdefault(_size_of(network), (network, {}))
        for part in operations_of(network):
            known = most.get((part.kind, part.level), part)
            inputs, outputs = max(known.inputs, part.inputs), max(known.outputs, part.outputs)
            most[part.kind, part.level] = part._replace(inputs=inputs, outputs=outputs)
    for network, most in sizes.values():
        yield network, list(most.values())


def _variants(space: SearchSpace) -> Iterator[Arch]:
    """The covering architectures with every size of voxels and every choice of kernels."""
    sizes = [gene for gene in space.genes if gene.name in ("voxel_size", "flatter")]
    kernels = [gene for gene in space.genes if gene.name.endswith((".kernel", ".taps"))]
    seen: set[Arch] = set()
    for arch in space.covering():
        variants = [dict(arch)]
        for gene in sizes:
            variants = [{**v, gene.name: option} for v in variants for option in gene.options]
        choices = [
            {g.name: g.options[min(number, len(g.options) - 1)] for g in kernels if g.name in arch}
            for number in range(max((len(gene.options) for gene in kernels), default=0))
        ]
        variants = [{**v, **choice} for v in variants for choice in choices or ({},)]
        found = {space.arch(variant): None for variant in variants}
        yield from (variant for variant in found if variant not in seen)
        seen.update(found)
