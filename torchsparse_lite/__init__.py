# SPDX-License-Identifier: MIT
"""Sparse 3D deep learning on the edge: sparse convolution for PyTorch.

Importing this package touches no device.
"""

from torchsparse_lite import nn
from torchsparse_lite._native import has_cuda
from torchsparse_lite.cloud_grid import CloudGrid
from torchsparse_lite.collate import collate_fn, sparse_collate
from torchsparse_lite.coordinates import HashTable, Level
from torchsparse_lite.host_memory import keep_host_memory
from torchsparse_lite.kernel_map import STENCILS, ConvGeometry, KernelMap
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.neighborhoods import (
    ball_query,
    furthest_point_sample,
    group_points,
    interpolate_nearest,
    nearest_neighbors,
)
from torchsparse_lite.point_grid import PointGrid
from torchsparse_lite.points import PointTensor
from torchsparse_lite.tensor import SparseTensor, cat
from torchsparse_lite.version import __version__
from torchsparse_lite.voxelize import Voxelized, devoxelize, sparse_quantize, voxelize

__all__ = [
    "STENCILS",
    "CloudGrid",
    "ConvGeometry",
    "CoordinateManager",
    "HashTable",
    "KernelMap",
    "Level",
    "PointGrid",
    "PointTensor",
    "SparseTensor",
    "Voxelized",
    "__version__",
    "ball_query",
    "cat",
    "collate_fn",
    "devoxelize",
    "furthest_point_sample",
    "group_points",
    "has_cuda",
    "interpolate_nearest",
    "keep_host_memory",
    "nearest_neighbors",
    "nn",
    "sparse_collate",
    "sparse_quantize",
    "voxelize",
]
