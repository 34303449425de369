# SPDX-License-Identifier: MIT
"""Transforms of one scan: ``(scan, rng) -> scan``. Labels and instances travel with the points.

All randomness comes from the ``numpy.random.Generator`` that is passed along. Lengths are metres,
angles radians. A transform that moves points moves the pose too: world coordinates stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from torchsparse_lite.data.scan import Scan
from torchsparse_lite.errors import refuse

__all__ = [
    "Compose",
    "DropPoints",
    "Flip",
    "GridSample",
    "Jitter",
    "LimitPoints",
    "RangeCrop",
    "RotateZ",
    "Scale",
    "Transform",
]

Transform = Callable[[Scan, Generator], Scan]


@dataclass(frozen=True)
class Compose:
    """One transform after another.

    Attributes:
        transforms: applied in this order.
    """

    transforms: Sequence[Transform]

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        for transform in self.transforms:
            scan = transform(scan, rng)
        return scan


@dataclass(frozen=True)
class RotateZ:
    """Rotate about the vertical axis by an angle drawn uniformly.

    Attributes:
        low_rad: smallest angle.
        high_rad: largest angle; equal to ``low_rad`` for a fixed rotation.
    """

    low_rad: float = 0.0
    high_rad: float = 2 * np.pi

    def __post_init__(self) -> None:
        _check_interval("RotateZ", self.low_rad, self.high_rad)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        return scan.transformed(rotation_z(rng.uniform(self.low_rad, self.high_rad)))


@dataclass(frozen=True)
class Scale:
    """Scale all coordinates by one factor drawn uniformly.

    Attributes:
        low: smallest factor, positive.
        high: largest factor.
    """

    low: float = 0.95
    high: float = 1.05

    def __post_init__(self) -> None:
        _check_interval("Scale", self.low, self.high, above=0.0)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        return scan.transformed(np.eye(3) * rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Flip:
    """Mirror x, and mirror y, each with a probability.

    Attributes:
        x: probability that x becomes -x.
        y: probability that y becomes -y.
    """

    x: float = 0.5
    y: float = 0.5

    def __post_init__(self) -> None:
        check_probability("Flip: x", self.x)
        check_probability("Flip: y", self.y)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        signs = np.where(rng.random(2) < (self.x, self.y), -1.0, 1.0)
        return scan.transformed(np.diag([*signs, 1.0]))


@dataclass(frozen=True)
class Jitter:
    """Move every point by Gaussian noise of its own.

    Attributes:
        sigma_m: standard deviation per axis.
        limit_m: no coordinate moves further than this.
    """

    sigma_m: float = 0.01
    limit_m: float = 0.05

    def __post_init__(self) -> None:
        _check_interval("Jitter", self.sigma_m, self.limit_m, above=0.0)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        noise = rng.standard_normal(scan.xyz.shape, np.float32) * np.float32(self.sigma_m)
        return replace(scan, xyz=scan.xyz + noise.clip(-self.limit_m, self.limit_m))


@dataclass(frozen=True)
class DropPoints:
    """Drop a share of the points, the share drawn uniformly.

    Attributes:
        max_fraction: largest share, 0..1.
    """

    max_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_probability("DropPoints: max_fraction", self.max_fraction)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        fraction = rng.uniform(0.0, self.max_fraction)
        return scan.take(rng.random(len(scan)) >= fraction)


@dataclass(frozen=True)
class LimitPoints:
    """Keep at most so many points, drawn without replacement; their order stays.

    Attributes:
        maximum: number of points, at least 1.
    """

    maximum: int

    def __post_init__(self) -> None:
        if self.maximum < 1:
            remedy = "Leave the transform out to keep all points."
            refuse("LimitPoints: maximum", "at least 1", self.maximum, remedy)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        if len(scan) <= self.maximum:
            return scan
        return scan.take(np.sort(rng.choice(len(scan), self.maximum, replace=False)))


@dataclass(frozen=True)
class GridSample:
    """Keep one point of each cell of a grid, drawn uniformly; their order stays.

    It saves work on points. Cells whose size divides that of a network's voxels leave all of these
    in place; others lose some.

    Attributes:
        size_m: edge length of a cell.

    Source: SPVNAS keeps one point of each voxel of 5 cm (the first); the name is Pointcept's.
    """

    size_m: float = 0.05

    def __post_init__(self) -> None:
        if not self.size_m > 0:
            remedy = "Leave the transform out to keep all points."
            refuse("GridSample: size_m", "above 0", self.size_m, remedy)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        cells = np.floor(scan.xyz / np.float32(self.size_m)).astype(np.int64)
        cells -= cells.min(axis=0, initial=0)
        extent = cells.max(axis=0, initial=0) + 1
        shuffled = rng.permutation(len(scan))
        keys = np.ravel_multi_index(tuple(cells[shuffled].T), tuple(extent))
        _, first = np.unique(keys, return_index=True)
        return scan.take(np.sort(shuffled[first]))


@dataclass(frozen=True)
class RangeCrop:
    """Keep the points whose distance from the origin (the sensor) lies in an interval.

    Attributes:
        low_m: smallest distance; above 0 it also drops returns at the origin.
        high_m: largest distance.
    """

    low_m: float = 0.0
    high_m: float = 50.0

    def __post_init__(self) -> None:
        _check_interval("RangeCrop", self.low_m, self.high_m)

    def __call__(self, scan: Scan, rng: Generator) -> Scan:
        distance = np.linalg.norm(scan.xyz, axis=1)
        return scan.take((distance >= self.low_m) & (distance <= self.high_m))


def rotation_z(angle_rad: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(3, 3) float64 matrix that turns column vectors counter-clockwise, seen from above."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _check_interval(function: str, low: float, high: float, *, above: float | None = None) -> None:
    if not low <= high or (above is not None and low <= above):
        rule = "low <= high" + ("" if above is None else f", both above {above:g}")
        remedy = "Exchange them, or leave the transform out."
        refuse(f"{function}: interval", f"such that {rule}", f"[{low:g}, {high:g}]", remedy)


def check_probability(where: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        refuse(where, "from 0 to 1", value, "Give a share, not a percentage.")
