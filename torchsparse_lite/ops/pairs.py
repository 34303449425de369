# SPDX-License-Identifier: MIT
"""Pair lists: kernel maps tap after tap.

They are ``in_index`` and ``out_index`` (P,) int32 with ``tap_ptr`` (K + 1,) int64, ascending by
``out_index`` inside a tap. Where there is :class:`~torchsparse_lite.ops.room.Room` they may be
longer than what is used, and ``tap_ptr[-1]`` says where they end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.neighbors import MASK_BITS
from torchsparse_lite.ops.registry import data_dependent_size, define_op
from torchsparse_lite.ops.scratch import scratch_on

__all__ = [
    "pairs_by_tap",
    "table_of_pairs",
    "tap_begins",
    "tile_pairs",
    "tile_rows",
    "transpose_pairs",
]

_Table = tuple[Tensor, Tensor, Tensor]


def _pairs_by_tap_native(mask: Tensor, ptr: Tensor, rows: Tensor, kernel_volume: int) -> _Table:
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


def pairs_by_tap(neighbors: _Table, kernel_volume: int) -> _Table:
    """Tap-major pair lists of a neighbour table: in_index, out_index, tap_ptr."""
    result: _Table = _pairs_by_tap(*neighbors, kernel_volume)
    return result


def _table_of_pairs_native(
    in_index: Tensor, out_index: Tensor, tap_ptr: Tensor, num_out: int
) -> _Table:
    words = -(-(tap_ptr.shape[0] - 1) // MASK_BITS)
    mask = in_index.new_empty((num_out, words))
    ptr, rows = tap_ptr.new_empty(num_out + 1), torch.empty_like(in_index)
    C.table_of_pairs(
        in_index,
        out_index,
        tap_ptr,
        mask,
        ptr,
        rows,
        scratch_on(in_index),
        torch.get_num_threads(),
    )
    return mask, ptr, rows


_table_of_pairs = define_op(
    "table_of_pairs(Tensor in_index, Tensor out_index, Tensor tap_ptr, SymInt num_out) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_table_of_pairs_native,
    cuda=_table_of_pairs_native if has_cuda() else None,
    fake=lambda in_index, out_index, tap_ptr, num_out: (
        in_index.new_empty((num_out, -(-(tap_ptr.shape[0] - 1) // MASK_BITS))),
        tap_ptr.new_empty(num_out + 1),
        torch.empty_like(in_index),
    ),
)


def table_of_pairs(pairs: _Table, num_out: int) -> _Table:
    """The neighbour table of pair lists, mask, ptr and rows: :func:`pairs_by_tap` backwards.

    Args:
        pairs: in_index, out_index, tap_ptr.
        num_out: number of output rows.
    """
    result: _Table = _table_of_pairs(*pairs, num_out)
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
