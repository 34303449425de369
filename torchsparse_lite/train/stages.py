# SPDX-License-Identifier: MIT
"""Where the time of one scan goes: load, voxelize, map, network, devoxelize."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

from torchsparse_lite.timing import CPU, Moment, between_ms, mark
from torchsparse_lite.trace import watched_scopes

__all__ = ["STAGES", "StageTimes", "latency_table", "time_stages"]

_Result = TypeVar("_Result")
_SCOPES = ("voxelize", "map", "devoxelize")

STAGES = ("load", "voxelize", "map", "network", "devoxelize")
"""Reading the file; points to voxels; coordinates and kernel maps; layers; voxels to points."""


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds that one scan took.

    Attributes:
        load: reading and decoding its files.
        voxelize: points to voxels, wherever the two meet.
        map: coordinates of all levels, and kernel maps.
        network: everything else.
        devoxelize: voxels to points.
    """

    load: float
    voxelize: float
    map: float
    network: float
    devoxelize: float


def time_stages(
    function: Callable[[], _Result], *, load: float = 0.0, device: torch.device = CPU
) -> tuple[_Result, StageTimes]:
    """Call a network, and look at the clock wherever a stage begins or ends.

    Args:
        function: runs the network on one scan, from points to scores.
        load: milliseconds that reading the scan took.
        device: where it computes. Times on a GPU are those between events of its stream.

    Returns:
        Its result, and the times.
    """
    clock = _Clock(device)
    begin = mark(device)
    with watched_scopes(clock.stage):
        result = function()
    total = between_ms(begin, mark(device))
    inside = dict.fromkeys(_SCOPES, 0.0)
    for stage, entered, left in clock.spans:
        inside[stage] += between_ms(entered, left)
    return result, StageTimes(load=load, network=total - sum(inside.values()), **inside)


class _Clock:
    """When stages began and ended; one inside another belongs to that.

    Attributes:
        spans: name, begin and end of each.
    """

    def __init__(self, device: torch.device) -> None:
        self.spans: list[tuple[str, Moment, Moment]] = []
        self._device = device
        self._depth = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = mark(self._device)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.spans.append((name, begin, mark(self._device)))


def latency_table(times: Sequence[StageTimes]) -> str:
    """Median and largest time of each stage over scans, as lines of text."""
    lines = [f"{'stage':12s} {'median, ms':>11s} {'largest, ms':>12s}"]
    columns = {stage: [getattr(scan, stage) for scan in times] for stage in STAGES}
    columns["total"] = [sum(row) for row in zip(*columns.values(), strict=True)]
    lines += [
        f"{stage:12s} {median(column):11.1f} {max(column):12.1f}"
        for stage, column in columns.items()
    ]
    return "\n".join(lines)
