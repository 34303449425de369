# SPDX-License-Identifier: MIT
"""Points on a voxel grid: which cell each lies in, at every level, and the way to and fro."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.coordinates import Level
from torchsparse_lite.errors import check_choice, check_type, per_axis, refuse
from torchsparse_lite.manager import CoordinateManager
from torchsparse_lite.ops.coords import AXIS_MAX, AXIS_MIN
from torchsparse_lite.points import PointTensor
from torchsparse_lite.sizes import EXACT, Sizes
from torchsparse_lite.tensor import SparseTensor
from torchsparse_lite.trace import scope

__all__ = [
    "Origin",
    "PointGrid",
    "Size",
    "Voxelized",
    "check_same_points",
    "edge_lengths",
    "quantized",
]

Size = float | Iterable[float]
Origin = Iterable[float] | None
_Vector = tuple[float, float, float]
_CORNERS = tuple((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1))


class Voxelized(NamedTuple):
    """Result of :func:`~torchsparse_lite.voxelize`.

    Attributes:
        voxels: the voxels, rows in Morton order.
        point_to_voxel: (N,) int64 row of each point's voxel.
        counts: (V,) int64 points per voxel.
    """

    voxels: SparseTensor
    point_to_voxel: Tensor
    counts: Tensor


@dataclass
class _AtLevel:
    """What is known of the points at one level.

    Attributes:
        rows: (N,) int64 row of the cell that holds each point, -1 where there is none.
        segments: order (M,) and ptr (V + 1,) int64: the points cell after cell.
        trilinear: index (N, 8) int64 and weight (N, 8), by anchor and renormalisation.
    """

    rows: Tensor
    segments: tuple[Tensor, Tensor] | None = None
    trilinear: dict[tuple[str, bool], tuple[Tensor, Tensor]] = field(default_factory=dict)


class PointGrid:
    """Where the points of a batch lie on a voxel grid.

    It remembers, per level, the cells and weights it has worked out, so that a network pays for
    them once however often points and voxels exchange features.

    Args:
        points: coordinates in metres; their features are what :meth:`voxelize` reduces.
        voxel_size: edge length of a voxel in metres, one number or one per axis.
        origin: corner of voxel (0, 0, 0) in metres; by default (0, 0, 0).
        precision: float32 or float64: type in which the division is made. Points that lie exactly
            on a border can fall into different voxels in the two.
        function: name of the caller, for messages.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: a size that is not positive; points that are NaN, infinite or too far away.

    Source: Liu et al., "Point-Voxel CNN", NeurIPS 2019; Tang et al., "Searching Efficient 3D
    Architectures with Sparse Point-Voxel Convolution", ECCV 2020.
    """

    def __init__(
        self,
        points: PointTensor,
        voxel_size: Size,
        *,
        origin: Origin = None,
        precision: torch.dtype = torch.float32,
        function: str = "PointGrid",
    ) -> None:
        remedy = "Wrap them: PointTensor(feats, coords)."
        check_type(f"{function}: points", points, PointTensor, remedy)
        if precision not in (torch.float32, torch.float64):
            refuse(
                f"{function}: precision",
                "torch.float32 or torch.float64",
                precision,
                "Leave it out for float32.",
                error=TypeError,
            )
        self._function = function
        self.points = points
        self.voxel_size = edge_lengths(f"{function}: voxel_size", voxel_size)
        self.origin = (0.0, 0.0, 0.0)
        if origin is not None:
            self.origin = _vector(f"{function}: origin", origin, is_size=False)
        self.precision = precision
        with scope("voxelize"):
            self.voxels = quantized(
                f"{function}: points",
                points.xyz.to(precision),
                points.batch,
                self.voxel_size,
                self.origin,
                sizes=points.sizes,
            )
        self._known: WeakKeyDictionary[Level, _AtLevel] = WeakKeyDictionary()
        self._order: Tensor | None = None

    def voxelize(
        self, *, reduce: str = "mean", spatial_shape: Iterable[int] | None = None
    ) -> Voxelized:
        """Reduce the points' features to the occupied voxels.

        Args:
            reduce: "mean", "sum", "max", or "first" (the first point of the voxel in input order).
            spatial_shape: extent of the grid in voxels, or None.
        """
        check_choice(f"{self._function}: reduce", reduce, ("mean", "sum", "max", "first"))
        points = self.points
        with scope("voxelize"):
            found = self._unique()
            coords, rows, order, ptr = found
            if reduce == "first":
                # Dead voxels begin behind the last point.
                first = ptr[:-1].clamp_max(len(order) - 1) if points.sizes.is_fixed else ptr[:-1]
                feats = points.feats.index_select(0, order[first])
            else:
                feats, _ = ops.segment_reduce(points.feats, order, ptr, reduce=reduce)
        if spatial_shape is None:
            voxels = self._on_new_level(feats, found)
        else:
            voxels = SparseTensor(feats, coords, 1, spatial_shape, points.batch_size)
            self._keep(voxels.level, found)
        return Voxelized(voxels, rows, ptr.diff())

    def check_fits(self, function: str, points: PointTensor, voxel_size: Size) -> None:
        """Raise unless this is the grid of points at these coordinates, with such cells."""
        remedy = "Make one for this layer and these points, or leave it out."
        size = edge_lengths(f"{function}: voxel_size", voxel_size)
        if self.voxel_size != size:
            refuse(f"{function}: grid", f"of voxel_size {size}", self.voxel_size, remedy)
        check_same_points(function, points, self.points)

    @cached_property
    def sites(self) -> SparseTensor:
        """(V, 0): the occupied voxels, which :meth:`scatter` can fill with features."""
        with scope("voxelize"):
            found = self._unique()
        return self._on_new_level(self.points.feats.new_empty((len(found[0]), 0)), found)

    def _unique(self) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.points.sizes.sites(
            len(self.points), ops.unique_coords, self.voxels
        )
        return found

    def _on_new_level(self, feats: Tensor, found: tuple[Tensor, ...]) -> SparseTensor:
        """Features at voxels that ``unique_coords`` found, as a tensor without kernel maps."""
        size = self.points.batch_size
        level = Level(
            found[0],
            (1, 1, 1),
            spatial_shape=None,
            batch_size=size,
            is_morton=True,
            sizes=self.points.sizes,
        )
        self._keep(level, found)
        return SparseTensor.from_level(feats, level, CoordinateManager())

    def _keep(self, level: Level, found: tuple[Tensor, ...]) -> None:
        _, rows, order, ptr = found
        self._order = order
        self._known[level] = _AtLevel(rows, (order, ptr))

    def rows(self, level: Level) -> Tensor:
        """(N,) int64 row of the cell of ``level`` that holds each point, -1 where there is none."""
        return self._at(level).rows

    def scatter(self, feats: Tensor, x: SparseTensor) -> SparseTensor:
        """Mean of the points in each cell; zero in a cell without points.

        Args:
            feats: (N, C) of the points.
            x: its sites are filled.

        Returns:
            (V, C) at the sites of ``x``.
        """
        with scope("voxelize"):
            at = self._at(x.level)
            if at.segments is None:
                # The order by finest voxels serves coarser Morton levels too.
                exact = not self.points.sizes.is_fixed
                at.segments = ops.segments(at.rows, len(x), order=self._order, exact=exact)
            return x.replace_feats(ops.segment_reduce(feats, *at.segments, reduce="mean")[0])

    def gather(
        self,
        x: SparseTensor,
        *,
        mode: str = "trilinear",
        anchor: str = "corner",
        renormalize: bool = True,
    ) -> Tensor:
        """Read voxel features at the points.

        Args:
            x: at any tensor stride.
            mode: "nearest" (the voxel that holds the point) or "trilinear" (the 8 around it).
            anchor: where a voxel's value sits in trilinear mode: "corner" (its lower corner, as in
                TorchSparse and SPVNAS) or "center".
            renormalize: divide by the sum of the weights of the voxels that exist (as TorchSparse);
                False counts missing ones as zero (as MinkowskiEngine).

        Returns:
            (N, C), dtype of ``x``; zero for points around which there is no voxel.
        """
        check_choice(f"{self._function}: mode", mode, ("nearest", "trilinear"))
        check_choice(f"{self._function}: anchor", anchor, ("corner", "center"))
        with scope("devoxelize"):
            at = self._at(x.level)
            if mode == "nearest":
                rows = at.rows.unsqueeze(1)
                return ops.interpolate(x.feats, rows, x.feats.new_ones(rows.shape))
            key = (anchor, renormalize)
            if key not in at.trilinear:
                at.trilinear[key] = self._trilinear(x.level, anchor, renormalize=renormalize)
            return ops.interpolate(x.feats, *at.trilinear[key])

    def _cells(self, level: Level) -> Tensor:
        """(N, 4) int32 cell of each point."""
        if level.stride == (1, 1, 1):
            return self.voxels
        batch, *axes = self.voxels.unbind(1)
        cells = (a.div(s, rounding_mode="floor") for a, s in zip(axes, level.stride, strict=True))
        return torch.stack([batch, *cells], dim=1)

    def _at(self, level: Level) -> _AtLevel:
        if level not in self._known:
            self._known[level] = _AtLevel(ops.hash_lookup(level.table, self._cells(level)))
        return self._known[level]

    def _trilinear(self, level: Level, anchor: str, *, renormalize: bool) -> tuple[Tensor, Tensor]:
        """Rows (N, 8) and weights (N, 8) of the voxels around each point."""
        xyz = self.points.xyz
        xyz = xyz.to(torch.promote_types(xyz.dtype, self.precision))
        cells, shift = self._cells(level), 0.5 if anchor == "center" else 0.0
        index, weight = ops.corners(
            level.table,
            xyz.detach(),
            cells,
            origin=self.origin,
            voxel_size=self.voxel_size,
            stride=level.stride,
            anchor=shift,
            renormalize=renormalize,
        )
        if xyz.requires_grad:
            position = (xyz - xyz.new_tensor(self.origin)) / xyz.new_tensor(self.voxel_size)
            stride = xyz.new_tensor(level.stride)
            offset = ((position - cells[:, 1:] * stride) / stride).clamp(
                0, 1 - torch.finfo(xyz.dtype).eps
            )
            weight = trilinear_weights(offset - shift, index, renormalize=renormalize)
        return index, weight


def check_same_points(function: str, points: PointTensor, others: PointTensor) -> None:
    """Raise unless the ``others``, of which a grid was made, are at the same coordinates."""
    if others.coords is not points.coords and not others.coords.equal(points.coords):
        refuse(
            f"{function}: grid",
            "made from points at the same coordinates",
            f"{len(others)} points at others",
            "Make one from these points, or leave it out.",
        )


def trilinear_weights(offset: Tensor, index: Tensor, *, renormalize: bool) -> Tensor:
    """The weights of :func:`~torchsparse_lite.ops.corners`, differentiable in the offset.

    Args:
        offset: (N, 3) floating distance from the anchor of the point's cell, in cells.
        index: (N, 8) int64 rows, -1 for missing voxels.
        renormalize: as there.
    """
    upper = torch.tensor(_CORNERS, dtype=torch.bool, device=offset.device)
    fraction = (offset + (offset < 0)).unsqueeze(1)
    weight = torch.where(upper, fraction, 1 - fraction).prod(2) * (index >= 0)
    if renormalize:
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return weight


def edge_lengths(where: str, voxel_size: Size) -> _Vector:
    """Three positive numbers."""
    return _vector(where, voxel_size, is_size=True)


def _vector(where: str, value: Size, *, is_size: bool) -> _Vector:
    """Three numbers: edge lengths, of which one may stand for all, or else a position."""
    rule, low = "three finite numbers", -math.inf
    if is_size:
        rule, low = "positive and finite, one number or three", 0.0
    remedy = "Give a number per axis x, y, z."
    values = per_axis(value, one_for_all=is_size)
    if not all(isinstance(v, Real) for v in values):
        refuse(where, rule, repr(value), remedy, error=TypeError)
    if len(values) != 3 or not all(low < v < math.inf for v in values):
        refuse(where, rule, value, remedy)
    x, y, z = (float(v) for v in values)
    return x, y, z


def quantized(
    where: str,
    xyz: Tensor,
    batch: Tensor | None,
    voxel_size: _Vector,
    origin: _Vector,
    *,
    sizes: Sizes = EXACT,
) -> Tensor:
    """Return ``ops.quantize``; an error names the caller's argument and the point."""
    try:
        return ops.quantize(xyz, batch, voxel_size, origin, overflow=sizes.overflow)
    except ValueError:
        cells = ((xyz - xyz.new_tensor(origin)) / xyz.new_tensor(voxel_size)).floor()
        fits = ((cells >= AXIS_MIN) & (cells <= AXIS_MAX)).all(1)
        if bool(fits.all()):
            raise
        row = int(fits.int().argmin())
        refuse(
            where,
            f"finite and inside voxels {AXIS_MIN} to {AXIS_MAX}",
            f"{xyz[row].tolist()} in row {row}",
            "Drop such points first, or use larger voxels or another origin.",
        )
