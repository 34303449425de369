# SPDX-License-Identifier: MIT
"""Search of 3D architectures: spaces, supernets, costs, engines."""

from torchsparse_lite.nas.arch import Arch, Value
from torchsparse_lite.nas.calibrate import recalibrate
from torchsparse_lite.nas.channels import sort_channels
from torchsparse_lite.nas.constraint import Constraint
from torchsparse_lite.nas.cost import count_scans, estimate
from torchsparse_lite.nas.derived import derived
from torchsparse_lite.nas.latency import LatencyTable, network_latency, profile_latency
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
from torchsparse_lite.nas.spaces.spvnas import from_net_config, to_net_config
from torchsparse_lite.nas.supernet import Supernet

__all__ = [
    "SPACES",
    "Arch",
    "Constraint",
    "Gene",
    "LatencyTable",
    "SearchSpace",
    "Supernet",
    "Value",
    "count_scans",
    "derived",
    "estimate",
    "from_net_config",
    "lidar",
    "network_latency",
    "peak_memory",
    "profile_latency",
    "pruning",
    "pruning_of",
    "pvcnn_grid",
    "recalibrate",
    "search_space",
    "sort_channels",
    "spvnas",
    "to_net_config",
    "widths",
]
