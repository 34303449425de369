# SPDX-License-Identifier: MIT
"""What stands at the kerb: lamps, posts, signs, bins, boxes."""

from __future__ import annotations

import numpy as np

from torchsparse_lite.data.simulate.materials import ClassId, Material
from torchsparse_lite.data.simulate.shapes import Floats, Mesh, box, join, loft, tube

__all__ = ["bollard", "clutter", "lamp", "sign"]


def lamp(rng: np.random.Generator) -> Mesh:
    """A street lamp whose arm reaches towards -y."""
    height, radius = rng.uniform(4.5, 8.0), rng.uniform(0.06, 0.11)
    arm = rng.uniform(0.6, 1.8)
    foot = tube([(0, 0, -0.3), (0, 0, 1.0)], 1.4 * radius, 9)
    mast = tube([(0, 0, 1.0), (0, 0, height)], [radius, 0.6 * radius], 9)
    head = box((0.25, 0.6, 0.12), (0, -arm, height))
    bar = tube([(0, 0, height), (0, -arm, height)], 0.04, 6)
    material = Material.METAL if rng.random() < 0.7 else Material.WOOD
    body = Mesh.of(np.concatenate([foot, mast, bar, head]), material, rng.uniform(0.6, 1.6))
    return body.labelled(ClassId.POLE)


def sign(rng: np.random.Generator) -> Mesh:
    """A post with one or two plates that look towards -x."""
    height = rng.uniform(2.0, 2.7)
    post = Mesh.of(tube([(0, 0, -0.3), (0, 0, height)], 0.035, 8), Material.METAL)
    plates = []
    for level in range(int(rng.integers(1, 3))):
        z = height - 0.32 - 0.7 * level
        corners = (3, 8, 20, 4)[rng.integers(4)]
        plate = _plate(corners, rng.uniform(0.3, 0.42))
        plates.append(plate + np.array([0.0, 0.0, z]))
    face = Mesh.of(np.concatenate(plates), Material.REFLECTOR, rng.uniform(0.7, 1.1))
    return join([post.labelled(ClassId.POLE), face.labelled(ClassId.TRAFFIC_SIGN)])


def _plate(corners: int, radius: float) -> Floats:
    """A regular polygon across x, just in front of its post; an odd one stands on a side."""
    turn = np.pi / 2 if corners % 2 else np.pi / corners
    angle = np.arange(corners) * (2 * np.pi / corners) + turn
    y, z = radius * np.cos(angle), radius * np.sin(angle)
    return loft(np.stack([np.stack([0.0 * y + x, y, z], 1) for x in (-0.05, -0.07)]))


def bollard(rng: np.random.Generator) -> Mesh:
    """A short post."""
    post = tube([(0, 0, -0.2), (0, 0, rng.uniform(0.7, 1.1))], rng.uniform(0.05, 0.09), 8)
    return Mesh.of(post, Material.METAL, 1.3).labelled(ClassId.POLE)


def clutter(rng: np.random.Generator) -> Mesh:
    """A waste bin, a cabinet or a stack of boxes."""
    size = rng.uniform([0.4, 0.4, 0.8], [1.1, 0.7, 1.3])
    material = Material.PLASTER if rng.random() < 0.5 else Material.METAL
    body = Mesh.of(box(size.tolist(), (0, 0, size[2] / 2)), material)
    lid = Mesh.of(box((1.08 * size[0], 1.08 * size[1], 0.06), (0, 0, size[2])), material)
    return join([body, lid]).labelled(ClassId.OTHER_OBJECT)
