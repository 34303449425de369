# SPDX-License-Identifier: MIT
"""Buildings with facades, and fences. A front lies along x at y = 0 and looks towards -y."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from torchsparse_lite.data.simulate.materials import Material
from torchsparse_lite.data.simulate.shapes import Floats, Mesh, box, join, loft, panels, quads, tube

__all__ = ["fence", "house"]

_STOREY_M = 2.9


def _wall(start: Floats, stop: Floats, low: float, high: float) -> Floats:
    """(4, 3) an upright wall between two (x, y) points, seen from the right of start -> stop."""
    a, b = start, stop
    return np.array([(*a, low), (*b, low), (*b, high), (*a, high)])


def _facade(
    rng: np.random.Generator,
    start: Floats,
    stop: Floats,
    *,
    storeys: int,
    foot: float,
    is_front: bool,
) -> list[Mesh]:
    """Bays of windows, a door, balconies; walls of bays are the parts."""
    length = float(np.linalg.norm(stop - start))
    bays = max(1, round(length / rng.uniform(2.4, 3.6)))
    at = [start + (stop - start) * (i / bays) for i in range(bays + 1)]
    wall = Material.BRICK if rng.random() < 0.3 else Material.PLASTER
    tone = rng.uniform(0.75, 1.25)
    window = (0.26, 0.26, 0.3, 0.16)
    depth = rng.uniform(0.1, 0.28)
    door = int(rng.integers(bays)) if is_front else -1
    blind = 0.1 if is_front else 0.55  # bays without a window
    opened: list[Floats] = []
    closed: list[Floats] = []
    doors: list[Floats] = []
    shop: list[Floats] = []
    has_shop = is_front and rng.random() < 0.15
    for level in range(storeys):
        low, high = foot + level * _STOREY_M, foot + (level + 1) * _STOREY_M
        for bay in range(bays):
            corners = _wall(at[bay], at[bay + 1], low, high)
            if level == 0 and bay == door:
                doors.append(corners)
            elif level == 0 and has_shop:
                shop.append(corners)
            else:
                (closed if rng.random() < blind else opened).append(corners)
    plinth = np.array([_wall(start, stop, foot - 1.5, foot)])
    meshes = [
        Mesh.of(
            quads(np.concatenate([plinth, *([np.array(closed)] if closed else [])])), wall, tone
        )
    ]
    kinds = (
        (opened, window, depth, Material.WINDOW),
        (shop, (0.06, 0.06, 0.15, 0.15), 0.15, Material.WINDOW),
    )
    for group, margins, recess, inner in (
        *kinds,
        (doors, (0.25, 0.25, 0.0, 0.22), 0.3, Material.WOOD),
    ):
        if group:
            frame, face = panels(np.array(group), margins, recess)
            meshes += [Mesh.of(frame, wall, tone), Mesh.of(face, inner)]
    return meshes


def _relief(rng: np.random.Generator, width: float, storeys: int, foot: float) -> list[Mesh]:
    """What stands out of a front: balconies, a bay, a cornice, sills, a downpipe, steps."""
    meshes = []
    if rng.random() < 0.55:
        for level in range(storeys if rng.random() < 0.5 else 1, storeys + 1):
            z = foot + max(1, level - 1) * _STOREY_M
            x = rng.uniform(0.25, 0.75) * width
            slab = box((2.6, 1.2, 0.15), (x, -0.6, z))
            rails = [box((2.6, 0.05, 0.08), (x, -1.18, z + h)) for h in (0.35, 0.6, 0.95)]
            bars = [
                box((0.04, 0.04, 0.9), (x + dx, -1.18, z + 0.5))
                for dx in np.linspace(-1.25, 1.25, 9)
            ]
            meshes += [
                Mesh.of(slab, Material.PLASTER),
                Mesh.of(np.concatenate([*rails, *bars]), Material.METAL),
            ]
    if rng.random() < 0.4:
        x, wide, out = rng.uniform(0.3, 0.7) * width, rng.uniform(1.8, 3.4), rng.uniform(0.4, 1.3)
        left, right = x - wide / 2, x + wide / 2
        bay = ((left, 0.0), (left + 0.3, -out), (right - 0.3, -out), (right, 0.0))
        for a, b in pairwise(np.array(bay)):
            meshes += _facade(rng, a, b, storeys=1, foot=foot, is_front=False)
    for level in range(1, storeys + 1):
        cornice = box((width, 0.16, 0.18), (width / 2, -0.08, foot + level * _STOREY_M))
        meshes.append(Mesh.of(cornice, Material.PLASTER, 1.1))
    for x in (0.1, width - 0.1):
        pipe = tube([(x, -0.08, foot - 0.5), (x, -0.08, foot + storeys * _STOREY_M)], 0.06)
        meshes.append(Mesh.of(pipe, Material.METAL))
    if rng.random() < 0.5:
        x = rng.uniform(0.2, 0.8) * width
        steps = [
            box((1.4, 0.35, 0.18 * n), (x, -0.2 - 0.33 * (3 - n), foot - 0.5 + 0.09 * n))
            for n in (1, 2, 3)
        ]
        meshes.append(Mesh.of(np.concatenate(steps), Material.PAVING))
    return meshes


def _roof(width: float, depth: float, eaves: float, rise: float) -> Floats:
    """A gable roof with its ridge along x and eaves that overhang."""
    over = 0.5
    sections = [
        [(x, -over, eaves - 0.1), (x, depth / 2, eaves + rise), (x, depth + over, eaves - 0.1)]
        for x in (-0.2, width + 0.2)
    ]
    return loft(np.array(sections))


def house(rng: np.random.Generator, width: float, depth: float, storeys: int) -> Mesh:
    """A building on [0, width] x [0, depth] whose four walls have windows.

    Args:
        rng: bays, doors, relief, colours.
        width: of the front, along x, metres.
        depth: away from the street, along y, metres.
        storeys: above ground.
    """
    foot = rng.uniform(0.1, 0.7)
    ground = [np.array(p) for p in ((0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth))]
    meshes = _relief(rng, width, storeys, foot)
    for side in range(4):
        meshes += _facade(
            rng,
            ground[side],
            ground[(side + 1) % 4],
            storeys=storeys,
            foot=foot,
            is_front=side == 0,
        )
    eaves = foot + storeys * _STOREY_M
    meshes.append(
        Mesh.of(_roof(width, depth, eaves, rng.uniform(0.2, 0.45) * depth), Material.ROOF)
    )
    return join(meshes)


def fence(rng: np.random.Generator, length: float) -> Mesh:
    """Along x from 0: pickets, boards, rails or a wall of posts and slats; 0.8 to 1.9 m high."""
    height, kind = rng.uniform(0.8, 1.9), rng.choice(3, p=[0.5, 0.3, 0.2])
    posts = np.arange(0.0, length + 0.1, min(2.4, max(length, 0.5)))
    bars = [box((0.1, 0.1, height + 0.4), (x, 0, height / 2 - 0.15)) for x in posts]
    if kind == 0:  # pickets with gaps between them
        step = rng.uniform(0.12, 0.18)
        wide = rng.uniform(0.6, 0.8) * step
        x = np.arange(step, length, step)
        one = box((wide, 0.03, height), (0, -0.04, height / 2 + 0.05))
        bars.append((one + np.stack([x, 0 * x, 0 * x], 1)[:, None, None]).reshape(-1, 3, 3))
    elif kind == 1:  # boards
        bars.append(box((length, 0.04, height), (length / 2, 0, height / 2 + 0.03)))
    levels = np.arange(0.15, height, 0.18 if kind == 2 else height - 0.3)
    bars += [box((length, 0.05, 0.09 if kind == 2 else 0.06), (length / 2, 0, z)) for z in levels]
    material = Material.METAL if kind == 2 and rng.random() < 0.6 else Material.WOOD
    return Mesh.of(np.concatenate(bars), material, rng.uniform(0.6, 1.2))
