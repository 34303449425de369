# SPDX-License-Identifier: MIT
"""What stands at the kerb: lamps, posts, signs, bins, boxes."""

from __future__ import annotations

import numpy as np

from torchsparse_lite.data.simulate.materials import ClassId, Material
from torchsparse_lite.data.simulate.shapes import Mesh, box, join, tube

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
        x, kind = -0.05, rng.integers(4)
        if kind == 3:
            plates.append(box((0.02, 0.55, 0.4), (x, 0, z)))
        else:
            corners = (3, 8, 20)[kind]
            plates.append(tube([(x, 0, z), (x - 0.02, 0, z)], rng.uniform(0.3, 0.42), corners))
    plate = Mesh.of(np.concatenate(plates), Material.REFLECTOR, rng.uniform(0.7, 1.1))
    return join([post.labelled(ClassId.POLE), plate.labelled(ClassId.TRAFFIC_SIGN)])


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
