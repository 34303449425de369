# SPDX-License-Identifier: MIT
"""Sets of coordinates, and the manager that remembers how they hang together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.errors import check_choice, check_dtype, check_shape, check_type, refuse
from torchsparse_lite.kernel_map import ConvGeometry, KernelMap, NeighborTable
from torchsparse_lite.ops.coords import check_range

__all__ = ["CoordinateManager", "HashTable", "Level", "check_coords"]

Triple = tuple[int, int, int]
_ONE: Triple = (1, 1, 1)
_HALVING = ConvGeometry((2, 2, 2), (2, 2, 2))
_CUBE = ConvGeometry.same(3)
_ROOT_SIZE = 64  # a level this small is searched by hashing; descent starts below it


def check_coords(function: str, coords: Tensor) -> None:
    """Raise unless ``coords`` is (N, 4) int32 inside the representable range."""
    columns = "Give one row (batch, x, y, z) per voxel."
    check_type(f"{function}: coords", coords, Tensor, columns)
    check_shape(f"{function}: coords", coords, (None, 4), columns)
    check_dtype(
        f"{function}: coords", coords, (torch.int32,), "Voxel coordinates are integers: use .int()."
    )
    if coords.device.type == "cpu":
        check_range(function, coords)


class HashTable:
    """Which row holds a coordinate: open addressing on 64-bit packed keys.

    Args:
        coords: (N, 4) int32 batch, x, y, z in the representable range, CPU (or CUDA, where the
            build has it). Of equal coordinates the first row stays.

    Memory: 24 to 48 bytes a coordinate.
    """

    def __init__(self, coords: Tensor) -> None:
        check_coords("HashTable", coords)
        self._coords = coords
        self._table = ops.hash_build(coords)

    @property
    def arrays(self) -> tuple[Tensor, Tensor, Tensor]:
        """Packed keys, their rows and the filter, see :func:`~torchsparse_lite.ops.hash_build`."""
        return self._table

    def lookup(self, coords: Tensor) -> Tensor:
        """Row of each coordinate, -1 where it is not in the table.

        Args:
            coords: (M, 4) int32, any values, same device.

        Returns:
            (M,) int64.
        """
        columns = "Give one row (batch, x, y, z) per voxel."
        check_type("HashTable.lookup: coords", coords, Tensor, columns)
        check_shape("HashTable.lookup: coords", coords, (None, 4), columns)
        check_dtype("HashTable.lookup: coords", coords, (torch.int32,), "Use .int().")
        if coords.device != self._coords.device:
            refuse(
                "HashTable.lookup: coords",
                f"on the table's device ({self._coords.device})",
                coords.device,
                "Move them with .to().",
            )
        return ops.hash_lookup(self._table, coords)

    def insert(self, coords: Tensor) -> HashTable:
        """A new table of these coordinates behind the ones already there; rows are numbered on."""
        check_coords("HashTable.insert", coords)
        return HashTable(torch.cat([self._coords, coords]))

    def __len__(self) -> int:
        """Number of distinct coordinates."""
        return int((self._table[1] >= 0).sum())

    def __repr__(self) -> str:
        capacity = self._table[0].shape[0] - 1
        return f"HashTable({len(self)} coordinates, {capacity} slots, {self._coords.device})"


class _Cells(NamedTuple):
    """The level of twice the cell size, and the children of each of its cells."""

    level: Level
    parent: Tensor
    child_ptr: Tensor
    child_mask: Tensor


class Level:
    """One set of unique coordinates at one tensor stride. Compared by identity.

    Args:
        coords: (N, 4) int32 batch, x, y, z in cells of this level, checked by the caller.
        stride: fine voxels per cell, per axis.
        spatial_shape: extent of the grid in cells, or None for an unbounded one.
        batch_size: number of batch elements.
        is_morton: rows are in Morton order; found out if None.
    """

    def __init__(
        self,
        coords: Tensor,
        stride: Triple,
        *,
        spatial_shape: Triple | None,
        batch_size: int,
        is_morton: bool | None = None,
    ) -> None:
        self._coords = coords
        self._version = None if coords.is_inference() else coords._version
        self.stride = stride
        self.spatial_shape = spatial_shape
        self.batch_size = batch_size
        self.is_morton = ops.is_morton_ordered(coords) if is_morton is None else is_morton

    @property
    def coords(self) -> Tensor:
        """(N, 4) int32."""
        if self._version is not None and self._coords._version != self._version:
            refuse(
                "SparseTensor: coords",
                "left as they were when the tensor was made",
                "coordinates changed in place",
                "Build a new SparseTensor(feats, new_coords) instead.",
                error=RuntimeError,
            )
        return self._coords

    @cached_property
    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hash table of the coordinates, see :func:`~torchsparse_lite.ops.hash_build`."""
        return ops.hash_build(self.coords)

    @cached_property
    def batch_ptr(self) -> tuple[Tensor, Tensor]:
        """Rows grouped by batch element: order (N,) int64 and ptr (batch_size + 1,) int64."""
        batch = self.coords[:, 0].long()
        counts = torch.bincount(batch, minlength=self.batch_size)
        order = torch.argsort(batch, stable=True)
        return order, torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @cached_property
    def cells(self) -> _Cells:
        """The pyramid's next level; needs Morton order."""
        coarse, parent, child_ptr, child_mask = ops.coarsen(self.coords)
        x, y, z = self.stride
        level = Level(
            coarse,
            (2 * x, 2 * y, 2 * z),
            spatial_shape=None,
            batch_size=self.batch_size,
            is_morton=True,
        )
        return _Cells(level, parent, child_ptr, child_mask)

    @cached_property
    def cube_neighbors(self) -> NeighborTable:
        """3x3x3 neighbours by octree descent from the top of the pyramid; needs Morton order."""
        if len(self) <= _ROOT_SIZE:
            return self.search_same(_CUBE)
        cells = self.cells
        above = cells.level.cube_neighbors
        return NeighborTable(*ops.neighbors_descend(above, cells.child_ptr, cells.child_mask))

    def search_same(self, geometry: ConvGeometry) -> NeighborTable:
        """Neighbours among this level's own sites, by hashing."""
        return NeighborTable(*ops.neighbors_search(self.coords, self.table, geometry.triples))

    def __len__(self) -> int:
        return self._coords.shape[0]

    def __repr__(self) -> str:
        order = "Morton order" if self.is_morton else "free order"
        return f"Level({len(self)} sites, stride={self.stride}, {order}, {self._coords.device})"


class CoordinateManager:
    """Levels and kernel maps of one forward pass.

    It travels with the tensors; nothing global remembers it. Every map is kept under its whole
    geometry and both of its levels, and serves forward and backward, training and evaluation.

    Args:
        search: "auto" takes the Morton pyramid where it applies and hashing elsewhere; "hash"
            always hashes. The results are the same.
    """

    def __init__(self, search: str = "auto") -> None:
        check_choice("CoordinateManager: search", search, ("auto", "hash"))
        self._may_descend = search == "auto"
        self._maps: dict[tuple[Level, Level, ConvGeometry], KernelMap] = {}
        self._sites: dict[tuple[Level, ConvGeometry, str], Level] = {}
        self._made_from: dict[Level, Level] = {}

    def strided(self, level: Level, geometry: ConvGeometry, rule: str = "full") -> Level:
        """Output sites of a convolution that is not submanifold.

        Args:
            level: the input sites.
            geometry: of the convolution.
            rule: "full" (every site whose window holds an input) or "cell" (one per occupied cell
                ``floor(fine / stride)``).

        Returns:
            The level, unique sites in Morton order; the same object when asked again.
        """
        check_choice("CoordinateManager.strided: rule", rule, ("full", "cell"))
        key = (level, geometry, rule)
        if key not in self._sites:
            shape = level.spatial_shape
            out_shape = None if shape is None else geometry.output_shape(shape)
            stride = _times(level.stride, geometry.stride)
            if self._halves(level, geometry, rule):
                coords = level.cells.level.coords
            else:
                coords = ops.coarse_sites(level.coords, geometry.triples, rule, out_shape)
            self._sites[key] = self._keep(level, coords, stride, out_shape)
        return self._sites[key]

    def generative(self, level: Level, geometry: ConvGeometry) -> Level:
        """Output sites of a generative transposed convolution: all that the kernel reaches."""
        key = (level, geometry, "generative")
        if key not in self._sites:
            shape = level.spatial_shape
            out_shape = None if shape is None else geometry.input_shape(shape)
            stride = _over(level.stride, geometry.stride)
            coords = ops.fine_sites(level.coords, geometry.triples, out_shape)
            self._sites[key] = self._keep(level, coords, stride, out_shape)
        return self._sites[key]

    def finer(self, level: Level, stride: Triple) -> Level:
        """The level at tensor stride ``level.stride / stride`` that this one was made from.

        Raises:
            ValueError: there is none; the message names both remedies.
        """
        wanted = _over(level.stride, stride)
        for ancestor in self._ancestors(level):
            if ancestor.stride == wanted:
                return ancestor
        if wanted == level.stride:
            return level
        return refuse(
            "conv3d: transposed input",
            f"made from sites at tensor stride {wanted} that the coordinate manager knows",
            f"a tensor at stride {level.stride} without such an ancestor",
            "Pass target= (a tensor with the wanted sites), or use generative=True to create them.",
        )

    def derive(self, parent: Level, level: Level) -> Level:
        """Note that ``level`` was made from ``parent``, so that finer sites can be found again."""
        self._made_from[level] = parent
        return level

    def kernel_map(self, fine: Level, coarse: Level, geometry: ConvGeometry) -> KernelMap:
        """The pairs from ``fine`` sites (inputs) to ``coarse`` sites (outputs).

        For a transposed convolution take ``.transposed`` of it.
        """
        key = (fine, coarse, geometry)
        if key not in self._maps:
            is_same = fine is coarse and geometry.is_same
            self._maps[key] = (
                self._same_map(fine, geometry) if is_same else self._map(fine, coarse, geometry)
            )
        return self._maps[key]

    def submanifold(self, level: Level, geometry: ConvGeometry) -> KernelMap:
        """The map whose outputs are its inputs' sites."""
        return self.kernel_map(level, level, geometry)

    def __repr__(self) -> str:
        levels = {level for key in self._maps for level in key[:2]} | set(self._made_from)
        return f"CoordinateManager({len(levels)} levels, {len(self._maps)} kernel maps)"

    def _ancestors(self, level: Level) -> Iterator[Level]:
        while level in self._made_from:
            level = self._made_from[level]
            yield level

    def _keep(self, parent: Level, coords: Tensor, stride: Triple, shape: Triple | None) -> Level:
        known = self._may_descend and parent.is_morton and "cells" in parent.__dict__
        if known and coords is parent.cells.level.coords and shape is None:
            return self.derive(parent, parent.cells.level)
        level = Level(
            coords,
            stride,
            spatial_shape=shape,
            batch_size=parent.batch_size,
            is_morton=True,
        )
        return self.derive(parent, level)

    def _halves(self, level: Level, geometry: ConvGeometry, rule: str) -> bool:
        """Whether the output sites are the pyramid's next level."""
        is_halving = geometry == _HALVING or (
            rule == "cell" and geometry.stride == _HALVING.stride
        )
        is_clipped = level.spatial_shape is not None and (
            geometry != _HALVING or any(extent % 2 for extent in level.spatial_shape)
        )
        return self._may_descend and level.is_morton and is_halving and not is_clipped

    def _same_map(self, level: Level, geometry: ConvGeometry) -> KernelMap:
        count = len(level)
        if geometry.kernel_volume == 1:
            rows = torch.arange(count, dtype=torch.int32, device=level.coords.device)
            tap_ptr = torch.tensor([0, count], device=level.coords.device)
            return KernelMap(
                geometry, count, count, rows, rows, tap_ptr, is_symmetric=True, full_tap=0
            )
        if self._may_descend and level.is_morton and geometry == _CUBE:
            neighbors = level.cube_neighbors
        else:
            neighbors = level.search_same(geometry)
        return KernelMap.from_neighbors(
            neighbors,
            geometry,
            num_in=count,
            is_symmetric=all(size % 2 == 1 for size in geometry.kernel_size),
            full_tap=geometry.identity_tap,
        )

    def _map(self, fine: Level, coarse: Level, geometry: ConvGeometry) -> KernelMap:
        cells = fine.__dict__.get("cells")
        if cells is not None and geometry == _HALVING and coarse.coords is cells.level.coords:
            rows = torch.arange(len(fine), dtype=torch.int32, device=fine.coords.device)
            mask = cells.child_mask.to(torch.int32).unsqueeze(1)
            neighbors = NeighborTable(mask, cells.child_ptr.long(), rows)
            return KernelMap.from_neighbors(neighbors, geometry, num_in=len(fine))
        if _windows_per_site(geometry) * len(fine) < geometry.kernel_volume * len(coarse):
            found = ops.neighbors_search(
                fine.coords, coarse.table, geometry.triples, inverse=True
            )
            neighbors = NeighborTable(*found)
            return KernelMap.from_neighbors(neighbors, geometry, num_in=len(coarse)).transposed
        neighbors = NeighborTable(
            *ops.neighbors_search(coarse.coords, fine.table, geometry.triples)
        )
        return KernelMap.from_neighbors(neighbors, geometry, num_in=len(fine))


def _windows_per_site(geometry: ConvGeometry) -> int:
    """How many coarse windows can hold one fine site, at most."""
    counts = [-(-k // s) for k, s in zip(geometry.kernel_size, geometry.stride, strict=True)]
    return counts[0] * counts[1] * counts[2]


def _times(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


def _over(stride: Triple, by: Triple) -> Triple:
    if any(s % b for s, b in zip(stride, by, strict=True)):
        refuse(
            "conv3d: stride",
            f"a divisor of the tensor stride {stride} in a transposed convolution",
            by,
            "Give the input its tensor stride, SparseTensor(..., stride=), or use another stride.",
        )
    return stride[0] // by[0], stride[1] // by[1], stride[2] // by[2]
