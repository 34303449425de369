# SPDX-License-Identifier: MIT
"""Operators on plain tensors, ``torch.ops.tsl.*``: one file per operator family."""

from torchsparse_lite.ops.batch_norm import batch_norm
from torchsparse_lite.ops.columns import column_sums, scale_shift
from torchsparse_lite.ops.coords import coarsen, is_morton_ordered, quantize, unique_coords
from torchsparse_lite.ops.corners import corners
from torchsparse_lite.ops.gemm import order_rows
from torchsparse_lite.ops.hash_table import hash_build, hash_lookup
from torchsparse_lite.ops.interpolate import interpolate
from torchsparse_lite.ops.neighbors import neighbors_descend, neighbors_search
from torchsparse_lite.ops.packed_weight import PackedWeight
from torchsparse_lite.ops.pairs import (
    pairs_by_tap,
    table_of_pairs,
    tile_pairs,
    transpose_pairs,
)
from torchsparse_lite.ops.point_search import ball_query, furthest_points, nearest_points
from torchsparse_lite.ops.segment_reduce import segment_reduce, segments
from torchsparse_lite.ops.sites import coarse_sites, extent, fine_sites
from torchsparse_lite.ops.sparse_conv import sparse_conv, sparse_conv_weight_grad
from torchsparse_lite.ops.sparse_conv_sum import ConvTerm, sparse_conv_sum, sums_in_one_pass
from torchsparse_lite.ops.sparse_pool import sparse_max_pool, sparse_sum_pool

__all__ = [
    "ConvTerm",
    "PackedWeight",
    "ball_query",
    "batch_norm",
    "coarse_sites",
    "coarsen",
    "column_sums",
    "corners",
    "extent",
    "fine_sites",
    "furthest_points",
    "hash_build",
    "hash_lookup",
    "interpolate",
    "is_morton_ordered",
    "nearest_points",
    "neighbors_descend",
    "neighbors_search",
    "order_rows",
    "pairs_by_tap",
    "quantize",
    "scale_shift",
    "segment_reduce",
    "segments",
    "sparse_conv",
    "sparse_conv_sum",
    "sparse_conv_weight_grad",
    "sparse_max_pool",
    "sparse_sum_pool",
    "sums_in_one_pass",
    "table_of_pairs",
    "tile_pairs",
    "transpose_pairs",
    "unique_coords",
]
