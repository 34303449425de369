# SPDX-License-Identifier: MIT
"""Where the time of one scan goes: load, voxelize, map, network, devoxelize."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from torch.autograd.profiler import profile

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
    function: Callable[[], _Result], *, load: float = 0.0
) -> tuple[_Result, StageTimes]:
    """Call a network under torch's profiler, which adds some microseconds per operator.

    Args:
        function: runs the network on one scan, from points to scores, on the CPU.
        load: milliseconds that reading the scan took.

    Returns:
        Its result, and the times.
    """
    # Without kineto, whose trace points write lines to stderr in torch 2.13.
    with profile(use_kineto=False) as trace:
        start = time.perf_counter()
        result = function()
        total = (time.perf_counter() - start) * 1e3
    inside = dict.fromkeys(_SCOPES, 0.0)
    for event in trace.function_events or ():
        stage = event.name.removeprefix("tsl.")
        parent = event.cpu_parent
        if stage in inside and event.name != stage and not _is_scope(parent):
            inside[stage] += event.cpu_time_total / 1e3
    return result, StageTimes(load=load, network=total - sum(inside.values()), **inside)


def _is_scope(event: object) -> bool:
    return str(getattr(event, "name", "")).startswith("tsl.")


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
