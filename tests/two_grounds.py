# SPDX-License-Identifier: MIT
"""Scans that a tiny network learns in seconds: two sheets, in SemanticKITTI's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ROAD, BUILDING = 40, 50  # label ids
POINTS = 300


def write_two_grounds(root: Path, scans: dict[str, int]) -> Path:
    """Write ``scans[sequence]`` scans of 300 points a sequence; the class is the sheet."""
    for sequence, frames in scans.items():
        folder = root / "sequences" / sequence
        for part in ("velodyne", "labels"):
            (folder / part).mkdir(parents=True)
        for frame in range(frames):
            rng = np.random.default_rng([int(sequence), frame])
            upper = rng.integers(0, 2, POINTS)
            rows = rng.random((POINTS, 4), np.float32) * np.float32([4, 4, 0.1, 1])
            rows[:, 2] += upper.astype(np.float32)
            rows.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            labels = np.where(upper, BUILDING, ROAD).astype("<u4")
            labels.tofile(folder / "labels" / f"{frame:06d}.label")
    return root
