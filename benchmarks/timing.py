# SPDX-License-Identifier: MIT
"""Timing for a shared, noisy machine: contestants take turns, medians of one run are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Times", "race"]


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


def race(
    contestants: Mapping[str, Callable[[], object]],
    *,
    budget_s: float = 3.0,
    min_repeats: int = 9,
    max_repeats: int = 101,
) -> dict[str, Times]:
    """Run the contestants in turns, so that a slow moment of the machine hits them all.

    Args:
        contestants: name to a call without arguments.
        budget_s: seconds to spend, roughly.
        min_repeats: rounds at least.
        max_repeats: rounds at most.

    Returns:
        Times per name. Two rounds of warm-up are not counted.
    """
    for _ in range(2):
        start = time.perf_counter()
        for run in contestants.values():
            run()
        round_s = time.perf_counter() - start
    rounds = max(min_repeats, min(max_repeats, int(budget_s / max(round_s, 1e-6))))
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            samples[name].append((time.perf_counter() - start) * 1e3)
    return {name: _times(values) for name, values in samples.items()}


def _times(values: list[float]) -> Times:
    low, median, high = statistics.quantiles(values, n=4)
    return Times(median, low, high, len(values))
