# SPDX-License-Identifier: MIT
"""Networks that take turns on one scan: what each costs, how long it takes, and for what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from torchsparse_lite.memory_growth import memory_growth_mb
from torchsparse_lite.models.profile import profile
from torchsparse_lite.models.setting import Setting
from torchsparse_lite.points import PointTensor
from torchsparse_lite.timing import Times, race
from torchsparse_lite.train.stages import StageTimes, time_stages

__all__ = ["Contestant", "Standing", "measure"]

_PASSES = 5
_STAGES = ("voxelize", "map", "network", "devoxelize")
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Contestant:
    """A network and what it computes on.

    Attributes:
        name: to show.
        network: takes a PointTensor; float32 on the CPU, not fused.
        points: of the scan, with the features that it takes, on the CPU.
    """

    name: str
    network: nn.Module
    points: PointTensor


@dataclass(frozen=True)
class Standing:
    """What was measured of a network.

    Attributes:
        name: of the network.
        voxels: that its first convolution makes.
        pairs_per_voxel: of that convolution's kernel map.
        parameters: numbers that it learns.
        macs: multiplications with an addition each.
        times: of a pass, from points that are new to the network to their scores.
        stages: medians of parts of a pass, by name, in ms.
        peak_mb: how much memory grows at most, weights included; None where the system is silent.
    """

    name: str
    voxels: int
    pairs_per_voxel: float
    parameters: int
    macs: int
    times: Times
    stages: dict[str, float]
    peak_mb: int | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "network": self.name,
            "voxels": self.voxels,
            "pairs_per_voxel": round(self.pairs_per_voxel, 2),
            "parameters": self.parameters,
            "gmacs": round(self.macs / 1e9, 3),
            "latency": self.times.as_dict(),
            "stages_ms": {name: round(ms, 4) for name, ms in self.stages.items()},
            "peak_mb": self.peak_mb,
        }


def measure(
    contestants: Sequence[Contestant], setting: Setting, *, budget_s: float, progress: Progress
) -> list[Standing]:
    """Count, time in turns, and look at memory.

    Args:
        contestants: of different names.
        setting: how they are run.
        budget_s: seconds of timing for each, roughly.
        progress: wraps what is iterated over, with a text and its length, as a bar does.
    """
    calls = {
        entry.name: partial(_pass, setting.ready(entry.network), setting.place(entry.points))
        for entry in contestants
    }
    times = race(
        calls,
        device=setting.device,
        budget_s=budget_s * len(calls),
        progress=lambda rounds: progress(rounds, "rounds", len(rounds)),
    )
    return [
        _standing(entry, setting, times[entry.name], calls[entry.name])
        for entry in progress(contestants, "stages, memory", len(contestants))
    ]


def _standing(
    entry: Contestant, setting: Setting, times: Times, run: Callable[[], Tensor]
) -> Standing:
    passes = [time_stages(run, device=setting.device)[1] for _ in range(_PASSES)]
    whole = replace(setting, is_fused=False)
    counted = profile(whole.ready(entry.network), whole.place(entry.points))
    first = next((layer for layer in counted.layers if layer.kind == "Conv3d"), counted.layers[0])
    return Standing(
        name=entry.name,
        voxels=first.num_out,
        pairs_per_voxel=first.pairs / max(first.num_out, 1),
        parameters=counted.parameters,
        macs=counted.macs,
        times=times,
        stages={stage: _median(passes, stage) for stage in _STAGES},
        peak_mb=memory_growth_mb(
            partial(_two_passes, entry.network, setting),
            partial(setting.place, entry.points),
            device=setting.device,
            threads=torch.get_num_threads(),
        ),
    )


def _pass(network: nn.Module, points: PointTensor) -> Tensor:
    """Scores of the points, of whose voxels nothing is known."""
    with torch.inference_mode():
        scores: Tensor = network(PointTensor(points.feats, points.coords, points.batch_size))
    return scores


def _two_passes(network: nn.Module, setting: Setting, points: PointTensor) -> None:
    ready = setting.ready(network)
    for _ in range(2):
        _pass(ready, points)


def _median(passes: Sequence[StageTimes], stage: str) -> float:
    return median(float(getattr(times, stage)) for times in passes)
