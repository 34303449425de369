# SPDX-License-Identifier: MIT
"""Timing for a shared, noisy machine: contestants take turns, medians of one run are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

__all__ = ["CPU", "Moment", "Times", "between_ms", "elapsed_ms", "mark", "race"]

CPU = torch.device("cpu")
Moment = Any
"""A float of seconds, or an event of CUDA."""
_HEAD_START = 400_000  # cycles: 0.2 to 0.4 ms, longer than the host takes for a few launches


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


def mark(device: torch.device) -> Moment:
    """Now; on a GPU when its current stream comes to this point."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def between_ms(begin: Moment, end: Moment) -> float:
    """Milliseconds from one mark to a later one of the same device; waits for it."""
    if isinstance(begin, float):
        return (float(end) - begin) * 1e3
    end.synchronize()
    return float(begin.elapsed_time(end))


def elapsed_ms(
    run: Callable[[], object], device: torch.device = CPU, *, is_queued: bool = False
) -> float:
    """Milliseconds of one call; on a GPU between two events of its current stream.

    Args:
        run: to call.
        device: where it computes.
        is_queued: keep a GPU busy until the call is in its queue, so that the time which the host
            takes to launch it does not count.
    """
    if is_queued and device.type != "cpu":
        with torch.cuda.device(device):
            torch.cuda._sleep(_HEAD_START)
    begin = mark(device)
    run()
    return between_ms(begin, mark(device))


def race(
    contestants: Mapping[str, Callable[[], object]],
    *,
    device: torch.device = CPU,
    budget_s: float = 3.0,
    min_repeats: int = 9,
    max_repeats: int = 101,
    is_queued: bool = False,
    progress: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Times]:
    """Run the contestants in turns, so that a slow moment of the machine hits them all.

    Args:
        contestants: name to a call without arguments.
        device: where they compute.
        budget_s: seconds to spend, roughly.
        min_repeats: rounds at least.
        max_repeats: rounds at most.
        is_queued: as for :func:`elapsed_ms`.
        progress: wraps the numbers of the rounds, as a bar does.

    Returns:
        Times per name. Two rounds of warm-up are not counted.
    """
    measure = partial(elapsed_ms, device=device, is_queued=is_queued)
    for _ in range(2):
        round_s = sum(measure(run) for run in contestants.values()) / 1e3
    rounds = max(min_repeats, min(max_repeats, int(budget_s / max(round_s, 1e-6))))
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in progress(range(rounds)):
        for name, run in contestants.items():
            samples[name].append(measure(run))
    return {name: _times(values) for name, values in samples.items()}


def _times(values: list[float]) -> Times:
    low, median, high = statistics.quantiles(values, n=4)
    return Times(median, low, high, len(values))
