# SPDX-License-Identifier: MIT
"""Sets of coordinates: what is legal, which row holds which one, and one level of a tensor."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.errors import (
    Triple,
    check_dtype,
    check_integer,
    check_shape,
    check_type,
    refuse,
)
from torchsparse_lite.kernel_map import ConvGeometry, NeighborTable
from torchsparse_lite.ops.coords import MAX_BATCH_SIZE, check_range
from torchsparse_lite.ops.room import live
from torchsparse_lite.sizes import EXACT, Sizes

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CUBE", "HALVING", "HashTable", "Level", "batch_size_of", "check_coords", "version_of"]

CUBE = ConvGeometry.same(3)
HALVING = ConvGeometry((2, 2, 2), (2, 2, 2))
# A level this small is searched by hashing, and descent starts below it. Coarsening ends at one
# cell per octant around the origin, 8 per batch element, so every pyramid has such a level.
_ROOT_SIZE = 64
_ROOT_CELLS_PER_ELEMENT = 8


def check_coords(function: str, coords: Tensor) -> None:
    """Raise unless ``coords`` is (N, 4) int32 inside the representable range."""
    columns = "Give one row (batch, x, y, z) per voxel."
    check_type(f"{function}: coords", coords, Tensor, columns)
    check_shape(f"{function}: coords", coords, (None, 4), columns)
    check_dtype(
        f"{function}: coords", coords, (torch.int32,), "Voxel coordinates are integers: use .int()."
    )
    if coords.device.type in ("cpu", "cuda"):
        check_range(function, coords)


def batch_size_of(function: str, batch_size: int | None, largest: int = -1) -> int:
    """Number of batch elements: as given, or else one more than the largest batch index.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is not larger than ``largest``, or it is more than a key can hold.
    """
    remedy = "Count the batch elements, empty ones included, or make smaller batches."
    if batch_size is not None:
        check_integer(f"{function}: batch_size", batch_size, remedy)
    size = max(largest + 1, 1) if batch_size is None else batch_size
    if not max(largest + 1, 1) <= size <= MAX_BATCH_SIZE:
        refuse(
            f"{function}: batch_size",
            f"at least 1, at most {MAX_BATCH_SIZE} and larger than every batch index "
            f"(the largest is {largest})",
            size,
            remedy,
        )
    return size


class HashTable:
    """Which row holds a coordinate: open addressing on 64-bit packed keys.

    Args:
        coords: (N, 4) int32 batch, x, y, z in the representable range, CPU (or CUDA, where the
            build has it). Of equal coordinates the first row stays.

    Memory: 26 to 52 bytes a coordinate.
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
        self._check_device("HashTable.lookup", coords)
        return ops.hash_lookup(self._table, coords)

    def insert(self, coords: Tensor) -> HashTable:
        """A new table of these coordinates behind the ones already there; rows are numbered on."""
        check_coords("HashTable.insert", coords)
        self._check_device("HashTable.insert", coords)
        return HashTable(torch.cat([self._coords, coords]))

    def _check_device(self, function: str, coords: Tensor) -> None:
        if coords.device != self._coords.device:
            refuse(
                f"{function}: coords",
                f"on the table's device ({self._coords.device})",
                coords.device,
                "Move them with .to().",
            )

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


def version_of(coords: Tensor) -> int | None:
    """A number that rises with each change in place; None in inference mode, where none is kept."""
    return None if coords.is_inference() else coords._version


class _About(TypedDict, total=False):
    """What is told of a level besides its coordinates and their order."""

    stride: Triple
    spatial_shape: Triple | None
    batch_size: int
    sizes: Sizes


class Level:
    """One set of unique coordinates at one tensor stride. Compared by identity.

    Args:
        coords: (N, 4) int32 batch, x, y, z in cells of this level, checked by the caller.
        stride: fine voxels per cell, per axis.
        spatial_shape: extent of the grid in cells, or None for an unbounded one.
        batch_size: number of batch elements.
        is_morton: rows are in Morton order; found out if None.
        sizes: of what is made from this level.
    """

    def __init__(
        self,
        coords: Tensor,
        stride: Triple,
        *,
        spatial_shape: Triple | None,
        batch_size: int,
        is_morton: bool | None = None,
        sizes: Sizes = EXACT,
    ) -> None:
        self._coords = coords
        self.sizes = sizes
        self._version = version_of(coords)
        self.stride = stride
        self.spatial_shape = spatial_shape
        self.batch_size = batch_size
        self.is_morton = ops.is_morton_ordered(coords) if is_morton is None else is_morton

    def like(self, coords: Tensor, *, is_morton: bool | None, **changes: Unpack[_About]) -> Level:
        """The same grid with other coordinates.

        Args:
            coords: see :class:`Level`.
            is_morton: see :class:`Level`.
            **changes: what is not as in this level: ``stride``, ``spatial_shape``, ``batch_size``,
                ``sizes``.
        """
        about: _About = {
            "stride": self.stride,
            "spatial_shape": self.spatial_shape,
            "batch_size": self.batch_size,
            "sizes": self.sizes,
        }
        about.update(changes)
        return Level(coords, is_morton=is_morton, **about)

    @property
    def coords(self) -> Tensor:
        """(N, 4) int32."""
        self.check_unchanged()
        return self._coords

    def check_unchanged(self) -> None:
        """Raise RuntimeError if the coordinates were changed in place, so that no map fits them.

        Every use of a level passes through here; it costs one comparison.
        """
        if self._version is not None and self._coords._version != self._version:
            refuse(
                "SparseTensor: coords",
                "left as they were when the tensor was made",
                "coordinates changed in place",
                "Build a new SparseTensor(feats, new_coords) instead.",
                error=RuntimeError,
            )

    @cached_property
    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hash table of the coordinates, see :func:`~torchsparse_lite.ops.hash_build`."""
        return ops.hash_build(live(self.coords) if self.sizes.is_fixed else self.coords)

    @cached_property
    def batch_ptr(self) -> tuple[Tensor, Tensor]:
        """Rows grouped by batch element: order (N,) int64 and ptr (batch_size + 1,) int64."""
        batch = self.coords[:, 0].long()
        return ops.segments(batch, self.batch_size, exact=not self.sizes.is_fixed)

    @cached_property
    def cells(self) -> _Cells:
        """The pyramid's next level; needs Morton order."""
        found = self.sizes.sites(len(self), ops.coarsen, self.coords)
        coarse, parent, child_ptr, child_mask = found
        x, y, z = self.stride
        stride = 2 * x, 2 * y, 2 * z
        level = self.like(coarse, is_morton=True, stride=stride, spatial_shape=None)
        return _Cells(level, parent, child_ptr, child_mask)

    @cached_property
    def cube_neighbors(self) -> NeighborTable:
        """3x3x3 neighbours by octree descent from the top of the pyramid; needs Morton order."""
        root = max(_ROOT_SIZE, _ROOT_CELLS_PER_ELEMENT * self.batch_size)
        if len(self) <= self.sizes.rows_for(root):
            return self.search_same(CUBE)
        cells = self.cells
        above = cells.level.cube_neighbors
        found = self.sizes.pairs(
            CUBE.kernel_volume * len(self),
            ops.neighbors_descend,
            above,
            cells.child_ptr,
            cells.child_mask,
            num_children=len(self),
        )
        return NeighborTable(*found)

    def search_same(self, geometry: ConvGeometry) -> NeighborTable:
        """Neighbours among this level's own sites, by hashing."""
        return self.search(self, geometry)

    def search(
        self, others: Level, geometry: ConvGeometry, *, inverse: bool = False
    ) -> NeighborTable:
        """What :func:`~torchsparse_lite.ops.neighbors_search` finds of the others for these sites.

        Args:
            others: the fine sites, or the coarse ones if ``inverse``.
            geometry: of the convolution.
            inverse: this level's sites are the fine ones.
        """
        found = self.sizes.pairs(
            geometry.kernel_volume * len(self),
            ops.neighbors_search,
            self.coords,
            others.table,
            geometry.triples,
            inverse=inverse,
        )
        return NeighborTable(*found)

    def __len__(self) -> int:
        return self._coords.shape[0]

    def __repr__(self) -> str:
        order = "Morton order" if self.is_morton else "free order"
        return f"Level({len(self)} sites, stride={self.stride}, {order}, {self._coords.device})"
