# SPDX-License-Identifier: MIT
"""Which input feeds which output through which tap of a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite._native import has_cuda
from torchsparse_lite.errors import Triple, refuse, triple
from torchsparse_lite.ops.map_arrays import GemmView, MapArrays, PairLists, Pairs
from torchsparse_lite.trace import scope

__all__ = ["STENCILS", "ConvGeometry", "KernelMap", "NeighborTable"]


@dataclass(frozen=True)
class ConvGeometry:
    """Shape of a convolution window and how it moves.

    The relation it stands for is computed in one place, ``csrc/core/conv_geometry.h``::

        fine = stride * coarse + dilation * tap - padding      (per axis, tap in 0..kernel_size-1)

    Attributes:
        kernel_size: taps per axis; an integer means the same in all three.
        stride: fine sites per coarse site.
        dilation: fine sites between taps.
        padding: fine sites by which the window starts early.
        taps: those that are used, ascending, counted row-major with z fastest; None for all.
    """

    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    taps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, minimum in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
            value = triple(f"ConvGeometry: {name}", getattr(self, name), minimum=minimum)
            object.__setattr__(self, name, value)
        if self.taps is not None:
            object.__setattr__(self, "taps", self._checked(self.taps))

    def _checked(self, taps: Iterable[int]) -> tuple[int, ...] | None:
        chosen, whole = tuple(taps), tuple(range(prod(self.kernel_size)))
        if not chosen or chosen != tuple(tap for tap in whole if tap in set(chosen)):
            refuse(
                "ConvGeometry: taps",
                f"different numbers from 0 to {whole[-1]} in ascending order",
                chosen,
                "Count the taps of the kernel row-major, z fastest.",
            )
        return None if chosen == whole else chosen

    @classmethod
    def same(
        cls, kernel_size: int | Sequence[int], dilation: int | Sequence[int] = 1
    ) -> ConvGeometry:
        """Stride 1 with torch's "same" padding, ``dilation * (kernel_size - 1) // 2`` in front."""
        size = triple("ConvGeometry: kernel_size", kernel_size, minimum=1)
        step = triple("ConvGeometry: dilation", dilation, minimum=1)
        front = tuple(d * (k - 1) // 2 for k, d in zip(size, step, strict=True))
        return cls(size, (1, 1, 1), step, triple("ConvGeometry: padding", front, minimum=0))

    @property
    def kernel_volume(self) -> int:
        """Number of taps that are used."""
        return prod(self.kernel_size) if self.taps is None else len(self.taps)

    @property
    def whole(self) -> ConvGeometry:
        """The same with all taps."""
        return self if self.taps is None else replace(self, taps=None)

    @property
    def offsets(self) -> tuple[Triple, ...]:
        """Where each tap reads, in fine sites from ``stride * coarse``."""
        whole = (
            tuple(d * t - p for t, d, p in zip(tap, self.dilation, self.padding, strict=True))
            for tap in product(*map(range, self.kernel_size))
        )
        every = tuple((x, y, z) for x, y, z in whole)
        return every if self.taps is None else tuple(every[tap] for tap in self.taps)

    @property
    def triples(self) -> tuple[Triple, Triple, Triple, Triple]:
        """kernel_size, stride, dilation, padding."""
        return self.kernel_size, self.stride, self.dilation, self.padding

    @property
    def is_same(self) -> bool:
        """Whether output sites line up with input sites (submanifold)."""
        return self.stride == (1, 1, 1) and self.whole == ConvGeometry.same(
            self.kernel_size, self.dilation
        )

    @property
    def identity_tap(self) -> int:
        """The tap that reads the output's own site when ``is_same``, or -1."""
        taps = [
            p // d if p % d == 0 else -1 for p, d in zip(self.padding, self.dilation, strict=True)
        ]
        if self.stride != (1, 1, 1) or min(taps) < 0:
            return -1
        x, y, z = taps
        _, size_y, size_z = self.kernel_size
        tap = (x * size_y + y) * size_z + z
        if self.taps is None:
            return tap
        return self.taps.index(tap) if tap in self.taps else -1

    def output_shape(self, spatial_shape: Triple) -> Triple:
        """Extent of the output grid, as for ``torch.nn.Conv3d``."""
        return ops.extent(self.triples, spatial_shape, transposed=False)

    def input_shape(self, spatial_shape: Triple) -> Triple:
        """Extent of the output grid of a transposed convolution, as for ``ConvTranspose3d``."""
        return ops.extent(self.triples, spatial_shape, transposed=True)


class NeighborTable(NamedTuple):
    """A kernel map, row by row: the view of implicit GEMM.

    Attributes:
        mask: (num_out, ceil(K / 32)) int32; bit ``t % 32`` of word ``t // 32`` says that tap ``t``
            has an input.
        ptr: (num_out + 1,) int64 into ``rows``.
        rows: (P,) int32 input rows, taps ascending.
    """

    mask: Tensor
    ptr: Tensor
    rows: Tensor


class _HostCopy:
    """A tensor on the CPU, read when it is asked for first."""

    def __init__(self, tensor: Tensor, copy: Tensor | None = None) -> None:
        self._tensor, self._copy = tensor, copy

    def __call__(self) -> Tensor:
        if self._copy is None:
            self._copy = self._tensor.cpu()
        return self._copy


class _Side:
    """A kernel map in one direction as the operators take it; each array is made when it is needed.

    It knows nothing of the map that it belongs to, so that a map and its transpose can hold each
    other's: a cycle would outlive the forward pass.

    Args:
        lists: in_index, out_index and tap_ptr.
        num_out: number of output rows.
        is_identity: its only tap leads from every row to itself.
    """

    def __init__(
        self, lists: tuple[Tensor, Tensor, Tensor], num_out: int, *, is_identity: bool
    ) -> None:
        self.lists = lists
        self.num_out = num_out
        self.is_identity = is_identity

    @cached_property
    def neighbors(self) -> NeighborTable:
        in_index, _, _ = self.lists
        if self.is_identity:
            mask = in_index.new_ones((self.num_out, 1))
            ptr = torch.arange(self.num_out + 1, device=mask.device)
            return NeighborTable(mask, ptr, in_index)
        with scope("map"):
            return NeighborTable(*ops.table_of_pairs(self.lists, self.num_out))

    @cached_property
    def tile_ptr(self) -> Tensor:
        _, out_index, tap_ptr = self.lists
        with scope("map"):
            return ops.tile_pairs(out_index, tap_ptr, self.num_out)

    @cached_property
    def row_order(self) -> Tensor:
        in_index, _, tap_ptr = self.lists
        if self.is_identity:
            return in_index
        with scope("map"):
            return ops.order_rows(self.neighbors.mask, tap_ptr)

    @cached_property
    def arrays(self) -> MapArrays:
        in_index, out_index, _ = self.lists
        lists = PairLists(in_index, out_index, self.tile_ptr)
        if in_index.is_cuda and has_cuda():
            return MapArrays(lists, GemmView(*self.neighbors, self.row_order))
        return MapArrays(lists)


@dataclass(frozen=True, eq=False)
class KernelMap:
    """All pairs (input row, output row) of a convolution, grouped by tap.

    Attributes:
        geometry: of the convolution that the map was made for.
        num_in: number of input rows.
        num_out: number of output rows.
        in_index: (P,) int32, tap after tap.
        out_index: (P,) int32; ascends inside a tap.
        tap_ptr: (K + 1,) int64: the pairs of tap ``t`` are ``tap_ptr[t]:tap_ptr[t + 1]``.
        is_symmetric: the map is its own transpose with taps counted backwards (submanifold with an
            odd kernel).
        full_tap: a tap that feeds every output row, or -1.
        has_room: lists may be longer than ``tap_ptr`` says, and outputs may have no pairs, see
            :mod:`torchsparse_lite.ops.room`.
    """

    geometry: ConvGeometry
    num_in: int
    num_out: int
    in_index: Tensor
    out_index: Tensor
    tap_ptr: Tensor
    is_symmetric: bool = False
    full_tap: int = -1
    has_room: bool = False

    @classmethod
    def from_neighbors(
        cls,
        neighbors: NeighborTable,
        geometry: ConvGeometry,
        *,
        num_in: int,
        is_symmetric: bool = False,
        full_tap: int = -1,
        has_room: bool = False,
    ) -> KernelMap:
        """The tap-major form of a neighbour table."""
        in_index, out_index, tap_ptr = ops.pairs_by_tap(neighbors, geometry.kernel_volume)
        kernel_map = cls(
            geometry,
            num_in,
            neighbors.ptr.shape[0] - 1,
            in_index,
            out_index,
            tap_ptr,
            is_symmetric,
            -1 if has_room else full_tap,  # nothing feeds a dead row
            has_room,
        )
        kernel_map._side.neighbors = neighbors
        return kernel_map

    @property
    def lists(self) -> tuple[Tensor, Tensor, Tensor]:
        """in_index, out_index and tap_ptr."""
        return self.in_index, self.out_index, self.tap_ptr

    @property
    def num_pairs(self) -> int:
        """Number of multiplications of one input row with one tap's weight."""
        return self.in_index.shape[0]

    @property
    def is_identity(self) -> bool:
        """Whether its only tap leads from every row to itself."""
        return self.is_symmetric and self.full_tap == 0 and self.geometry.kernel_volume == 1

    @cached_property
    def _host_copy(self) -> _HostCopy:
        return _HostCopy(self.tap_ptr)

    @property
    def host_tap_ptr(self) -> Tensor:
        """``tap_ptr`` on the CPU, for loops over the taps; waits for a GPU, once per map."""
        return self._host_copy()

    @cached_property
    def _side(self) -> _Side:
        return _Side(self.lists, self.num_out, is_identity=self.is_identity)

    @cached_property
    def _back(self) -> _Side:
        return self.transposed._side

    @property
    def neighbors(self) -> NeighborTable:
        """The row-major view."""
        return self._side.neighbors

    @cached_property
    def window_sizes(self) -> Tensor:
        """(num_out,) int64: how many inputs each output has."""
        if self.out_index.is_cuda or self.has_room:  # counting would wait for the GPU
            return self.neighbors.ptr.diff()
        return torch.bincount(self.out_index, minlength=self.num_out)

    @property
    def tile_ptr(self) -> Tensor:
        """(tiles + 1, K) int64: where each output tile of the CPU kernels begins in each tap."""
        return self._side.tile_ptr

    @cached_property
    def transposed(self) -> KernelMap:
        """The map of the transposed convolution: inputs and outputs exchanged, taps kept."""
        with scope("map"):
            in_index, out_index = ops.transpose_pairs(
                self.in_index, self.out_index, self.tap_ptr, self.num_in
            )
        transposed = KernelMap(
            self.geometry,
            self.num_out,
            self.num_in,
            in_index,
            out_index,
            self.tap_ptr,
            self.is_symmetric,
            self.full_tap,
            self.has_room,
        )
        transposed.__dict__["_back"] = self._side
        transposed.__dict__["_host_copy"] = self._host_copy
        return transposed

    def select(self, taps: Sequence[int]) -> KernelMap:
        """The map of a kernel that has only some of the taps.

        Args:
            taps: of this map's geometry, which uses all, ascending.
        """
        if self.has_room:
            refuse(
                "KernelMap.select: taps",
                "all of the kernel in a captured graph",
                f"{len(taps)} of {self.geometry.kernel_volume}",
                "Run this network without capture.",
            )
        geometry = replace(self.geometry, taps=tuple(taps))
        host_ptr = self.host_tap_ptr
        ptr = host_ptr.tolist()
        parts = [slice(ptr[tap], ptr[tap + 1]) for tap in taps]
        mirrored = {geometry.whole.kernel_volume - 1 - tap for tap in taps}
        host_ptr = torch.cat([host_ptr[:1], host_ptr.diff()[list(taps)].cumsum(0)])
        selected = KernelMap(
            geometry,
            self.num_in,
            self.num_out,
            torch.cat([self.in_index[part] for part in parts]),
            torch.cat([self.out_index[part] for part in parts]),
            host_ptr.to(self.tap_ptr.device, non_blocking=True),
            self.is_symmetric and mirrored == set(taps),
            list(taps).index(self.full_tap) if self.full_tap in taps else -1,
        )
        selected.__dict__["_host_copy"] = _HostCopy(selected.tap_ptr, host_ptr)
        return selected

    @property
    def row_order(self) -> Tensor:
        """(num_out,) int32, on CUDA: in which order implicit GEMM takes the output rows."""
        return self._side.row_order

    @classmethod
    def identity(
        cls, count: int, device: torch.device, geometry: ConvGeometry | None = None
    ) -> KernelMap:
        """The map of one tap from every row to itself.

        Args:
            count: rows.
            device: where its arrays are.
            geometry: of a kernel with one tap.
        """
        rows = torch.arange(count, dtype=torch.int32, device=device)
        host_ptr = torch.tensor([0, count])
        tap_ptr = torch.arange(2, device=device) * count  # a copy would wait
        geometry = geometry or ConvGeometry.same(1)
        made = cls(geometry, count, count, rows, rows, tap_ptr, is_symmetric=True, full_tap=0)
        made.__dict__["_host_copy"] = _HostCopy(tap_ptr, host_ptr)
        return made

    def pairs(self, *, with_backward: bool) -> Pairs:
        """The arrays that the operators take.

        Args:
            with_backward: also those of the transposed map, which the input gradient needs.

        They are made once and kept.
        """
        needed = with_backward and not self.is_symmetric
        return self._both_ways if needed else self._one_way

    @cached_property
    def _one_way(self) -> Pairs:
        return self._with(None)

    @cached_property
    def _both_ways(self) -> Pairs:
        return self._with(self._back.arrays)

    def _with(self, backward: MapArrays | None) -> Pairs:
        return Pairs(
            self._side.arrays,
            backward,
            self.num_out,
            self.is_symmetric,
            self.full_tap,
            None if self.has_room else self._host_copy,
            self.is_identity,
        )


def _stencil(*distances: int) -> tuple[int, ...]:
    """Taps of a 3x3x3 kernel whose squared distance from the centre is one of these."""
    offsets = ConvGeometry.same(3).offsets
    return tuple(t for t, o in enumerate(offsets) if sum(c * c for c in o) in distances)


STENCILS = {
    27: _stencil(0, 1, 2, 3),
    19: _stencil(0, 1, 2),
    15: _stencil(0, 1, 3),
    7: _stencil(0, 1),
}
"""Taps of a 3x3x3 kernel by their number: all; without corners; without edges; faces and centre.
They are the lattices D3Q27, D3Q19, D3Q15 and D3Q7 of fluid dynamics."""
