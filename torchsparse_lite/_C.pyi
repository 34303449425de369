# SPDX-License-Identifier: MIT
# Types of the compiled module, see csrc/bind. A test compares the names with the real module.
#
# Results are written into tensors that the caller allocated. Where their size is not known before,
# `allocate` is called with it and returns the tensors to fill. `scratch` is called for temporary
# memory on a GPU: with a number of bytes, it returns a uint8 tensor.
#
# With `capacity`, on a GPU, a result whose size the data decide has that many rows and nothing
# waits for the device; `overflow` (1,) int32 is set to 1 if it does not fit, see
# csrc/kernels/passes.h.

from collections.abc import Callable, Sequence

from torch import Tensor

_Allocate = Callable[[int], tuple[Tensor, ...]]
_Scratch = Callable[[int], Tensor]
_Geometry = Sequence[Sequence[int]]  # kernel_size, stride, dilation, padding
_Table = tuple[Tensor, Tensor, Tensor]

axis_max: int
axis_min: int
batch_max: int
has_cuda: bool

def ball_query(
    xyz: Tensor,
    order: Tensor,
    ptr: Tensor,
    queries: Tensor,
    query_cloud: Tensor,
    radius: float,
    index: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def channelwise_conv(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    in_index: Tensor,
    out_index: Tensor,
    tile_ptr: Tensor,
    tile_rows: int,
    relu: bool,
    out: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def channelwise_weight_grad(
    feats: Tensor,
    grad_out: Tensor,
    in_index: Tensor,
    out_index: Tensor,
    tile_ptr: Tensor,
    tile_rows: int,
    grad_weight: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def check_range(coords: Tensor, function: str, scratch: _Scratch, threads: int) -> None: ...
def coarse_sites(
    coords: Tensor,
    geometry: _Geometry,
    cell_rule: bool,
    shape: Sequence[int] | None,
    allocate: _Allocate,
    scratch: _Scratch,
    threads: int,
    capacity: int = ...,
    overflow: Tensor | None = ...,
) -> None: ...
def coarsen(
    coords: Tensor,
    parent: Tensor,
    allocate: _Allocate,
    scratch: _Scratch,
    threads: int,
    capacity: int = ...,
    overflow: Tensor | None = ...,
) -> None: ...
def column_moments(
    feats: Tensor, mean: Tensor, variance: Tensor, scratch: _Scratch, threads: int
) -> None: ...
def column_sums(
    a: Tensor,
    b: Tensor | None,
    sum: Tensor,
    product: Tensor | None,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def corners(
    table: _Table,
    xyz: Tensor,
    cells: Tensor,
    origin: Sequence[float],
    voxel_size: Sequence[float],
    stride: Sequence[float],
    anchor: float,
    renormalize: bool,
    index: Tensor,
    weight: Tensor,
    threads: int,
) -> None: ...
def extent(geometry: _Geometry, shape: Sequence[int], transposed: bool) -> list[int]: ...
def fine_sites(
    coords: Tensor,
    geometry: _Geometry,
    shape: Sequence[int] | None,
    allocate: _Allocate,
    scratch: _Scratch,
    threads: int,
    capacity: int = ...,
    overflow: Tensor | None = ...,
) -> None: ...
def furthest_points(
    xyz: Tensor,
    order: Tensor,
    ptr: Tensor,
    sample_ptr: Tensor,
    samples: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def gemm_tiles() -> list[tuple[int, int]]: ...
def hash_build(coords: Tensor, table: _Table, threads: int) -> None: ...
def hash_capacity(count: int) -> int: ...
def hash_lookup(table: _Table, coords: Tensor, found: Tensor, threads: int) -> None: ...
def implicit_gemm(
    feats: Sequence[Tensor],
    packed: Sequence[Tensor],
    part_tables: Sequence[int],
    tables: Sequence[_Table],
    biases: Sequence[Tensor],
    residual: Tensor | None,
    order: Tensor,
    relu: bool,
    tile: int,
    out: Tensor,
    scratch: _Scratch,
) -> None: ...
def interpolate(
    feats: Tensor, index: Tensor, weight: Tensor, out: Tensor, threads: int
) -> None: ...
def interpolate_backward(
    grad_out: Tensor,
    index: Tensor,
    weight: Tensor,
    grad_feats: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def is_morton_ordered(coords: Tensor, scratch: _Scratch, threads: int) -> bool: ...
def max_pool(
    feats: Tensor,
    in_index: Tensor,
    out_index: Tensor,
    tile_ptr: Tensor,
    tile_rows: int,
    out: Tensor,
    argmax: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def max_pool_backward(
    grad_out: Tensor,
    argmax: Tensor,
    in_index: Tensor,
    out_index: Tensor,
    tile_ptr: Tensor,
    tile_rows: int,
    grad_in: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def nearest_points(
    xyz: Tensor,
    order: Tensor,
    ptr: Tensor,
    queries: Tensor,
    query_cloud: Tensor,
    index: Tensor,
    distance: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def neighbors_descend(
    cell_mask: Tensor,
    cell_ptr: Tensor,
    cell_rows: Tensor,
    child_ptr: Tensor,
    child_mask: Tensor,
    mask: Tensor,
    ptr: Tensor,
    allocate: _Allocate,
    scratch: _Scratch,
    threads: int,
    capacity: int = ...,
    overflow: Tensor | None = ...,
) -> None: ...
def neighbors_search(
    coords: Tensor,
    table: _Table,
    geometry: _Geometry,
    inverse: bool,
    mask: Tensor,
    ptr: Tensor,
    allocate: _Allocate,
    scratch: _Scratch,
    threads: int,
    capacity: int = ...,
    overflow: Tensor | None = ...,
) -> None: ...
def order_rows(
    mask: Tensor, tap_ptr: Tensor, block_rows: int, order: Tensor, scratch: _Scratch
) -> None: ...
def pack_weight(
    weight: Tensor, transposed: bool, mirrored: bool, packed: Tensor, scratch: _Scratch
) -> None: ...
def pair_gemm(
    feats: Tensor,
    grad_out: Tensor,
    in_index: Tensor,
    out_index: Tensor,
    tap_ptr: Tensor,
    grad_weight: Tensor,
    scratch: _Scratch,
) -> None: ...
def pairs_by_tap(
    mask: Tensor,
    ptr: Tensor,
    rows: Tensor,
    in_index: Tensor,
    out_index: Tensor,
    tap_ptr: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def quantize(
    points: Tensor,
    batch: Tensor | None,
    voxel_size: Sequence[float],
    origin: Sequence[float],
    coords: Tensor,
    scratch: _Scratch,
    threads: int,
    overflow: Tensor | None = ...,
) -> None: ...
def scale_shift(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    other: Tensor | None,
    other_scale: Tensor | None,
    out: Tensor,
    threads: int,
) -> None: ...
def segment_reduce(
    feats: Tensor,
    order: Tensor,
    ptr: Tensor,
    reduce: str,
    out: Tensor,
    argmax: Tensor | None,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def simd_kernels() -> list[str]: ...
def sparse_conv(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_index: Tensor,
    out_index: Tensor,
    tile_ptr: Tensor,
    tile_rows: int,
    groups: int,
    transposed: bool,
    mirrored: bool,
    full_tap: int,
    relu: bool,
    out: Tensor,
    threads: int,
    simd: str | None = ...,
) -> None: ...
def sparse_conv_weight_grad(
    feats: Tensor,
    grad_out: Tensor,
    in_index: Tensor,
    out_index: Tensor,
    tile_ptr: Tensor,
    tile_rows: int,
    groups: int,
    grad_weight: Tensor,
    threads: int,
    simd: str | None = ...,
) -> None: ...
def table_of_pairs(
    in_index: Tensor,
    out_index: Tensor,
    tap_ptr: Tensor,
    mask: Tensor,
    ptr: Tensor,
    rows: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def tile_pairs(
    out_index: Tensor,
    tap_ptr: Tensor,
    tile_rows: int,
    tile_ptr: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def tile_rows(num_out: int) -> int: ...
def transpose_pairs(
    in_index: Tensor,
    out_index: Tensor,
    tap_ptr: Tensor,
    num_in: int,
    new_in: Tensor,
    new_out: Tensor,
    scratch: _Scratch,
    threads: int,
) -> None: ...
def unique_coords(
    coords: Tensor,
    point_to_voxel: Tensor,
    order: Tensor,
    allocate: _Allocate,
    scratch: _Scratch,
    threads: int,
    capacity: int = ...,
    overflow: Tensor | None = ...,
) -> None: ...
