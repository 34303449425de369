# SPDX-License-Identifier: MIT
"""The search spaces that come with the library."""

from __future__ import annotations

from collections.abc import Callable

from torchsparse_lite.errors import check_choice
from torchsparse_lite.nas.space import SearchSpace
from torchsparse_lite.nas.spaces.lidar import lidar
from torchsparse_lite.nas.spaces.pvcnn import pvcnn_grid
from torchsparse_lite.nas.spaces.spvnas import spvnas

__all__ = ["SPACES", "lidar", "pvcnn_grid", "search_space", "spvnas"]

SPACES: dict[str, Callable[[], SearchSpace]] = {
    "spvnas-4": lambda: spvnas(4),
    "spvnas-16": lambda: spvnas(16),
    "lidar": lidar,
    "pvcnn-shapenet": lambda: pvcnn_grid("shapenet"),
    "pvcnn-s3dis": lambda: pvcnn_grid("s3dis"),
    "pvcnn-s3dis++": lambda: pvcnn_grid("s3dis++"),
}


def search_space(name: str) -> SearchSpace:
    """The space of this name, a key of :data:`SPACES`."""
    check_choice("search_space: name", name, SPACES)
    return SPACES[name]()
