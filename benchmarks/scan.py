# SPDX-License-Identifier: MIT
"""Point clouds to measure with: a real scan where there is one, else a ray-cast street.

Uniform random voxels have no neighbours and measure something else.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

import torchsparse_lite as tsl
from torchsparse_lite.data.simulate.boxes import Points, scan_boxes

__all__ = ["load_scan", "voxels_of"]

_REAL_SCAN = "semantickitti/sequences/00/velodyne/000000.bin"
_ROOT = Path(__file__).resolve().parent.parent


def load_scan() -> tuple[str, Points]:
    """Name and (N, 4) float32 x, y, z (metres), remission of the scan to measure with.

    The real scan is looked for under ``TSL_DATA`` and under ``shared/data`` beside the repository.
    """
    folders = [os.environ.get("TSL_DATA"), _ROOT.parent / "shared" / "data"]
    for folder in folders:
        path = Path(folder) / _REAL_SCAN if folder else None
        if path is not None and path.is_file():
            points = np.fromfile(path, np.float32).reshape(-1, 4)
            return "semantickitti 00/000000", points
    return "simulated street, 64 beams", scan_boxes()


def voxels_of(points: Points, voxel_size: float) -> tsl.SparseTensor:
    """The scan as voxels with its 4 numbers per point averaged."""
    cloud = torch.from_numpy(points)
    return tsl.voxelize(tsl.PointTensor(cloud, cloud[:, :3].contiguous()), voxel_size).voxels
