# SPDX-License-Identifier: MIT
"""Persons, walking, standing or riding, facing +x, standing on z = 0."""

from __future__ import annotations

import numpy as np

from torchsparse_lite.data.simulate.materials import Material
from torchsparse_lite.data.simulate.shapes import Mesh, Point, box, ellipsoid, join, tube
from torchsparse_lite.data.simulate.vehicles import bicycle, motorcycle

__all__ = ["STRIDE_M", "bicyclist", "motorcyclist", "person"]

STRIDE_M = 1.5
"""Metres of way after which a walker's legs are where they were."""


def _limb(path: list[Point], thick: float, thin: float, albedo: float) -> Mesh:
    radii = np.linspace(thick, thin, len(path))
    return Mesh.of(tube(path, radii.tolist(), 7), Material.CLOTH, albedo)


def _torso(hip: Point, neck: Point, width: float, albedo: float) -> Mesh:
    """From hip to neck, flat from front to back, widest at the shoulders."""
    (x0, _, z0), (x1, _, z1) = hip, neck
    shape = [(0.0, 0.75), (0.35, 0.8), (0.75, 1.0), (0.93, 0.8), (1.0, 0.3)]
    path = [(x0 + t * (x1 - x0), 0.0, z0 + t * (z1 - z0)) for t, _ in shape]
    body = tube(path, [part * width / 2 for _, part in shape], 9)
    middle = (x0 + x1) / 2
    body[..., 0] = middle + (body[..., 0] - middle) * (0.62 if abs(x1 - x0) < 0.2 else 0.8)
    return Mesh.of(body, Material.CLOTH, albedo)


def _head(x: float, z: float, *, has_helmet: bool, size: float = 1.0) -> Mesh:
    if has_helmet:
        skull = ellipsoid((x, 0, z), (0.15 * size, 0.13 * size, 0.15 * size))
        return Mesh.of(skull, Material.PAINT, 1.5)
    skull = ellipsoid((x, 0, z), (0.105 * size, 0.085 * size, 0.13 * size))
    return Mesh.of(skull, Material.SKIN)


def person(rng: np.random.Generator, phase: float = 0.0, *, is_walking: bool = True) -> Mesh:
    """Legs, torso, arms and head; some carry a bag, some are children.

    Args:
        rng: decides figure, clothes and bag, the same for every phase.
        phase: of the step, in turns.
        is_walking: legs and arms swing.
    """
    height = rng.uniform(1.56, 1.9) if rng.random() < 0.88 else rng.uniform(1.05, 1.5)
    girth = rng.uniform(0.9, 1.25)
    coat, trousers, bag = rng.uniform(0.3, 1.6), rng.uniform(0.2, 1.3), rng.random()
    swing = 0.38 * np.sin(2 * np.pi * phase) if is_walking else 0.04
    hip, knee = 0.92, 0.5
    parts = [_torso((0, 0, 0.86), (0.02, 0, 1.5), 0.44 * girth, coat)]
    for side, angle in ((-1, swing), (1, -swing)):
        y = 0.1 * side
        step = hip * np.sin(angle)
        bend = 0.06 + 0.12 * max(0.0, -angle)
        ankle: Point = (step - bend, y, 0.08)
        parts.append(
            _limb([(0, y, hip), (step / 2 + 0.03, y, knee), ankle], 0.095 * girth, 0.055, trousers)
        )
        shoe = box((0.26, 0.1, 0.09), (step - bend + 0.06, y, 0.05))
        parts.append(Mesh.of(shoe, Material.TYRE, 2.0))
        hand = -0.7 * step
        arm: list[Point] = [(0, 0.25 * side * girth, 1.42), (hand / 3, 0.29 * side * girth, 1.15)]
        parts.append(_limb([*arm, (hand, 0.27 * side * girth, 0.88)], 0.06, 0.04, coat))
    parts.append(Mesh.of(tube([(0.02, 0, 1.48), (0.03, 0, 1.56)], 0.06), Material.SKIN))
    parts.append(_head(0.04, 1.66, has_helmet=False))
    if bag < 0.3:
        parts.append(Mesh.of(box((0.18, 0.32, 0.42), (-0.19, 0, 1.22)), Material.CLOTH, 0.6))
    elif bag < 0.5:
        parts.append(Mesh.of(box((0.34, 0.12, 0.3), (0, 0.36, 0.62)), Material.CLOTH, 1.2))
    size = height / 1.79
    return join(parts).scaled(size, size, size)


def _rider(
    saddle: Point, grip: Point, foot: Point, *, lean: float, has_helmet: bool, coat: float
) -> Mesh:
    """A seated figure that reaches forward to the grips."""
    sx, _, sz = saddle
    neck = (sx + lean, 0.0, sz + 0.56)
    parts = [_torso((sx, 0, sz), neck, 0.44, coat)]
    for side in (-1, 1):
        lift = 0.12 * side
        knee: Point = (sx + 0.42, 0.13 * side, sz - 0.12 + lift / 2)
        ankle: Point = (foot[0], 0.13 * side, foot[2] + lift)
        parts.append(_limb([(sx, 0.1 * side, sz), knee, ankle], 0.095, 0.055, 0.6))
        shoe = box((0.26, 0.1, 0.08), (foot[0] + 0.07, 0.13 * side, foot[2] + lift - 0.04))
        parts.append(Mesh.of(shoe, Material.TYRE, 2.0))
        elbow: Point = ((neck[0] + grip[0]) / 2 - 0.02, 0.28 * side, (neck[2] + grip[2]) / 2 - 0.1)
        shoulder: Point = (neck[0], 0.2 * side, neck[2] - 0.06)
        parts.append(_limb([shoulder, elbow, (grip[0], grip[1] * side, grip[2])], 0.06, 0.04, coat))
    parts.append(_head(neck[0] + 0.05, neck[2] + 0.18, has_helmet=has_helmet))
    return join(parts)


def bicyclist(rng: np.random.Generator) -> Mesh:
    """A rider on a bicycle; the data set gives both one class."""
    bike = bicycle(rng)
    rider = _rider(
        (-0.26, 0, 0.96),
        (0.33, 0.27, 1.03),
        (0.0, 0, 0.3),
        lean=rng.uniform(0.12, 0.36),
        has_helmet=bool(rng.random() < 0.5),
        coat=rng.uniform(0.3, 1.6),
    )
    return join([bike, rider])


def motorcyclist(rng: np.random.Generator) -> Mesh:
    """A rider with helmet on a motorcycle."""
    bike = motorcycle(rng)
    rider = _rider(
        (-0.3, 0, 0.85),
        (0.36, 0.34, 1.02),
        (-0.02, 0, 0.3),
        lean=rng.uniform(0.08, 0.3),
        has_helmet=True,
        coat=rng.uniform(0.3, 1.0),
    )
    return join([bike, rider])
