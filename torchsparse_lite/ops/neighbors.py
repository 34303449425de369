# SPDX-License-Identifier: MIT
"""Neighbour tables: kernel maps row by row.

A table is ``mask`` (N_out, ceil(K / 32)) int32, bit ``t % 32`` of word ``t // 32`` set
where tap ``t`` has an input; ``ptr`` (N_out + 1,) int64; ``rows`` (P,) int32, the inputs, taps
ascending. ``rows`` may be longer than what is used: where there is
:class:`~torchsparse_lite.ops.room.Room`, ``ptr[-1]`` says where they end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import data_dependent_size, define_op
from torchsparse_lite.ops.room import Room, fill_up, settled
from torchsparse_lite.ops.scratch import scratch_on

__all__ = ["MASK_BITS", "neighbors_descend", "neighbors_search"]

MASK_BITS = 32
_Table = tuple[Tensor, Tensor, Tensor]


def _empty_table(like: Tensor, count: int, kernel_volume: int) -> tuple[Tensor, Tensor]:
    words = -(-kernel_volume // MASK_BITS)
    mask = like.new_empty((count, words), dtype=torch.int32)
    return mask, like.new_empty(count + 1, dtype=torch.int64)


def _rows_allocator(like: Tensor, made: list[Tensor]) -> Callable[[int], tuple[Tensor, ...]]:
    def allocate(count: int) -> tuple[Tensor, ...]:
        made.append(like.new_empty(count, dtype=torch.int32))
        return tuple(made)

    return allocate


def _with_dead_rows(table: _Table, count: int) -> _Table:
    """The table with rows behind it that have no neighbours."""
    mask, ptr, rows = table
    return fill_up(mask, count, 0), fill_up(ptr, count + 1, int(ptr[-1])), rows


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
    capacity: int = -1,
    overflow: Tensor | None = None,
) -> _Table:
    if overflow is not None and not coords.is_cuda:
        how = keys, key_rows, key_bits, kernel_size, stride, dilation, padding, inverse
        found = settled(lambda c: _search_native(c, *how), 2, coords, capacity, overflow)
        return _with_dead_rows(found, len(coords))
    geometry = tuple(kernel_size), tuple(stride), tuple(dilation), tuple(padding)
    volume = kernel_size[0] * kernel_size[1] * kernel_size[2]
    mask, ptr = _empty_table(coords, coords.shape[0], volume)
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
        capacity,
        overflow,
    )
    return mask, ptr, made[0]


def _search_fake(
    coords: Tensor,
    keys: Tensor,
    key_rows: Tensor,
    key_bits: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    inverse: bool,
    capacity: int = -1,
    overflow: Tensor | None = None,
) -> _Table:
    volume = kernel_size[0] * kernel_size[1] * kernel_size[2]
    mask, ptr = _empty_table(coords, coords.shape[0], volume)
    pairs = data_dependent_size() if capacity < 0 else capacity
    return mask, ptr, coords.new_empty(pairs, dtype=torch.int32)


_search = define_op(
    "neighbors_search(Tensor coords, Tensor keys, Tensor key_rows, Tensor key_bits, "
    "int[3] kernel_size, int[3] stride, int[3] dilation, int[3] padding, bool inverse, "
    "SymInt capacity=-1, Tensor(a!)? overflow=None) -> (Tensor, Tensor, Tensor)",
    cpu=_search_native,
    cuda=_search_native if has_cuda() else None,
    fake=_search_fake,
)


def neighbors_search(
    coords: Tensor,
    table: _Table,
    geometry: tuple[tuple[int, int, int], ...],
    *,
    inverse: bool = False,
    room: Room | None = None,
) -> _Table:
    """For every coarse site the fine sites in its window, found in a hash table.

    Args:
        coords: (M, 4) int32 coarse sites, in any order.
        table: of the fine sites, from :func:`~torchsparse_lite.ops.hash_build`.
        geometry: kernel_size, stride, dilation, padding.
        inverse: look from the other side: ``coords`` are the fine sites, the table holds the coarse
            ones, and the result lists the windows over each fine site. The pairs are the same;
            where the stride is larger than one these are fewer lookups.
        room: for pairs.

    Returns:
        mask, ptr, rows (see the module's text).

    Raises:
        ValueError: on the CPU, coordinates out of range (dead rows have no neighbours).
    """
    result: _Table = _search(coords, *table, *geometry, inverse, *(room or ()))
    return result


def _descend_native(
    cell_mask: Tensor,
    cell_ptr: Tensor,
    cell_rows: Tensor,
    child_ptr: Tensor,
    child_mask: Tensor,
    num_children: int,
    capacity: int = -1,
    overflow: Tensor | None = None,
) -> _Table:
    if overflow is not None and not cell_mask.is_cuda:
        cells = cell_mask, cell_ptr, cell_rows
        found = _descend_alive(cells, child_ptr, child_mask, capacity, overflow)
        return _with_dead_rows(found, num_children)
    mask, ptr = _empty_table(cell_mask, num_children, 27)
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
        capacity,
        overflow,
    )
    return mask, ptr, made[0]


def _descend_alive(
    cells: _Table, child_ptr: Tensor, child_mask: Tensor, capacity: int, overflow: Tensor
) -> _Table:
    """Neighbours of the children that there are; of none if they do not fit."""
    mask, ptr, rows = cells
    count = int((child_mask != 0).sum())
    live = mask[:count], ptr[: count + 1], rows[: int(ptr[count])]
    found: _Table = _descend_native(
        *live, child_ptr[: count + 1], child_mask[:count], int(child_ptr[count])
    )
    if len(found[2]) <= capacity:
        return found
    overflow.fill_(1)
    return found[0][:0], found[1][:1], found[2][:0]


def _descend_fake(
    cell_mask: Tensor,
    cell_ptr: Tensor,
    cell_rows: Tensor,
    child_ptr: Tensor,
    child_mask: Tensor,
    num_children: int,
    capacity: int = -1,
    overflow: Tensor | None = None,
) -> _Table:
    mask, ptr = _empty_table(cell_mask, num_children, 27)
    pairs = data_dependent_size() if capacity < 0 else capacity
    return mask, ptr, cell_mask.new_empty(pairs, dtype=torch.int32)


_descend = define_op(
    "neighbors_descend(Tensor cell_mask, Tensor cell_ptr, Tensor cell_rows, Tensor child_ptr, "
    "Tensor child_mask, SymInt num_children, SymInt capacity=-1, Tensor(a!)? overflow=None) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_descend_native,
    cuda=_descend_native if has_cuda() else None,
    fake=_descend_fake,
)


def neighbors_descend(
    cells: _Table,
    child_ptr: Tensor,
    child_mask: Tensor,
    *,
    num_children: int | None = None,
    room: Room | None = None,
) -> _Table:
    """3x3x3 neighbours of the children of cells whose own 3x3x3 neighbours are known.

    Args:
        cells: mask, ptr, rows of the coarser level.
        child_ptr: (M + 1,) int32 from :func:`~torchsparse_lite.ops.coarsen`.
        child_mask: (M,) uint8 from the same.
        num_children: rows of the finer level; read from ``child_ptr`` if None, which waits for the
            device.
        room: for pairs.

    Returns:
        mask, ptr, rows of the finer level. No search, no hashing.

    Source: neighbours of octree nodes from their parents' (Wang et al., "O-CNN", SIGGRAPH 2017).
    """
    count = int(child_ptr[-1]) if num_children is None else num_children
    result: _Table = _descend(*cells, child_ptr, child_mask, count, *(room or ()))
    return result
