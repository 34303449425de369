# SPDX-License-Identifier: MIT
"""Kernel maps as plain tensors: neighbour tables (row-major) and pair lists (tap-major).

A neighbour table is ``mask`` (N_out, ceil(K / 32)) int32, bit ``t % 32`` of word ``t // 32`` set
where tap ``t`` has an input; ``ptr`` (N_out + 1,) int64; ``rows`` (P,) int32, the inputs, taps
ascending. Pair lists are ``in_index`` and ``out_index`` (P,) int32 with ``tap_ptr`` (K + 1,) int64,
ascending by ``out_index`` inside a tap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import data_dependent_size, define_op
from torchsparse_lite.ops.scratch import scratch_on

__all__ = [
    "neighbors_descend",
    "neighbors_search",
    "pairs_by_tap",
    "tap_begins",
    "tile_pairs",
    "tile_rows",
    "transpose_pairs",
]

_MASK_BITS = 32


def _table(like: Tensor, count: int, kernel_volume: int) -> tuple[Tensor, Tensor]:
    words = -(-kernel_volume // _MASK_BITS)
    mask = like.new_empty((count, words), dtype=torch.int32)
    return mask, like.new_empty(count + 1, dtype=torch.int64)


def _rows_allocator(like: Tensor, made: list[Tensor]) -> Callable[[int], tuple[Tensor, ...]]:
    def allocate(count: int) -> tuple[Tensor, ...]:
        made.append(like.new_empty(count, dtype=torch.int32))
        return tuple(made)

    return allocate


def _search_native(
    coords: Tensor,
    keys: Tensor,
    key_rows: Tensor,
    key_bits: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    inverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    geometry = tuple(kernel_size), tuple(stride), tuple(dilation), tuple(padding)
    volume = kernel_size[0] * kernel_size[1] * kernel_size[2]
    mask, ptr = _table(coords, coords.shape[0], volume)
    made: list[Tensor] = []
    C.neighbors_search(
        coords.contiguous(),
        (keys, key_rows, key_bits),
        geometry,
        inverse,
        mask,
        ptr,
        _rows_allocator(coords, made),
        scratch_on(coords),
        torch.get_num_threads(),
    )
    return mask, ptr, made[0]


def _search_fake(
    coords: Tensor,
    keys: Tensor,
    key_rows: Tensor,
    key_bits: Tensor,
    kernel_size: Sequence[int],
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    volume = kernel_size[0] * kernel_size[1] * kernel_size[2]
    mask, ptr = _table(coords, coords.shape[0], volume)
    return mask, ptr, coords.new_empty(data_dependent_size(), dtype=torch.int32)


_search = define_op(
    "neighbors_search(Tensor coords, Tensor keys, Tensor key_rows, Tensor key_bits, "
    "int[3] kernel_size, int[3] stride, int[3] dilation, int[3] padding, bool inverse) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_search_native,
    cuda=_search_native if has_cuda() else None,
    fake=_search_fake,
)


def neighbors_search(
    coords: Tensor,
    table: tuple[Tensor, Tensor, Tensor],
    geometry: tuple[tuple[int, int, int], ...],
    *,
    inverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """For every coarse site the fine sites in its window, found in a hash table.

    Args:
        coords: (M, 4) int32 coarse sites, in any order.
        table: of the fine sites, from :func:`~torchsparse_lite.ops.hash_build`.
        geometry: kernel_size, stride, dilation, padding.
        inverse: look from the other side: ``coords`` are the fine sites, the table holds the coarse
            ones, and the result lists the windows over each fine site. The pairs are the same;
            where the stride is larger than one these are fewer lookups.

    Returns:
        mask, ptr, rows (see the module's text).
    """
    result: tuple[Tensor, Tensor, Tensor] = _search(coords, *table, *geometry, inverse)
    return result


def _descend_native(
    cell_mask: Tensor,
    cell_ptr: Tensor,
    cell_rows: Tensor,
    child_ptr: Tensor,
    child_mask: Tensor,
    num_children: int,
) -> tuple[Tensor, Tensor, Tensor]:
    mask, ptr = _table(cell_mask, num_children, 27)
    made: list[Tensor] = []
    C.neighbors_descend(
        cell_mask,
        cell_ptr,
        cell_rows,
        child_ptr,
        child_mask,
        mask,
        ptr,
        _rows_allocator(cell_mask, made),
        scratch_on(cell_mask),
        torch.get_num_threads(),
    )
    return mask, ptr, made[0]


def _descend_fake(
    cell_mask: Tensor,
    cell_ptr: Tensor,
    cell_rows: Tensor,
    child_ptr: Tensor,
    child_mask: Tensor,
    num_children: int,
) -> tuple[Tensor, Tensor, Tensor]:
    mask, ptr = _table(cell_mask, num_children, 27)
    return mask, ptr, cell_mask.new_empty(data_dependent_size(), dtype=torch.int32)


_descend = define_op(
    "neighbors_descend(Tensor cell_mask, Tensor cell_ptr, Tensor cell_rows, Tensor child_ptr, "
    "Tensor child_mask, SymInt num_children) -> (Tensor, Tensor, Tensor)",
    cpu=_descend_native,
    cuda=_descend_native if has_cuda() else None,
    fake=_descend_fake,
)


def neighbors_descend(
    cells: tuple[Tensor, Tensor, Tensor],
    child_ptr: Tensor,
    child_mask: Tensor,
    *,
    num_children: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """3x3x3 neighbours of the children of cells whose own 3x3x3 neighbours are known.

    Args:
        cells: mask, ptr, rows of the coarser level.
        child_ptr: (M + 1,) int32 from :func:`~torchsparse_lite.ops.coarsen`.
        child_mask: (M,) uint8 from the same.
        num_children: rows of the finer level; read from ``child_ptr`` if None, which waits for the
            device.

    Returns:
        mask, ptr, rows of the finer level. No search, no hashing.

    Source: neighbours of octree nodes from their parents' (Wang et al., "O-CNN", SIGGRAPH 2017).
    """
    count = int(child_ptr[-1]) if num_children is None else num_children
    result: tuple[Tensor, Tensor, Tensor] = _descend(*cells, child_ptr, child_mask, count)
    return result


def _pairs_by_tap_native(
    mask: Tensor, ptr: Tensor, rows: Tensor, kernel_volume: int
) -> tuple[Tensor, Tensor, Tensor]:
    in_index, out_index = torch.empty_like(rows), torch.empty_like(rows)
    tap_ptr = ptr.new_empty(kernel_volume + 1)
    C.pairs_by_tap(
        mask,
        ptr,
        rows,
        in_index,
        out_index,
        tap_ptr,
        scratch_on(mask),
        torch.get_num_threads(),
    )
    return in_index, out_index, tap_ptr


_pairs_by_tap = define_op(
    "pairs_by_tap(Tensor mask, Tensor ptr, Tensor rows, int kernel_volume) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_pairs_by_tap_native,
    cuda=_pairs_by_tap_native if has_cuda() else None,
    fake=lambda mask, ptr, rows, kernel_volume: (
        torch.empty_like(rows),
        torch.empty_like(rows),
        ptr.new_empty(kernel_volume + 1),
    ),
)


def pairs_by_tap(
    neighbors: tuple[Tensor, Tensor, Tensor], kernel_volume: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tap-major pair lists of a neighbour table: in_index, out_index, tap_ptr."""
    result: tuple[Tensor, Tensor, Tensor] = _pairs_by_tap(*neighbors, kernel_volume)
    return result


def _transpose_pairs_native(
    in_index: Tensor, out_index: Tensor, tap_ptr: Tensor, num_in: int
) -> tuple[Tensor, Tensor]:
    new_in, new_out = torch.empty_like(in_index), torch.empty_like(out_index)
    C.transpose_pairs(
        in_index,
        out_index,
        tap_ptr,
        num_in,
        new_in,
        new_out,
        scratch_on(in_index),
        torch.get_num_threads(),
    )
    return new_in, new_out


_transpose_pairs = define_op(
    "transpose_pairs(Tensor in_index, Tensor out_index, Tensor tap_ptr, SymInt num_in) "
    "-> (Tensor, Tensor)",
    cpu=_transpose_pairs_native,
    cuda=_transpose_pairs_native if has_cuda() else None,
    fake=lambda in_index, out_index, tap_ptr, num_in: (
        torch.empty_like(in_index),
        torch.empty_like(out_index),
    ),
)


def transpose_pairs(
    in_index: Tensor, out_index: Tensor, tap_ptr: Tensor, num_in: int
) -> tuple[Tensor, Tensor]:
    """The pairs read backwards: in and out exchanged, inside a tap ascending by the new output.

    Args:
        in_index: (P,) int32 in [0, num_in).
        out_index: (P,) int32.
        tap_ptr: (K + 1,) int64; it stays valid for the result.
        num_in: number of input rows.

    Returns:
        in_index and out_index of the transposed map.
    """
    result: tuple[Tensor, Tensor] = _transpose_pairs(in_index, out_index, tap_ptr, num_in)
    return result


def tile_rows(num_out: int) -> int:
    """Output rows of one tile of the CPU kernels: a function of the size alone."""
    return int(C.tile_rows(num_out))


def _tile_pairs_native(out_index: Tensor, tap_ptr: Tensor, num_out: int) -> Tensor:
    rows = tile_rows(num_out)
    tiles = -(-num_out // rows)
    tile_ptr = tap_ptr.new_empty((tiles + 1, tap_ptr.shape[0] - 1))
    C.tile_pairs(out_index, tap_ptr, rows, tile_ptr, scratch_on(out_index), torch.get_num_threads())
    return tile_ptr


_tile_pairs = define_op(
    "tile_pairs(Tensor out_index, Tensor tap_ptr, SymInt num_out) -> Tensor",
    cpu=_tile_pairs_native,
    cuda=_tile_pairs_native if has_cuda() else None,
    fake=lambda out_index, tap_ptr, num_out: tap_ptr.new_empty(
        (data_dependent_size(), tap_ptr.shape[0] - 1)
    ),
)


def tile_pairs(out_index: Tensor, tap_ptr: Tensor, num_out: int) -> Tensor:
    """Where each output tile begins in each tap's pairs.

    Args:
        out_index: (P,) int32, ascending inside a tap.
        tap_ptr: (K + 1,) int64.
        num_out: number of output rows.

    Returns:
        (tiles + 1, K) int64 with tiles of :func:`tile_rows` rows.
    """
    result: Tensor = _tile_pairs(out_index, tap_ptr, num_out)
    return result


def tap_begins(tile_ptr: Tensor) -> Tensor:
    """(K + 1,) int64: where each tap begins in the pair lists, and the end.

    Args:
        tile_ptr: from :func:`tile_pairs`.
    """
    return torch.cat([tile_ptr[0], tile_ptr[-1, -1:]])
