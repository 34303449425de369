# SPDX-License-Identifier: MIT
"""A street of boxes, ray-cast with numpy alone: a scan to measure with where nothing else is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["scan_boxes"]

Points = npt.NDArray[np.float32]


def scan_boxes(seed: int = 0, *, beams: int = 64, columns: int = 2048) -> Points:
    """A scan of a street: ground, two rows of houses, hedges, parked cars, poles.

    Rays from a sensor 1.73 m above the ground meet boxes that stand on it (slab test). Rays enter
    hedges a little way, surfaces are rough by 2 cm, and every eighth ray returns from a twig on its
    way, so that the voxels have about as many neighbours as those of a real scan.

    Args:
        seed: of the street and the noise.
        beams: elevation angles from -24.8 to 2 degrees.
        columns: azimuth steps.

    Returns:
        (N, 4) float32 x, y, z in metres and a remission.
    """
    rng = np.random.default_rng(seed)
    height = 1.73
    elevation = np.deg2rad(np.linspace(-24.8, 2.0, beams))
    azimuth = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    up, around = (grid.ravel() for grid in np.meshgrid(elevation, azimuth, indexing="ij"))
    ray = np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], axis=1)
    low, high, is_hedge = _street(rng)
    origin = np.array([0.0, 0.0, height])
    with np.errstate(divide="ignore"):
        ground = np.where(ray[:, 2] < 0, -height / ray[:, 2], np.inf)
        distance, remission = ground, np.full(len(ray), 0.3)
        for box, (corner_low, corner_high) in enumerate(zip(low, high, strict=True)):
            first, second = (corner_low - origin) / ray, (corner_high - origin) / ray
            enter = np.minimum(first, second).max(1)
            leave = np.maximum(first, second).min(1)
            if is_hedge[box]:
                enter = enter + rng.exponential(0.6, len(ray))
            hit = np.where((enter <= leave) & (enter > 0), enter, np.inf)
            remission = np.where(hit < distance, 0.1 + 0.8 * (box % 7) / 7, remission)
            distance = np.minimum(distance, hit)
    is_twig = (rng.random(len(ray)) < 0.125) & (up > -0.1)
    distance = np.where(is_twig, np.minimum(distance, rng.uniform(8, 40, len(ray))), distance)
    seen = (distance > 2.0) & (distance < 80.0)
    points = origin + ray[seen] * distance[seen, None]
    points = points + rng.normal(0.0, 0.02, points.shape)
    return np.concatenate([points, remission[seen, None]], axis=1).astype(np.float32)


def _street(
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Lower and upper corners of the boxes, (B, 3) each, and which of them are hedges."""
    boxes, hedges = [], []
    for side in (-1.0, 1.0):
        x = -80.0
        while x < 80.0:
            width = rng.uniform(8, 16)
            front = side * rng.uniform(9, 12)
            near, far = sorted((front, front + side * 10))
            boxes.append((x, near, 0.0, x + width, far, rng.uniform(5, 12)))
            x += width + rng.uniform(0, 3)
        for _ in range(8):
            x, y = rng.uniform(-70, 70), side * rng.uniform(6.5, 8.0)
            hedges.append((x, y - 0.8, 0.0, x + rng.uniform(4, 14), y + 0.8, rng.uniform(1, 4)))
        for _ in range(12):
            x, y = rng.uniform(-60, 60), side * rng.uniform(4.5, 5.5)
            boxes.append((x, y - 0.9, 0.0, x + 4.2, y + 0.9, rng.uniform(1.4, 1.9)))
        for x in np.arange(-70.0, 70.0, 18.0):
            y = side * 7.5
            boxes.append((x, y - 0.1, 0.0, x + 0.2, y + 0.1, 6.0))
    corners = np.array(boxes + hedges)
    return corners[:, :3], corners[:, 3:], np.arange(len(corners)) >= len(boxes)
