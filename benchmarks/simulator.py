# SPDX-License-Identifier: MIT
"""Simulated streets beside real scans: a table of their densities, in markdown.

``python -m benchmarks.simulator [--seeds 8] [--sensor hdl64]``
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from torchsparse_lite.data.simulate import (
    SENSORS,
    ClassId,
    ScanStatistics,
    simulate_scan,
    statistics,
)

REAL = ("00/000000", "00/000001", "00/000002", "08/000000")
_ROOT = Path(__file__).resolve().parent.parent
_GROUPS = {
    "road": (ClassId.ROAD, ClassId.LANE_MARKING),
    "sidewalk": (ClassId.SIDEWALK,),
    "parking": (ClassId.PARKING,),
    "other ground": (ClassId.OTHER_GROUND,),
    "terrain": (ClassId.TERRAIN,),
    "building": (ClassId.BUILDING,),
    "vegetation": (ClassId.VEGETATION,),
    "trunk": (ClassId.TRUNK,),
    "fence": (ClassId.FENCE,),
    "pole": (ClassId.POLE,),
    "sign": (ClassId.TRAFFIC_SIGN,),
    "car": (ClassId.CAR, ClassId.MOVING_CAR),
    "truck, bus, other": (
        ClassId.TRUCK,
        ClassId.BUS,
        ClassId.OTHER_VEHICLE,
        ClassId.MOVING_TRUCK,
        ClassId.MOVING_BUS,
        ClassId.MOVING_OTHER_VEHICLE,
    ),
    "bicycle, motorcycle": (ClassId.BICYCLE, ClassId.MOTORCYCLE),
    "rider": (
        ClassId.BICYCLIST,
        ClassId.MOTORCYCLIST,
        ClassId.MOVING_BICYCLIST,
        ClassId.MOVING_MOTORCYCLIST,
    ),
    "person": (ClassId.PERSON, ClassId.MOVING_PERSON),
}


def real_scans() -> Iterator[tuple[str, ScanStatistics]]:
    """Statistics of the real scans that are on this machine."""
    folder = Path(os.environ.get("TSL_DATA", _ROOT.parent / "shared" / "data"))
    for name in REAL:
        sequence, frame = name.split("/")
        base = folder / "semantickitti" / "sequences" / sequence
        scan = base / "velodyne" / f"{frame}.bin"
        if scan.is_file():
            points = np.fromfile(scan, np.float32).reshape(-1, 4)
            labels = np.fromfile(base / "labels" / f"{frame}.label", np.uint32)
            yield f"real {name}", statistics(points, labels)


def density_row(name: str, found: ScanStatistics) -> str:
    """One line of the first table."""
    voxels = " | ".join(f"{count:,}" for count in found.voxels)
    pairs = " | ".join(f"{ratio:.2f}" for ratio in found.pairs_per_voxel)
    return f"| {name} | {found.points:,} | {voxels} | {pairs} |"


def class_row(name: str, found: ScanStatistics) -> str:
    """One line of the second table: per cent of the points."""
    shares = [sum(found.classes.get(i, 0) for i in ids) for ids in _GROUPS.values()]
    return f"| {name} | " + " | ".join(f"{100 * n / found.points:.1f}" for n in shares) + " |"


def mean(name: str, rows: list[ScanStatistics]) -> tuple[str, ScanStatistics]:
    """The average of several scans as one."""
    voxels, pairs = (np.mean([getattr(row, key) for row in rows], 0) for key in ("voxels", "pairs"))
    ids = sorted({key for row in rows for key in row.classes})
    classes = {key: round(np.mean([row.classes.get(key, 0) for row in rows])) for key in ids}
    points = round(np.mean([row.points for row in rows]))
    counts = (tuple(int(v) for v in voxels), tuple(int(p) for p in pairs))
    return name, ScanStatistics(points, *counts, classes)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="number of streets")
    parser.add_argument("--sensor", choices=SENSORS, default="hdl64")
    arguments = parser.parse_args()
    rows, start = [*real_scans()], time.perf_counter()
    streets = [simulate_scan(seed, arguments.sensor) for seed in range(arguments.seeds)]
    seconds = (time.perf_counter() - start) / arguments.seeds
    simulated = [statistics(points, labels) for points, labels in streets]
    rows += [(f"seed {seed}", found) for seed, found in enumerate(simulated)]
    rows.append(mean("mean of seeds", simulated))
    levels = [f"{5 * 2**k} cm" for k in range(5)]
    print("| scan | points | voxels " + " | ".join([*levels, "pairs/voxel " + levels[0]]), end="")
    print(" | " + " | ".join(levels[1:]) + " |\n|" + " --- |" * 12)
    print("\n".join(density_row(*row) for row in rows))
    print(
        "\n| per cent of points | " + " | ".join(_GROUPS) + " |\n|" + " --- |" * (1 + len(_GROUPS))
    )
    print("\n".join(class_row(*row) for row in rows))
    print(f"\n{seconds:.2f} s for a street and its first scan.")


if __name__ == "__main__":
    main()
