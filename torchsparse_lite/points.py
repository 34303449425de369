# SPDX-License-Identifier: MIT
"""PointTensor: features at points with continuous coordinates."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchsparse_lite import ops
from torchsparse_lite.coordinates import batch_size_of, version_of
from torchsparse_lite.errors import (
    check_dtype,
    check_same_device,
    check_shape,
    check_type,
    refuse,
)
from torchsparse_lite.features import Features, check_feats
from torchsparse_lite.ops.coords import MAX_BATCH_SIZE
from torchsparse_lite.sizes import EXACT, Sizes, check_exact

__all__ = ["PointTensor", "check_points"]

_Finding = TypeVar("_Finding")


class _Places:
    """What is found out of the coordinates of points, once for all tensors at the same points.

    Memory: 8 bytes a point, where the points were grouped by cloud.
    """

    def __init__(self) -> None:
        self._coords: Tensor | None = None
        self._state: Hashable = None
        self._found: dict[Callable[[PointTensor], Any], Any] = {}

    def once(self, points: PointTensor, find: Callable[[PointTensor], _Finding]) -> _Finding:
        """``find(points)``, kept until the coordinates are changed in place.

        Nor does it cross the border of inference mode, whose tensors autograd refuses.
        """
        coords, mode = points.coords, torch.is_inference_mode_enabled()
        state = version_of(coords), points.batch_size, mode
        if self._coords is not coords or self._state != state:
            self._coords, self._state, self._found = coords, state, {}
        if find not in self._found:
            self._found[find] = find(points)
        found: _Finding = self._found[find]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _Places, ()  # a copy's changes are counted anew


def _by_cloud(points: PointTensor) -> tuple[Tensor, Tensor]:
    return ops.segments(points.batch.long(), points.batch_size, exact=not points.sizes.is_fixed)


def _are_finite(points: PointTensor) -> bool:
    return bool(points.xyz.isfinite().all())  # waits for a GPU


class PointTensor(Features):
    """Features of points with continuous coordinates.

    Args:
        feats: (N, C) floating.
        coords: (N, 4) float32 or float64: batch, x, y, z in metres; or (N, 3) for one cloud.
        batch_size: number of clouds; by default the largest batch index plus one.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape or device, batch indices that are not whole or negative.
        RuntimeError: CUDA tensors, in a build without its CUDA part.

    What is found out of the coordinates is kept, for other features at the same points too, until
    the coordinates are changed in place.
    """

    def __init__(self, feats: Tensor, coords: Tensor, batch_size: int | None = None) -> None:
        check_feats("PointTensor", feats)
        remedy = "Give (N, 3) x, y, z or (N, 4) batch, x, y, z."
        check_type("PointTensor: coords", coords, Tensor, remedy)
        check_shape("PointTensor: coords", coords, (feats.shape[0], None), remedy)
        check_dtype("PointTensor: coords", coords, (torch.float32, torch.float64), "Use .float().")
        check_same_device("PointTensor: coords", coords, feats, "feats")
        if coords.shape[1] == 3:
            coords = torch.cat([coords.new_zeros((coords.shape[0], 1)), coords], dim=1)
        check_shape("PointTensor: coords", coords, (feats.shape[0], 4), remedy)
        batch = coords[:, 0]
        is_wrong = (batch != batch.floor()) | (batch < 0) | (batch >= MAX_BATCH_SIZE)
        if bool(is_wrong.any()):
            row = int(is_wrong.nonzero()[0])
            refuse(
                "PointTensor: coords",
                f"whole numbers from 0 to {MAX_BATCH_SIZE - 1} in column 0 (the batch index)",
                f"{batch[row].item()} in row {row}",
                remedy,
            )
        self.feats = feats
        self.coords = coords
        largest = int(batch.max()) if len(batch) else -1
        self.batch_size = batch_size_of("PointTensor", batch_size, largest)
        self.sizes = EXACT
        self._places = _Places()

    @classmethod
    def of_checked(
        cls, feats: Tensor, coords: Tensor, batch_size: int, sizes: Sizes = EXACT
    ) -> PointTensor:
        """Points whose parts are known to be right; nothing waits for a GPU.

        Args:
            feats: (N, C).
            coords: (N, 4); with fixed sizes points of batch -1, behind all others, are dead.
            batch_size: number of clouds.
            sizes: of what is made from these points.
        """
        points = object.__new__(cls)
        points.feats, points.coords, points.batch_size = feats, coords, batch_size
        points.sizes, points._places = sizes, _Places()
        return points

    @property
    def xyz(self) -> Tensor:
        """(N, 3) metres."""
        return self.coords[:, 1:]

    @property
    def batch(self) -> Tensor:
        """(N,) int32 batch index."""
        return self.coords[:, 0].int()

    @property
    def batch_ptr(self) -> tuple[Tensor, Tensor]:
        """Rows grouped by cloud: order (N,) int64 and ptr (batch_size + 1,) int64."""
        return self._places.once(self, _by_cloud)

    @property
    def F(self) -> Tensor:
        """Short for ``feats``."""
        return self.feats

    @property
    def C(self) -> Tensor:
        """Short for ``coords``."""
        return self.coords

    def replace_feats(self, feats: Tensor) -> PointTensor:
        """Other features at the same points."""
        check_feats("PointTensor.replace_feats", feats)
        remedy = "One row per point."
        check_shape("PointTensor.replace_feats: feats", feats, (len(self), None), remedy)
        check_same_device("PointTensor.replace_feats: feats", feats, self.coords, "coords")
        return self._at_same_points(feats)

    def _at_same_points(self, feats: Tensor) -> PointTensor:
        points = PointTensor.of_checked(feats, self.coords, self.batch_size, self.sizes)
        points._places = self._places
        return points

    def to(self, *args: Any, **kwargs: Any) -> PointTensor:
        """Move or convert, as ``torch.Tensor.to``; a dtype applies to the features only."""
        feats = self.feats.to(*args, **kwargs)
        check_feats("PointTensor.to", feats)
        if feats.device == self.device:
            return self._at_same_points(feats)
        non_blocking = bool(kwargs.get("non_blocking"))
        return self._copied(feats, self.coords.to(feats.device, non_blocking=non_blocking))

    def pin_memory(self) -> PointTensor:
        """Copy into page-locked memory, as a DataLoader does."""
        return self._copied(self.feats.pin_memory(), self.coords.pin_memory())

    def _copied(self, feats: Tensor, coords: Tensor) -> PointTensor:
        """The same points with their arrays in other memory."""
        return PointTensor.of_checked(feats, coords, self.batch_size, self.sizes)

    def __repr__(self) -> str:
        return (
            f"PointTensor({len(self)} points, {self.num_channels} channels, "
            f"batch_size={self.batch_size}, {self.dtype}, {self.device})"
        )


def check_points(where: str, points: Any) -> None:
    """Raise unless ``points`` is a PointTensor with finite coordinates, none of them dead."""
    check_type(where, points, PointTensor, "Wrap them: PointTensor(feats, coords).")
    check_exact(where, points.sizes)
    if not points._places.once(points, _are_finite):
        row = int(points.xyz.isfinite().all(1).int().argmin())
        remedy = "Drop such points first, for example with torch.isfinite."
        refuse(where, "finite", f"{points.xyz[row].tolist()} in row {row}", remedy)
