# SPDX-License-Identifier: MIT
"""Timing for a shared, noisy machine: contestants take turns, medians of one run are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["CPU", "Times", "elapsed_ms", "race"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Times:
    """Milliseconds of one contestant.

    Attributes:
        median: the figure to quote.
        low: first quartile.
        high: third quartile.
        repeats: number of measurements.
    """

    median: float
    low: float
    high: float
    repeats: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "median_ms": round(self.median, 4),
            "quartiles_ms": [round(self.low, 4), round(self.high, 4)],
            "repeats": self.repeats,
        }


def elapsed_ms(run: Callable[[], object], device: torch.device = CPU) -> float:
    """Milliseconds of one call; on a GPU between two events of its current stream."""
    if device.type == "cpu":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        begin.record()
        run()
        end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def race(
    contestants: Mapping[str, Callable[[], object]],
    *,
    device: torch.device = CPU,
    budget_s: float = 3.0,
    min_repeats: int = 9,
    max_repeats: int = 101,
) -> dict[str, Times]:
    """Run the contestants in turns, so that a slow moment of the machine hits them all.

    Args:
        contestants: name to a call without arguments.
        device: where they compute.
        budget_s: seconds to spend, roughly.
        min_repeats: rounds at least.
        max_repeats: rounds at most.

    Returns:
        Times per name. Two rounds of warm-up are not counted.
    """
    for _ in range(2):
        round_s = sum(elapsed_ms(run, device) for run in contestants.values()) / 1e3
    rounds = max(min_repeats, min(max_repeats, int(budget_s / max(round_s, 1e-6))))
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            samples[name].append(elapsed_ms(run, device))
    return {name: _times(values) for name, values in samples.items()}


def _times(values: list[float]) -> Times:
    low, median, high = statistics.quantiles(values, n=4)
    return Times(median, low, high, len(values))
