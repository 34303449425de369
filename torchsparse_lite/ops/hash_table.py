# SPDX-License-Identifier: MIT
"""Open-addressing hash table from coordinates to rows."""

from __future__ import annotations

import torch
from torch import Tensor

from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.ops.registry import data_dependent_size, define_op

__all__ = ["hash_build", "hash_lookup", "table_bytes"]


_FILTER_BYTES_PER_SLOT = 1

Table = tuple[Tensor, Tensor, Tensor]


def _hash_build(coords: Tensor) -> Table:
    capacity = C.hash_capacity(coords.shape[0])
    keys = coords.new_empty(capacity + 1, dtype=torch.int64)
    rows = coords.new_empty(capacity + 1, dtype=torch.int32)
    bits = coords.new_empty(capacity * _FILTER_BYTES_PER_SLOT // 4, dtype=torch.int32)
    C.hash_build(coords.contiguous(), (keys, rows, bits), torch.get_num_threads())
    return keys, rows, bits


def _hash_build_fake(coords: Tensor) -> Table:
    slots = data_dependent_size()
    return (
        coords.new_empty(slots, dtype=torch.int64),
        coords.new_empty(slots, dtype=torch.int32),
        coords.new_empty(data_dependent_size(), dtype=torch.int32),
    )


def _hash_lookup(keys: Tensor, rows: Tensor, bits: Tensor, coords: Tensor) -> Tensor:
    found = coords.new_empty(coords.shape[0], dtype=torch.int64)
    C.hash_lookup((keys, rows, bits), coords.contiguous(), found, torch.get_num_threads())
    return found


_build = define_op(
    "hash_build(Tensor coords) -> (Tensor, Tensor, Tensor)",
    cpu=_hash_build,
    cuda=_hash_build if has_cuda() else None,
    fake=_hash_build_fake,
)
_lookup = define_op(
    "hash_lookup(Tensor keys, Tensor rows, Tensor bits, Tensor coords) -> Tensor",
    cpu=_hash_lookup,
    cuda=_hash_lookup if has_cuda() else None,
    fake=lambda keys, rows, bits, coords: coords.new_empty(coords.shape[0], dtype=torch.int64),
)


def hash_build(coords: Tensor) -> Table:
    """Put coordinates into a new table; of equal ones the first row stays.

    Args:
        coords: (N, 4) int32 in range.

    Returns:
        keys (capacity + 1,) int64 and rows (capacity + 1,) int32: packed keys and their rows; bits
        (capacity / 4,) int32: a filter that tells most misses. The capacity is the power of two
        that keeps the load at or below one half.
    """
    result: Table = _build(coords)
    return result


def table_bytes(count: int) -> int:
    """What the three arrays of :func:`hash_build` take for this many coordinates."""
    capacity = int(C.hash_capacity(count))
    key, row = torch.int64.itemsize, torch.int32.itemsize
    return (capacity + 1) * (key + row) + capacity * _FILTER_BYTES_PER_SLOT


def hash_lookup(table: Table, coords: Tensor) -> Tensor:
    """Row of each coordinate, -1 for those that are not in the table.

    Args:
        table: from :func:`hash_build`.
        coords: (M, 4) int32; those out of range are not found.

    Returns:
        (M,) int64.
    """
    result: Tensor = _lookup(*table, coords)
    return result
