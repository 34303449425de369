# SPDX-License-Identifier: MIT
"""Float64 reference for points: sampling, neighbours, dense grids. Imports nothing of the product.

Everything is a loop over single points in numpy float64. ``batch`` is a list of cloud numbers, one
per point; ``xyz`` is (n, 3).
"""

from __future__ import annotations

import itertools

import numpy as np


def squared(a, b) -> float:
    """Squared distance of two positions."""
    return float(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))


def rows_of(batch, cloud) -> list[int]:
    return [row for row, number in enumerate(batch) if number == cloud]


def furthest(xyz, batch, wanted) -> list[int]:
    """``wanted[c]`` rows of cloud c: the first, then the one whose nearest chosen is furthest."""
    chosen = []
    for cloud, count in enumerate(wanted):
        rows = rows_of(batch, cloud)
        mine = rows[:1] if count else []
        while len(mine) < count:
            left = [row for row in rows if row not in mine]
            gaps = [min(squared(xyz[row], xyz[other]) for other in mine) for row in left]
            mine.append(left[gaps.index(max(gaps))])
        chosen += mine
    return chosen


def ball(xyz, batch, centers, center_batch, *, radius, count) -> list[list[int]]:
    """The first ``count`` rows nearer than ``radius``, filled up with the first, or with -1."""
    result = []
    for center, cloud in zip(centers, center_batch, strict=True):
        inside = [r for r in rows_of(batch, cloud) if squared(xyz[r], center) < radius**2]
        found = inside[:count]
        result.append(found + (found[:1] or [-1]) * (count - len(found)))
    return result


def nearest(xyz, batch, queries, query_batch, k) -> tuple[list[list[int]], list[list[float]]]:
    """Rows and squared distances, sorted by distance and row."""
    index, distance = [], []
    for query, cloud in zip(queries, query_batch, strict=True):
        found = sorted((squared(xyz[r], query), r) for r in rows_of(batch, cloud))[:k]
        found += [(float("inf"), -1)] * (k - len(found))
        index.append([row for _, row in found])
        distance.append([d for d, _ in found])
    return index, distance


def interpolated(xyz, batch, feats, queries, query_batch, *, k=3, eps=1e-8) -> np.ndarray:
    """Mean of the nearest, weighted with 1 / (squared distance + eps)."""
    index, distance = nearest(xyz, batch, queries, query_batch, k)
    out = np.zeros((len(queries), feats.shape[1]))
    for row, (near, far) in enumerate(zip(index, distance, strict=True)):
        weights = [1 / (d + eps) if r >= 0 else 0.0 for r, d in zip(near, far, strict=True)]
        for neighbor, weight in zip(near, weights, strict=True):
            if neighbor >= 0:
                out[row] += weight / sum(weights) * feats[neighbor]
    return out


def grid_positions(xyz, batch, resolution, *, normalize) -> np.ndarray:
    """(n, 3) in cells: each cloud around its mean, scaled by its radius or spanning -1 to 1."""
    xyz = np.asarray(xyz, np.float64)
    position = np.zeros((len(xyz), 3))
    for cloud in set(batch):
        rows = rows_of(batch, cloud)
        centred = xyz[rows] - xyz[rows].mean(0)
        if normalize:
            radius = max(np.sqrt((p**2).sum()) for p in centred)
            centred = centred / (2 * radius) if radius else 0 * centred
            position[rows] = centred + 0.5
        else:
            position[rows] = (centred + 1) / 2
    return np.clip(position * resolution, 0, resolution - 1)


def voxel_means(position, batch, feats, resolution) -> dict[tuple[int, ...], np.ndarray]:
    """Mean of the points of each occupied cell, by (cloud, x, y, z); nearest cell, half to even."""
    members: dict[tuple[int, ...], list[int]] = {}
    for row, cloud in enumerate(batch):
        cell = (cloud, *(int(np.round(p)) for p in position[row]))
        members.setdefault(cell, []).append(row)
    return {cell: np.mean([feats[row] for row in rows], axis=0) for cell, rows in members.items()}


def trilinear(position, batch, grid) -> np.ndarray:
    """Value at every point; ``grid[cloud]`` is (C, R, R, R)."""
    out = []
    for row, cloud in enumerate(batch):
        low = np.floor(position[row]).astype(int)
        total = 0.0
        for corner in itertools.product((0, 1), repeat=3):
            weight = 1.0
            for p, base, upper in zip(position[row], low, corner, strict=True):
                weight *= (p - base) if upper else 1 - (p - base)
            if weight:
                x, y, z = low + corner
                total = total + weight * grid[cloud][:, x, y, z]
        out.append(total)
    return np.array(out)
