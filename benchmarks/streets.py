# SPDX-License-Identifier: MIT
"""Simulated streets on which the benchmarks of the search train, and networks to compare with."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from benchmarks.training import timed
from torchsparse_lite import PointTensor, models
from torchsparse_lite.data import open_dataset
from torchsparse_lite.data.samples import points_of
from torchsparse_lite.nas.latency import network_latency

__all__ = [
    "CHOOSE",
    "DERIVED",
    "DERIVED_EPOCHS",
    "FEW_SCANS",
    "LIMIT",
    "UNSEEN",
    "first_scan",
    "largest_as_fast",
    "latencies",
    "narrowed",
    "of_width",
    "scans_and_seeds",
    "seeded",
    "simulate",
    "width_as_fast_as",
]

# SemanticKITTI's own numbers: 11 to 21 are its test sequences, without labels.
_TRAIN = [f"{number:02d}" for number in (*range(8), 9, 10, *range(22, 42))]
CHOOSE = [f"{number:02d}" for number in range(60, 66)]
UNSEEN = [f"{number:02d}" for number in range(70, 82)]
LIMIT = 0.6
"""Of the latency of the network that is compared with."""
FEW_SCANS = ("--scans", 12, "--calibration", 4)
"""Arguments of a search of many trials."""
DERIVED_EPOCHS = 6
DERIVED = ("--epochs", DERIVED_EPOCHS)
"""Arguments with which a network that was found is trained on."""
_VOXEL_M = 0.2
_ROUNDS_OF_MANY = 5


def simulate(runs: Path) -> Path:
    """The streets to train on, to choose by, and to test on; their folder."""
    sequences = (*_TRAIN, *CHOOSE, *UNSEEN)
    how = ("--frames", 4, "--interval", 2, "--sequences", *sequences)
    timed(runs / "streets", "simulate", runs / "streets", *how)
    return runs / "streets"


def scans_and_seeds(streets: Path, seed: int) -> tuple[object, ...]:
    """Arguments of a training on them."""
    return (
        *("--data.root", streets),
        *("--data.train", json.dumps([{"sequences": _TRAIN}])),
        *("--data.val", json.dumps([{"sequences": CHOOSE}])),
        *seeded(seed),
    )


def seeded(seed: int) -> tuple[object, ...]:
    """Arguments of a training with this seed of everything."""
    keys = ("seed_everything", "model.seed", "data.seed")
    return tuple(word for key in keys for word in (f"--{key}", seed))


def first_scan(root: Path, sequence: str) -> PointTensor:
    """Of a sequence in SemanticKITTI's layout."""
    return points_of(open_dataset("semantickitti", root, sequences=[sequence])[0])


def narrowed(width: float) -> nn.Module:
    """SPVCNN as the recipe ``small`` has it."""
    return models.spvcnn(width=width, voxel_size=_VOXEL_M, normalize=True)


def of_width(width: float) -> tuple[object, ...]:
    """Arguments of a training of :func:`narrowed`."""
    return ("--model.network.init_args.width", width)


def latencies(
    networks: Mapping[str, nn.Module], scan: PointTensor, *, rounds: int = 15
) -> dict[str, float]:
    """Milliseconds of each, the median of rounds in which they take turns."""
    samples: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            samples[name].append(network_latency(network, scan, budget_s=0.5))
    return {name: statistics.median(values) for name, values in samples.items()}


def largest_as_fast(network: nn.Module, others: Mapping[str, nn.Module], scan: PointTensor) -> str:
    """The last of the others that takes no longer than the network, or the first.

    All are timed in turns: time goes in steps, and a wider one can be as fast.
    """
    times = latencies({"network": network, **others}, scan, rounds=_ROUNDS_OF_MANY)
    as_fast = [name for name in others if times[name] <= times["network"]]
    return [*list(others)[:1], *as_fast][-1]


def width_as_fast_as(network: nn.Module, scan: PointTensor) -> float:
    """The largest width, in 64ths, with which SPVCNN takes no longer."""
    widths = {str(width): narrowed(width / 64) for width in range(3, 33)}
    return int(largest_as_fast(network, widths, scan)) / 64
