# SPDX-License-Identifier: MIT
"""Trees, hedges and bushes: leaves that hang free, so that rays enter before they meet one.

A ray through leaves of area density ``a`` (m2 per m3, random attitude) goes ``2 / a`` metres on
average. The mean triangle of :func:`leaves` has about a quarter of its edge squared as area.
"""

from __future__ import annotations

import numpy as np

from torchsparse_lite.data.simulate.materials import ClassId, Material
from torchsparse_lite.data.simulate.shapes import Floats, Mesh, join, leaves, tube

__all__ = ["bush", "hedge", "tree"]


def _count(volume: float, edge: float, free_path_m: float) -> int:
    """Leaves that give a volume this mean free path."""
    return max(8, int(volume * 2.0 / free_path_m / (0.25 * edge**2)))


def _in_ball(rng: np.random.Generator, count: int, *, hollow: float) -> Floats:
    """(count, 3) points of the unit ball, none nearer to the middle than ``hollow``."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(hollow**3, 1.0, (count, 1)) ** (1 / 3)
    return np.multiply(direction, radius, dtype=np.float64)


def _blob(rng: np.random.Generator, radii: Floats, *, edge: float, free_path_m: float) -> Floats:
    """Leaf centres of an ellipsoid with a ragged surface; deep inside there is nothing to see."""
    hollow = max(0.0, 1.0 - 4.0 * free_path_m / float(radii.min()))
    volume = 4.19 * float(radii.prod()) * (1 - hollow**3)
    points = _in_ball(rng, _count(volume, edge, free_path_m), hollow=hollow)
    wave = rng.normal(0.0, 3.0, (3, 3))
    ragged = 1.0 + 0.12 * np.sin(points @ wave).sum(1, keepdims=True)
    return np.asarray(points * radii * ragged, np.float64)


def tree(rng: np.random.Generator, leaf_m: float = 0.45) -> Mesh:
    """A trunk with boughs (class trunk) and a crown of some blobs of leaves (class vegetation).

    Args:
        rng: decides everything.
        leaf_m: size of a leaf; twice as large takes a quarter of the triangles.
    """
    bole, girth = rng.uniform(0.8, 2.4), rng.uniform(0.08, 0.24)
    spread, height = rng.uniform(1.6, 3.8), rng.uniform(2.0, 5.0)
    lean = rng.normal(0.0, 0.12, 2)
    top = (lean[0], lean[1], bole + 0.5 * height)
    foot = (0.0, 0.0, -0.4)
    wood = [tube([foot, (0.0, 0.0, 0.25), top], [1.5 * girth, girth, 0.45 * girth], 9)]
    blobs = []
    for _ in range(int(rng.integers(3, 7))):
        angle, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7) * spread
        middle = np.array(
            [out * np.cos(angle), out * np.sin(angle), bole + rng.uniform(0.2, 0.8) * height]
        )
        fork = (0.5 * lean[0], 0.5 * lean[1], bole * rng.uniform(0.7, 1.0))
        wood.append(tube([fork, tuple(middle)], [0.5 * girth, 0.2 * girth], 5))
        radii = rng.uniform(0.45, 0.75, 3) * [spread, spread, 0.6 * height]
        blobs.append(middle + _blob(rng, radii, edge=leaf_m, free_path_m=rng.uniform(0.6, 1.8)))
    centres = np.concatenate(blobs)
    centres = centres[centres[:, 2] > 0.7 * bole]
    crown = Mesh.of(leaves(rng, centres, leaf_m), Material.LEAF, rng.uniform(0.8, 1.15))
    bark = Mesh.of(np.concatenate(wood), Material.BARK, rng.uniform(0.75, 1.2))
    return join([bark.labelled(ClassId.TRUNK), crown.labelled(ClassId.VEGETATION)])


def bush(rng: np.random.Generator, leaf_m: float = 0.36) -> Mesh:
    """Some low blobs side by side, of leaves of one size."""
    size = rng.uniform(0.5, 1.8)
    blobs = []
    for _ in range(int(rng.integers(2, 5))):
        radii = size * rng.uniform([0.5, 0.5, 0.6], [1.1, 1.1, 1.3])
        middle = np.array([*rng.normal(0.0, 0.5 * size, 2), 0.6 * radii[2]])
        blobs.append(middle + _blob(rng, radii, edge=leaf_m, free_path_m=rng.uniform(0.15, 0.4)))
    centres = np.concatenate(blobs)
    crown = Mesh.of(
        leaves(rng, centres[centres[:, 2] > 0], leaf_m), Material.LEAF, rng.uniform(0.8, 1.15)
    )
    return crown.labelled(ClassId.VEGETATION)


def hedge(rng: np.random.Generator, length: float) -> Mesh:
    """Clipped, along x from 0, about y = 0: a shell of leaves with an uneven surface."""
    height, width, edge = rng.uniform(0.8, 1.8), rng.uniform(0.6, 1.3), 0.31
    path = rng.uniform(0.08, 0.2)
    shell = min(4 * path, width / 2)
    volume = length * (2 * height * shell + (width - 2 * shell) * shell)
    count = _count(volume, edge, path)
    x = rng.uniform(0, length, count)
    deep = shell * rng.random(count) ** 1.3
    is_top = rng.random(count) < 0.2 * width / height
    side = rng.choice([-1.0, 1.0], count)
    y = np.where(is_top, rng.uniform(-0.5, 0.5, count) * width, side * (width / 2 - deep))
    z = np.where(is_top, height - deep, rng.uniform(0.0, height, count))
    wave = rng.uniform(0, 2 * np.pi, 4)
    swell = (
        np.sin(1.7 * x + wave[0]) + np.sin(2.9 * z + 0.9 * x + wave[1]) + np.sin(5.1 * x + wave[2])
    )
    centres = np.stack([x, y * (1 + 0.09 * swell), z * (1 + 0.03 * swell)], 1)
    body = Mesh.of(leaves(rng, centres, edge), Material.LEAF, rng.uniform(0.8, 1.15))
    return body.labelled(ClassId.VEGETATION)
