# SPDX-License-Identifier: MIT
"""Kernel maps as the operators take them: arrays by name, and the list that a schema knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from torchsparse_lite.ops.pairs import tap_begins, tile_pairs, transpose_pairs

__all__ = ["GemmView", "MapArrays", "PairLists", "Pairs"]


class PairLists(NamedTuple):
    """A kernel map tap after tap, as pairs of rows.

    Attributes:
        in_index: (P,) int32.
        out_index: (P,) int32, ascending inside a tap.
        tile_ptr: (tiles + 1, K) int64: where each tile of the output begins in each tap's pairs.
    """

    in_index: Tensor
    out_index: Tensor
    tile_ptr: Tensor

    @classmethod
    def of(cls, flat: Sequence[Tensor]) -> PairLists:
        """From the ``Tensor[]`` of a schema, in which they come first."""
        return cls._make(flat[: len(cls._fields)])

    def transposed(self, num_in: int) -> PairLists:
        """Those of the transposed map, whose outputs are the ``num_in`` rows of the input."""
        tap_ptr = tap_begins(self.tile_ptr)
        in_index, out_index = transpose_pairs(self.in_index, self.out_index, tap_ptr, num_in)
        return PairLists(in_index, out_index, tile_pairs(out_index, tap_ptr, num_in))


class GemmView(NamedTuple):
    """A kernel map row by row, as implicit GEMM reads it on a GPU.

    Attributes:
        mask: (num_out, ceil(K / 32)) int32: which taps have an input.
        ptr: (num_out + 1,) int64 into ``rows``.
        rows: (P,) int32 input rows, taps ascending.
        order: (num_out,) int32: in which order the output rows are taken.
    """

    mask: Tensor
    ptr: Tensor
    rows: Tensor
    order: Tensor

    @property
    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """The neighbour table: mask, ptr and rows."""
        return self.mask, self.ptr, self.rows


class MapArrays(NamedTuple):
    """The arrays of a kernel map.

    Attributes:
        lists: the pairs.
        view: what implicit GEMM reads; None where there is none.
    """

    lists: PairLists
    view: GemmView | None = None

    @classmethod
    def of(cls, flat: Sequence[Tensor]) -> MapArrays:
        """From the ``Tensor[]`` of a schema."""
        lists = PairLists.of(flat)
        view = flat[len(lists) :]
        return cls(lists, GemmView._make(view) if view else None)

    def flat(self) -> list[Tensor]:
        """As the ``Tensor[]`` of a schema."""
        return [*self.lists, *(self.view or ())]


@dataclass(frozen=True, eq=False)
class Pairs:
    """A kernel map with what the operators need to know about it.

    Attributes:
        forward: its arrays.
        backward: those of the transposed map; None if no gradient is wanted or if the map is
            symmetric.
        num_out: number of output rows.
        is_symmetric: the map is its own transpose with taps counted backwards.
        full_tap: a tap that feeds every output row (the centre of a submanifold kernel), or -1.
        taps: see :attr:`tap_ptr`; the tensor, or what returns it.
        is_identity: its only tap leads from every row to itself.
    """

    forward: MapArrays
    backward: MapArrays | None
    num_out: int
    is_symmetric: bool = False
    full_tap: int = -1
    taps: Tensor | Callable[[], Tensor] | None = None
    is_identity: bool = False

    @property
    def tap_ptr(self) -> Tensor | None:
        """(K + 1,) int64 on the CPU: where each tap begins in both lists, and the end.

        To read it, a GPU is waited for once per map. None: at each call that loops over the taps.
        """
        return self.taps() if callable(self.taps) else self.taps
