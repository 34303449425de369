# SPDX-License-Identifier: MIT
"""PVCNN's own grid: width by voxel resolution."""

from __future__ import annotations

from typing import Any

from torchsparse_lite.errors import check_choice
from torchsparse_lite.models.pvcnn import PVCNN, PVCNNPlusPlus, pvcnn
from torchsparse_lite.models.pvcnn_shape import PVCNN_PRESETS
from torchsparse_lite.nas.arch import Arch
from torchsparse_lite.nas.space import Gene, SearchSpace

__all__ = ["pvcnn_grid"]

_FACTORS = (0.125, 0.25, 0.5, 0.75, 1.0)


def pvcnn_grid(preset: str = "s3dis") -> SearchSpace:
    """One factor for all channels and one for the cells of all grids.

    Args:
        preset: a key of :data:`~torchsparse_lite.models.PVCNN_PRESETS`.

    Raises:
        ValueError: no such preset.

    Source: Liu et al., "Point-Voxel CNN", NeurIPS 2019, whose smaller networks are on this grid.
    """
    check_choice("pvcnn_grid: preset", preset, PVCNN_PRESETS)

    def network(arch: Arch, **options: Any) -> PVCNN | PVCNNPlusPlus:
        width, resolution = float(arch["width"]), float(arch["resolution"])
        return pvcnn(preset, width=width, resolution=resolution, **options)

    genes = Gene("width", _FACTORS, is_width=True), Gene("resolution", _FACTORS[1:])
    return SearchSpace(f"pvcnn-{preset}", genes, network)
