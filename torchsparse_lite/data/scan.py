# SPDX-License-Identifier: MIT
"""Scan: the points of one sensor sweep, tile, room or object, with all that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from torchsparse_lite.errors import check_type, refuse

__all__ = ["IGNORE", "Array", "Scan"]

Array = npt.NDArray[Any]
IGNORE = 255
"""Train id of points that no loss and no metric counts."""

_ROWS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "xyz": (np.float32, (3,)),
    "remission": (np.float32, ()),
    "labels": (np.int64, ()),
    "instances": (np.int32, ()),
    "colors": (np.float32, (3,)),
    "normals": (np.float32, (3,)),
}
_FILL = {"labels": IGNORE, "instances": 0}


@dataclass(frozen=True, eq=False)
class Scan:
    """Points with what was measured and annotated at them. All arrays are numpy's.

    Attributes:
        xyz: (N, 3) float32 metres, in the frame of the sensor unless the data set has none.
        remission: (N,) float32, 0..1; zeros where the sensor measures none.
        labels: (N,) int64 train ids, 255 where ignored; None for unlabelled scans.
        instances: (N,) int32 instance ids, 0 for no instance; or None.
        name: unique within the data set, for example ``"00/000000"``.
        pose: (4, 4) float64, takes homogeneous xyz to world coordinates in metres; or None.
        colors: (N, 3) float32 red, green, blue, 0..1; or None.
        normals: (N, 3) float32 unit vectors; or None.

    Raises:
        TypeError: an array has another dtype.
        ValueError: an array has another shape.
    """

    xyz: npt.NDArray[np.float32]
    remission: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None = None
    instances: npt.NDArray[np.int32] | None = None
    name: str = ""
    pose: npt.NDArray[np.float64] | None = None
    colors: npt.NDArray[np.float32] | None = None
    normals: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check_type("Scan: xyz", self.xyz, np.ndarray, "Give a numpy array (N, 3).")
        for name, (dtype, tail) in _ROWS.items():
            value = getattr(self, name)
            if value is not None or name in ("xyz", "remission"):
                _check(name, value, dtype, (len(self.xyz), *tail))
        if self.pose is not None:
            _check("pose", self.pose, np.float64, (4, 4))

    def __len__(self) -> int:
        return len(self.xyz)

    def take(self, rows: Array) -> Scan:
        """Keep some points.

        Args:
            rows: (N,) bool mask, or (M,) integer row numbers in the wanted order.

        Returns:
            A scan of these points; name and pose are kept.
        """
        arrays = {name: getattr(self, name) for name in _ROWS}
        kept: dict[str, Any] = {key: a[rows] for key, a in arrays.items() if a is not None}
        return replace(self, **kept)

    def concat(self, *others: Scan) -> Scan:
        """All points of this scan, then those of the others, in order.

        Points of a scan without labels count as ignored beside labelled ones, and as no instance.
        Name and pose are those of this scan.

        Raises:
            ValueError: some have colours or normals and others have none.
        """
        scans = (self, *others)
        joined: dict[str, Any] = {}
        for name in _ROWS:
            parts = [getattr(scan, name) for scan in scans]
            if all(part is None for part in parts):
                continue
            joined[name] = np.concatenate(
                [_filled(name, part, len(s)) for part, s in zip(parts, scans, strict=True)]
            )
        return replace(self, **joined)

    def transformed(self, matrix: npt.NDArray[np.float64]) -> Scan:
        """Apply a linear map to the points, so that pose and normals stay true.

        Args:
            matrix: (3, 3) float64, invertible; acts on column vectors.

        Returns:
            A scan with ``xyz' = matrix xyz``; its pose takes xyz' to the same world points as
            before, and its normals are those of the moved surface.
        """
        pose, normals = self.pose, self.normals
        if pose is not None:
            inverse = np.eye(4)
            inverse[:3, :3] = np.linalg.inv(matrix)
            pose = pose @ inverse
        if normals is not None:
            normals = _mapped(normals, np.linalg.inv(matrix).T)
            length = np.linalg.norm(normals, axis=1, keepdims=True)
            normals = normals / np.maximum(length, np.finfo(np.float32).tiny)
        return replace(self, xyz=_mapped(self.xyz, matrix), pose=pose, normals=normals)

    def __repr__(self) -> str:
        present = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        return f"Scan({self.name!r}, {len(self)} points, {', '.join(present)})"


def _mapped(
    vectors: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Column by column rather than through BLAS, so that no thread count changes a bit."""
    x, y, z = vectors.T
    rows = matrix.astype(np.float32)
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in rows], axis=1)


def _filled(name: str, part: Array | None, count: int) -> Array:
    if part is not None:
        return part
    if name not in _FILL:
        refuse(
            f"Scan.concat: {name}",
            "there in all scans or in none",
            "some with and some without",
            "Drop them first with dataclasses.replace(scan, colors=None, normals=None).",
        )
    return np.full(count, _FILL[name], _ROWS[name][0])


def _check(name: str, value: object, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    remedy = f"Give a numpy array {shape} of {np.dtype(dtype).name}."
    check_type(f"Scan: {name}", value, np.ndarray, remedy)
    array = np.asarray(value)
    if array.dtype != dtype:
        rule = f"of dtype {np.dtype(dtype).name}"
        refuse(f"Scan: {name}", rule, array.dtype, remedy, error=TypeError)
    if array.shape != shape:
        refuse(f"Scan: {name}", f"of shape {shape}", array.shape, remedy)
