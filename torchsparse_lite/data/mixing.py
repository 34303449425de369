# SPDX-License-Identifier: MIT
"""Transforms that mix two scans: ``(scan, other, rng) -> scan``.

Both scans are in their sensor's frame, z up, the sensor at the origin. Labels and instances travel
with the points; instance ids of ``other`` are shifted past those of ``scan``. Name and pose are
those of ``scan``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from torchsparse_lite.data.scan import Scan
from torchsparse_lite.data.transforms import check_probability, rotation_z
from torchsparse_lite.errors import refuse

__all__ = ["InstancePaste", "LaserMix", "MixTransform", "PolarMix"]

MixTransform = Callable[[Scan, Scan, Generator], Scan]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LaserMix:
    """Interleave two scans by inclination: areas 0, 2, ... of one, areas 1, 3, ... of the other.

    Attributes:
        num_areas: the number of areas is drawn from these.
        low_rad: inclination of the lowest beam.
        high_rad: inclination of the highest beam. The areas are equal parts of the angle between;
            the outer ones reach on to the poles.

    Source: Kong et al., "LaserMix for Semi-Supervised LiDAR Semantic Segmentation", CVPR 2023,
    section 3.2; numbers of areas and angles for SemanticKITTI from the released code.
    """

    num_areas: Sequence[int] = (3, 4, 5, 6)
    low_rad: float = float(np.deg2rad(-25.0))
    high_rad: float = float(np.deg2rad(3.0))

    def __post_init__(self) -> None:
        if not self.num_areas or min(self.num_areas) < 2:
            remedy = "Give numbers of areas, 2 or more each."
            refuse("LaserMix: num_areas", "at least 2", tuple(self.num_areas), remedy)
        if not self.low_rad < self.high_rad:
            remedy = "Give the inclinations of the lowest and the highest beam in radians."
            refuse("LaserMix: low_rad", f"below {self.high_rad:g}", self.low_rad, remedy)

    def __call__(self, scan: Scan, other: Scan, rng: Generator) -> Scan:
        count = int(rng.choice(np.asarray(self.num_areas)))
        mine = self._area(scan, count) % 2 == 0
        theirs = self._area(other, count) % 2 == 1
        return scan.take(mine).concat(_renumbered(other.take(theirs), scan))

    def _area(self, scan: Scan, count: int) -> npt.NDArray[np.int64]:
        x, y, z = scan.xyz.T
        inclination = np.arctan2(z, np.hypot(x, y))
        inner_borders = np.linspace(self.low_rad, self.high_rad, count + 1)[1:-1]
        return np.asarray(np.digitize(inclination, inner_borders), np.int64)


@dataclass(frozen=True)
class PolarMix:
    """Swap a half circle of azimuth, and paste the other scan's instances, turned about the sensor.

    Attributes:
        classes: train ids whose points are pasted (the "things").
        swap_probability: of exchanging the sector; pasting always happens.
        copies: how often the instances are pasted beyond once as they are; copy k is turned by an
            angle drawn from the k-th of ``copies + 1`` equal parts of the circle.

    Source: Xiao et al., "PolarMix: A General Data Augmentation Technique for LiDAR Point Clouds",
    NeurIPS 2022, section 3; sector, probability and angles as in the released code.
    """

    classes: Sequence[int]
    swap_probability: float = 0.5
    copies: int = 2

    def __post_init__(self) -> None:
        check_probability("PolarMix: swap_probability", self.swap_probability)
        if self.copies < 0:
            refuse("PolarMix: copies", "at least 0", self.copies, "Give 0 for one paste.")

    def __call__(self, scan: Scan, other: Scan, rng: Generator) -> Scan:
        labels = _need_labels("PolarMix", other)
        result = scan
        start = rng.uniform(-np.pi, np.pi)
        if rng.random() < self.swap_probability:
            mine, theirs = _sector(scan, start), _sector(other, start)
            result = scan.take(~mine).concat(_renumbered(other.take(theirs), scan))
        things = other.take(np.isin(labels, np.asarray(self.classes)))
        for copy in range(self.copies + 1):
            share = 2 * np.pi / (self.copies + 1)
            angle = 0.0 if copy == 0 else rng.uniform((copy - 1) * share, copy * share)
            turned = replace(things, pose=None).transformed(rotation_z(angle))
            result = result.concat(_renumbered(turned, result))
        return result


@dataclass(frozen=True)
class InstancePaste:
    """Paste whole instances of rare classes from the other scan onto the ground of this one.

    An instance is turned about the sensor (so that its range, and with it its density, stays), and
    lowered or raised until it stands on the ground found below it. A place without ground, or with
    obstacles in it, is given up for another; after ``attempts`` places the instance is left out.

    Attributes:
        classes: train ids of the instances to paste.
        ground: train ids of what they may stand on.
        max_instances: the number pasted is drawn from 1 to this.
        min_points: smaller instances are left out.
        attempts: places tried for each instance.
        radius_m: ground is looked for within this distance of the instance's footprint centre.

    Source: the instance augmentation of Zhou et al., "Panoptic-PolarNet", CVPR 2021, section 3.4,
    with the ground test of Sebek et al., "Real3D-Aug", 2022.
    """

    classes: Sequence[int]
    ground: Sequence[int]
    max_instances: int = 5
    min_points: int = 10
    attempts: int = 10
    radius_m: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_instances", "min_points", "attempts"):
            if getattr(self, name) < 1:
                remedy = "Leave the transform out to paste nothing."
                refuse(f"InstancePaste: {name}", "at least 1", getattr(self, name), remedy)

    def __call__(self, scan: Scan, other: Scan, rng: Generator) -> Scan:
        _need_labels("InstancePaste", scan)
        candidates = self._instances(other)
        rng.shuffle(candidates)
        result = scan
        for rows in candidates[: int(rng.integers(1, self.max_instances + 1))]:
            placed = self._placed(result, replace(other.take(rows), pose=None), rng)
            if placed is not None:
                result = result.concat(_renumbered(placed, result))
        return result

    def _instances(self, other: Scan) -> list[npt.NDArray[np.int64]]:
        """Rows of each instance of the wanted classes, in order of class and id."""
        labels = _need_labels("InstancePaste", other)
        if other.instances is None:
            refuse(
                "InstancePaste: other",
                "a scan with instances",
                f"{other!r}",
                "Use a data set that has instance ids, or PolarMix, which needs none.",
            )
        is_wanted = np.isin(labels, np.asarray(self.classes)) & (other.instances != 0)
        rows = np.flatnonzero(is_wanted)
        keys = np.stack([labels[rows], other.instances[rows]], axis=1)
        _, which, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        which = which.reshape(-1)
        large = np.flatnonzero(counts >= self.min_points)
        return [rows[which == instance] for instance in large]

    def _placed(self, scan: Scan, thing: Scan, rng: Generator) -> Scan | None:
        is_ground = np.isin(_need_labels("InstancePaste", scan), np.asarray(self.ground))
        for _ in range(self.attempts):
            turned = thing.transformed(rotation_z(rng.uniform(0.0, 2 * np.pi)))
            low, high = turned.xyz.min(axis=0), turned.xyz.max(axis=0)
            centre = (low + high) / 2
            offset = np.abs(scan.xyz[:, :2] - centre[:2])
            is_near = (offset <= self.radius_m).all(axis=1) & is_ground
            if not is_near.any():
                continue
            shift = np.float32(np.median(scan.xyz[is_near, 2]) - low[2])
            half = (high - low)[:2] / 2
            is_inside = (offset <= half).all(axis=1) & ~is_ground
            heights = scan.xyz[is_inside, 2]
            if ((heights >= low[2] + shift) & (heights <= high[2] + shift)).any():
                continue
            step = np.array([0.0, 0.0, shift], np.float32)
            return replace(turned, xyz=turned.xyz + step)
        return None


def _sector(scan: Scan, start: float) -> Mask:
    """Points whose azimuth lies in the half circle that begins at ``start`` radians."""
    azimuth = np.arctan2(scan.xyz[:, 1], scan.xyz[:, 0])
    return np.asarray(np.mod(azimuth - start, 2 * np.pi) < np.pi)


def _renumbered(scan: Scan, after: Scan) -> Scan:
    """The scan with instance ids past those of ``after``; 0 stays 0."""
    if scan.instances is None or after.instances is None or not len(after):
        return scan
    shifted = scan.instances + after.instances.max()
    return replace(scan, instances=np.where(scan.instances == 0, 0, shifted).astype(np.int32))


def _need_labels(function: str, scan: Scan) -> npt.NDArray[np.int64]:
    if scan.labels is None:
        remedy = "Mix labelled scans, or use LaserMix, which needs no labels."
        refuse(f"{function}: scan", "labelled", f"{scan!r}", remedy)
    return scan.labels
