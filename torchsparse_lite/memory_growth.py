# SPDX-License-Identifier: MIT
"""How much memory something takes at its worst moment, measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["memory_growth_mb"]

_Given = TypeVar("_Given")
_STATUS = Path("/proc/self/status")


def memory_growth_mb(
    run: Callable[[_Given], object],
    prepare: Callable[[], _Given],
    *,
    device: torch.device,
    threads: int,
) -> int | None:
    """How much memory grows at most, in MB: of torch's allocator on a GPU, else of a new process.

    Args:
        run: called once with what ``prepare`` gave; on the CPU both must be picklable.
        prepare: makes what does not count.
        device: where ``run`` computes.
        threads: of torch, on the CPU.

    Returns:
        None on a CPU whose system does not tell.
    """
    if device.type != "cpu":
        given = prepare()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(given)
        return round((torch.cuda.max_memory_allocated(device) - before) / 1e6)
    if not _STATUS.is_file():
        return None
    # In this process, memory that was freed before would be used again and not be seen to grow.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth_mb, (run, prepare, threads))


def _growth_mb(run: Callable[[_Given], object], prepare: Callable[[], _Given], threads: int) -> int:
    torch.set_num_threads(threads)
    given = prepare()
    before = _status_mb("VmRSS")
    run(given)
    return round(_status_mb("VmHWM") - before)


def _status_mb(key: str) -> float:
    """Of this process; unlike ``ru_maxrss``, nothing of the process that started it."""
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6
