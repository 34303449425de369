# SPDX-License-Identifier: MIT
"""SparseTensor: features at the occupied sites of a voxel grid.

It is immutable in spirit: every method returns a new object, and nothing global remembers any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.coordinates import Level, batch_size_of, check_coords
from torchsparse_lite.errors import (
    Triple,
    check_dtype,
    check_same_device,
    check_shape,
    check_type,
    refuse,
    triple,
)
from torchsparse_lite.features import WRAP, Features, check_feats, check_rows
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.sizes import Sizes, check_exact

__all__ = ["SparseTensor", "cat", "check_sparse", "sparse_list"]


class SparseTensor(Features):
    """Features at the occupied sites of a voxel grid.

    Args:
        feats: (N, C) float32, float64, float16 or bfloat16.
        coords: (N, 4) int32: batch, x, y, z, unique, in any order; same device. Batch in 0..1023,
            axes in [-131072, 131071]. Not to be changed afterwards.
        stride: tensor stride: fine voxels per site, one number or one per axis. Coordinates count
            in sites of this stride (they are divided).
        spatial_shape: extent (X, Y, Z) of the grid in sites, or None for an unbounded grid. With
            one, coordinates lie in [0, extent) and strided layers clip as dense ones do.
        batch_size: number of batch elements; by default the largest batch index plus one.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape or device, coordinates out of range or not unique.
        RuntimeError: CUDA tensors, in a build without its CUDA part.

    ``x.F``, ``x.C`` and ``x.s`` are short for ``feats``, ``coords`` and ``stride``.
    """

    __slots__ = ("_feats", "_level", "_manager")

    _feats: Tensor
    _level: Level
    _manager: CoordinateManager

    def __init__(
        self,
        feats: Tensor,
        coords: Tensor,
        stride: int | Iterable[int] = 1,
        spatial_shape: Iterable[int] | None = None,
        batch_size: int | None = None,
    ) -> None:
        check_feats("SparseTensor", feats)
        check_coords("SparseTensor", coords)
        if feats.shape[0] != coords.shape[0]:
            refuse(
                "SparseTensor: feats",
                f"as many rows as coords ({coords.shape[0]})",
                feats.shape[0],
                "Give one row of features per coordinate.",
            )
        check_same_device("SparseTensor: feats", feats, coords, "coords")
        shape = None
        if spatial_shape is not None:
            shape = _extent("SparseTensor: spatial_shape", spatial_shape)
            _check_inside(coords, shape)
        largest = int(coords[:, 0].max()) if coords.shape[0] else -1
        level = Level(
            coords,
            triple("SparseTensor: stride", stride, minimum=1),
            spatial_shape=shape,
            batch_size=batch_size_of("SparseTensor", batch_size, largest),
        )
        _check_unique(level)
        self._set(feats, level, CoordinateManager())

    def _set(self, feats: Tensor, level: Level, manager: CoordinateManager) -> None:
        object.__setattr__(self, "_feats", feats)
        object.__setattr__(self, "_level", level)
        object.__setattr__(self, "_manager", manager)

    @classmethod
    def from_level(cls, feats: Tensor, level: Level, manager: CoordinateManager) -> SparseTensor:
        """Features on a level that is already known; one row per site.

        Raises:
            ValueError: the number of rows differs.
        """
        remedy = "Give one row of features per site."
        check_shape("SparseTensor.from_level: feats", feats, (len(level), None), remedy)
        tensor = cls.__new__(cls)
        tensor._set(feats, level, manager)
        return tensor

    @property
    def feats(self) -> Tensor:  # type: ignore[override]
        """(N, C) features."""
        return self._feats

    @property
    def coords(self) -> Tensor:
        """(N, 4) int32 batch, x, y, z."""
        return self.level.coords

    @property
    def level(self) -> Level:
        """The coordinates with what is known about them.

        Raises:
            RuntimeError: the coordinates were changed in place.
        """
        self._level.check_unchanged()
        return self._level

    @property
    def manager(self) -> CoordinateManager:
        """Levels and kernel maps of this forward pass."""
        return self._manager

    @property
    def stride(self) -> Triple:
        """Tensor stride per axis."""
        return self._level.stride

    @property
    def spatial_shape(self) -> Triple | None:
        """Extent of the grid in sites, or None."""
        return self._level.spatial_shape

    @property
    def batch_size(self) -> int:
        """Number of batch elements, empty ones included."""
        return self._level.batch_size

    @property
    def sizes(self) -> Sizes:  # type: ignore[override]
        """How large what is made of this tensor becomes, see :mod:`torchsparse_lite.sizes`."""
        return self._level.sizes

    F = feats
    C = coords
    s = stride

    def __setattr__(self, name: str, value: object) -> None:
        message = (
            f"SparseTensor: {name} must be left as it is, got an assignment. "
            "Use replace_feats(feats), or build a new SparseTensor(feats, coords)."
        )
        raise AttributeError(message)

    def replace_feats(self, feats: Tensor) -> SparseTensor:
        """Other features at the same coordinates.

        Args:
            feats: (N, C') on the device of the coordinates.
        """
        check_feats("SparseTensor.replace_feats", feats)
        check_same_device("SparseTensor.replace_feats: feats", feats, self.coords, "coords")
        return SparseTensor.from_level(feats, self.level, self.manager)

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """Move or convert, as ``torch.Tensor.to``; a dtype applies to the features only.

        On another device the coordinates are copied and kernel maps are built anew.
        """
        feats = self.feats.to(*args, **kwargs)
        check_feats("SparseTensor.to", feats)
        if feats.device == self.device:
            return SparseTensor.from_level(feats, self.level, self.manager)
        non_blocking = bool(kwargs.get("non_blocking"))
        return self._copied(feats, self.coords.to(feats.device, non_blocking=non_blocking))

    def pin_memory(self) -> SparseTensor:
        """Copy into page-locked memory, as a DataLoader does; kernel maps are built anew."""
        return self._copied(self.feats.pin_memory(), self.coords.pin_memory())

    def _copied(self, feats: Tensor, coords: Tensor) -> SparseTensor:
        """The same tensor with its arrays in other memory."""
        level = self.level.like(coords, is_morton=self.level.is_morton)
        return SparseTensor.from_level(feats, level, CoordinateManager())

    def dense(
        self, *, shape: Iterable[int] | None = None, origin: Iterable[int] = (0, 0, 0)
    ) -> Tensor:
        """The features as a dense grid, zero where there is no site. Differentiable.

        Args:
            shape: extent (X, Y, Z) of the result in sites; by default ``spatial_shape``.
            origin: the site that becomes element (0, 0, 0).

        Returns:
            (batch_size, C, X, Y, Z).

        Raises:
            ValueError: no extent is known, or a site lies outside of it.
        """
        extent = shape if shape is not None else self.spatial_shape
        if extent is None:
            refuse(
                "SparseTensor.dense: shape",
                "given for a tensor without spatial_shape",
                None,
                "Pass shape=(X, Y, Z) and, for negative coordinates, origin=.",
            )
        check_exact("SparseTensor.dense: coords", self.sizes)
        size = _extent("SparseTensor.dense: shape", extent)
        first = triple("SparseTensor.dense: origin", origin, one_for_all=False)
        start = torch.tensor([0, *first], dtype=torch.int64, device=self.device)
        batch, x, y, z = (self.coords.long() - start).unbind(1)
        sites = torch.stack([x, y, z])
        limit = torch.tensor(size, device=self.device).unsqueeze(1)
        is_outside = ((sites < 0) | (sites >= limit)).any(0)
        if bool(is_outside.any()):
            row = int(is_outside.nonzero()[0])
            refuse(
                "SparseTensor.dense: coords",
                f"inside the grid of shape {size} from origin {first}",
                f"{self.coords[row].tolist()} in row {row}",
                "Pass a larger shape or another origin.",
            )
        flat = ((batch * size[0] + x) * size[1] + y) * size[2] + z
        cells = self.batch_size * size[0] * size[1] * size[2]
        grid = self.feats.new_zeros((cells, self.num_channels)).index_copy(0, flat, self.feats)
        grid = grid.view(self.batch_size, *size, self.num_channels)
        return grid.permute(0, 4, 1, 2, 3).contiguous()

    @classmethod
    def from_dense(cls, dense: Tensor, *, stride: int | Iterable[int] = 1) -> SparseTensor:
        """The sites of a dense grid where any channel is not zero. Differentiable.

        Args:
            dense: (B, C, X, Y, Z) floating.
            stride: tensor stride of the result.

        Returns:
            A tensor with ``spatial_shape`` (X, Y, Z).
        """
        remedy = "Give (batch, channels, X, Y, Z)."
        check_type("SparseTensor.from_dense: dense", dense, Tensor, remedy)
        check_shape("SparseTensor.from_dense: dense", dense, (None,) * 5, remedy)
        sites = (dense != 0).any(1).nonzero()
        batch, x, y, z = sites.unbind(1)
        feats = dense.permute(0, 2, 3, 4, 1)[batch, x, y, z]
        batch_size, _, *shape = dense.shape
        return cls(feats, sites.int(), stride, shape, batch_size)

    def decompose(self) -> list[SparseTensor]:
        """One tensor per batch element, each with batch index 0; rows keep their order."""
        order, ptr = self.level.batch_ptr
        parts = []
        for begin, end in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
            rows = order[begin:end]
            coords = self.coords[rows].clone()
            coords[:, 0] = 0
            level = self.level.like(coords, is_morton=self.level.is_morton or None, batch_size=1)
            feats = self.feats.index_select(0, rows)
            parts.append(SparseTensor.from_level(feats, level, CoordinateManager()))
        return parts

    def __getitem__(self, mask: Tensor) -> SparseTensor:
        """Keep the rows where the boolean mask (N,) is true (pruning)."""
        remedy = "Index with a boolean mask over the rows, for example x[x.feats[:, 0] > 0]."
        check_type("SparseTensor.__getitem__: mask", mask, Tensor, remedy)
        check_shape("SparseTensor.__getitem__: mask", mask, (len(self),), remedy)
        check_dtype("SparseTensor.__getitem__: mask", mask, (torch.bool,), remedy)
        check_exact("SparseTensor.__getitem__: mask", self.sizes)
        rows = mask.nonzero().squeeze(1)
        level = self.level.like(
            self.coords.index_select(0, rows), is_morton=self.level.is_morton or None
        )
        manager = self.manager.branch(self.level, level)
        return SparseTensor.from_level(self.feats.index_select(0, rows), level, manager)

    def __add__(self, other: SparseTensor | Tensor | float) -> SparseTensor:
        return self._combine("+", other, torch.add)

    def __sub__(self, other: SparseTensor | Tensor | float) -> SparseTensor:
        return self._combine("-", other, torch.sub)

    def __mul__(self, other: SparseTensor | Tensor | float) -> SparseTensor:
        return self._combine("*", other, torch.mul)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Tensor | float) -> SparseTensor:
        return (self * -1.0) + other

    def __neg__(self) -> SparseTensor:
        return self._map_feats(torch.neg)

    def _combine(
        self,
        sign: str,
        other: SparseTensor | Tensor | float,
        function: Callable[[Tensor, Any], Tensor],
    ) -> SparseTensor:
        """Element by element; over the union of the sites where the supports differ.

        The result knows what both operands were made from, and is unbounded if one of them is.
        """
        if not isinstance(other, SparseTensor):
            return self.replace_feats(function(self.feats, other))
        _check_compatible(f"SparseTensor {sign}", self, other)
        if self.num_channels != other.num_channels:
            refuse(
                f"SparseTensor {sign}: operands",
                "of one channel count",
                f"{self.num_channels} and {other.num_channels}",
                "Project one of them with nn.Linear.",
            )
        if _same_sites(self, other):
            return _joined(self, other).replace_feats(function(self.feats, other.feats))
        coords, rows, _, _ = ops.unique_coords(torch.cat([self.coords, other.coords]))
        shape = _joint_shape(self, other)
        level = self.level.like(coords, is_morton=True, spatial_shape=shape)
        mine, theirs = rows.split([len(self), len(other)])
        feats = function(_spread(self.feats, mine, level), _spread(other.feats, theirs, level))
        manager = self.manager.branch(self.level, level, (other.manager, other.level))
        return SparseTensor.from_level(feats, level, manager)

    def __repr__(self) -> str:
        shape = "" if self.spatial_shape is None else f", spatial_shape={self.spatial_shape}"
        return (
            f"SparseTensor({len(self)} sites, {self.num_channels} channels, stride={self.stride}"
            f"{shape}, batch_size={self.batch_size}, {self.dtype}, {self.device})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "feats": self.feats,
            "coords": self.coords,
            "stride": self.stride,
            "spatial_shape": self.spatial_shape,
            "batch_size": self.batch_size,
            "is_morton": self.level.is_morton,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        level = Level(
            state["coords"],
            state["stride"],
            spatial_shape=state["spatial_shape"],
            batch_size=state["batch_size"],
            is_morton=state["is_morton"],
        )
        self._set(state["feats"], level, CoordinateManager())


def check_sparse(function: str, x: Any, *channels: int) -> None:
    """Raise unless ``x`` is a SparseTensor, of feature shape (N, *channels) where that is given."""
    check_type(f"{function}: x", x, SparseTensor, WRAP)
    check_rows(function, x, *channels)


def sparse_list(function: str, tensors: Iterable[SparseTensor]) -> list[SparseTensor]:
    """The argument ``tensors`` of ``function`` as a list.

    Raises:
        TypeError: it holds something else than SparseTensors.
        ValueError: it is empty.
    """
    where, remedy = f"{function}: tensors", "Pass a list of SparseTensors."
    check_type(where, tensors, Iterable, remedy)
    result = list(tensors)
    if not result:
        refuse(where, "at least one SparseTensor", "none", remedy)
    for tensor in result:
        check_type(where, tensor, SparseTensor, remedy)
    return result


def _extent(where: str, value: Iterable[int]) -> Triple:
    return triple(where, value, minimum=0, one_for_all=False)


def _check_inside(coords: Tensor, shape: Triple) -> None:
    limit = torch.tensor(shape, dtype=torch.int32, device=coords.device)
    is_outside = ((coords[:, 1:] < 0) | (coords[:, 1:] >= limit)).any(1)
    if bool(is_outside.any()):
        row = int(is_outside.nonzero()[0])
        refuse(
            "SparseTensor: coords",
            f"inside spatial_shape {shape}",
            f"{coords[row].tolist()} in row {row}",
            "Use a larger spatial_shape, or None for an unbounded grid.",
        )


def _check_unique(level: Level) -> None:
    if level.is_morton:
        return
    found = ops.hash_lookup(level.table, level.coords)
    rows = torch.arange(len(level), device=found.device)
    is_repeated = found != rows
    if bool(is_repeated.any()):
        row = int(is_repeated.nonzero()[0])
        refuse(
            "SparseTensor: coords",
            "unique",
            f"{level.coords[row].tolist()} in rows {int(found[row])} and {row}",
            "Merge duplicates first, for example with voxelize() or ops.unique_coords().",
        )


def _check_compatible(function: str, a: SparseTensor, b: SparseTensor) -> None:
    for name in ("stride", "batch_size", "device"):
        mine, theirs = getattr(a, name), getattr(b, name)
        if mine != theirs:
            refuse(
                f"{function}: operands",
                f"of one {name}",
                f"{mine} and {theirs}",
                "Bring both to the same resolution, batch and device first.",
            )


def _same_sites(a: SparseTensor, b: SparseTensor) -> bool:
    return a.level is b.level or torch.equal(a.coords, b.coords)


def _joint_shape(a: SparseTensor, b: SparseTensor) -> Triple | None:
    """The extent that holds the sites of both; None if one of them is unbounded."""
    if a.spatial_shape is None or b.spatial_shape is None:
        return None
    x, y, z = map(max, a.spatial_shape, b.spatial_shape)
    return x, y, z


def _joined(a: SparseTensor, b: SparseTensor) -> SparseTensor:
    """``a`` in the joint extent, with a manager that knows what both were made from."""
    if a.level is b.level and a.manager is b.manager:
        return a
    level, shape = a.level, _joint_shape(a, b)
    if shape != level.spatial_shape:
        level = level.like(a.coords, is_morton=level.is_morton, spatial_shape=shape)
    manager = a.manager.branch(a.level, level, (b.manager, b.level))
    return SparseTensor.from_level(a.feats, level, manager)


def _spread(feats: Tensor, rows: Tensor, level: Level) -> Tensor:
    return feats.new_zeros((len(level), feats.shape[1])).index_copy(0, rows, feats)


def cat(tensors: Iterable[SparseTensor]) -> SparseTensor:
    """Concatenate the channels of tensors at the same coordinates.

    Args:
        tensors: at least one; same sites in the same order, stride, batch and device.

    Returns:
        A tensor with the coordinates of the first. It knows what all of them were made from. Its
        ``spatial_shape`` holds those of all, or is None if one of them is unbounded.

    Raises:
        TypeError: not SparseTensors.
        ValueError: there is none, or the coordinates differ.
    """
    first, *others = parts = sparse_list("cat", tensors)
    for tensor in others:
        _check_compatible("cat", first, tensor)
        if not _same_sites(first, tensor):
            refuse(
                "cat: tensors",
                "at the same coordinates in the same order",
                f"{first!r} and {tensor!r}",
                "Use + to join different supports, or make both with the same layers.",
            )
        first = _joined(first, tensor)
    return first.replace_feats(torch.cat([tensor.feats for tensor in parts], dim=1))
