# SPDX-License-Identifier: MIT
"""Search of 3D architectures: spaces, supernets, costs, engines."""

from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.channels import sort_channels
from torchsparse_lite.nas.cost import count_scans, estimate
from torchsparse_lite.nas.derived import derived
from torchsparse_lite.nas.memory import peak_memory
from torchsparse_lite.nas.space import Gene, SearchSpace, widths
from torchsparse_lite.nas.spaces import (
    SPACES,
    lidar,
    pruning,
    pruning_of,
    pvcnn_grid,
    search_space,
    spvnas,
)
from torchsparse_lite.nas.supernet import Supernet

__all__ = [
    "SPACES",
    "Arch",
    "Gene",
    "SearchSpace",
    "Supernet",
    "Value",
    "count_scans",
    "derived",
    "estimate",
    "lidar",
    "peak_memory",
    "pruning",
    "pruning_of",
    "pvcnn_grid",
    "search_space",
    "sort_channels",
    "spvnas",
    "widths",
]
