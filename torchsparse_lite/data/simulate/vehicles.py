# SPDX-License-Identifier: MIT
"""Cars, vans, trucks, buses, trailers and two-wheelers, facing +x, standing on z = 0."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from torchsparse_lite.data.simulate.materials import Material
from torchsparse_lite.data.simulate.shapes import (
    Floats,
    Mesh,
    Point,
    box,
    extrude,
    frustum,
    join,
    loft,
    panels,
    ring,
    tube,
)

__all__ = ["bicycle", "bus", "car", "motorcycle", "trailer", "truck"]


def _wheel(x: float, y: float, radius: float, width: float) -> Mesh:
    """A wheel whose outer face is at ``y``; its inside is towards the middle of the car."""
    inner = y - np.sign(y) * width
    tyre = tube([(x, inner, radius), (x, y, radius)], radius, 14)
    hub = tube([(x, y, radius), (x, y + 0.01 * np.sign(y), radius)], 0.6 * radius, 10)
    return join([Mesh.of(tyre, Material.TYRE), Mesh.of(hub, Material.METAL, 1.3)])


def _cabin(bottom: Point, top: Point, paint: float) -> Mesh:
    """The part of a car above its belt line: a roof on pillars with glass between them."""
    (a0, a1, c0, c1, low), (b0, b1, d0, d1, high) = bottom, top
    lower = [(a0, c1), (a0, c0), (a1, c0), (a1, c1)]
    upper = [(b0, d1), (b0, d0), (b1, d0), (b1, d1)]
    walls = []
    for side in range(4):
        after = (side + 1) % 4
        walls.append(
            [(*lower[side], low), (*lower[after], low), (*upper[after], high), (*upper[side], high)]
        )
    across = np.array(walls)[[0, 2]]
    along = np.array(walls)[[1, 3]]
    split = (along[:, [0, 3]] + along[:, [1, 2]]) / 2  # the pillar between the doors
    front = np.stack([split[:, 0], along[:, 1], along[:, 2], split[:, 1]], 1)
    rear = np.stack([along[:, 0], split[:, 0], split[:, 1], along[:, 3]], 1)
    parts = [
        panels(across, (0.08, 0.08, 0.05, 0.1), 0.01),
        panels(np.concatenate([front, rear]), (0.07, 0.07, 0.04, 0.12), 0.01),
    ]
    roof = frustum(
        (b0, b1, d0, d1, high - 0.01), (b0 + 0.1, b1 - 0.1, d0 + 0.1, d1 - 0.1, high + 0.05)
    )
    frames = [Mesh.of(frame, Material.PAINT, paint) for frame, _ in parts]
    panes = [Mesh.of(pane, Material.GLASS) for _, pane in parts]
    return join([*frames, *panes, Mesh.of(roof, Material.PAINT, paint)])


def _hull(stations: Floats, sill: float) -> Floats:
    """A body's lower part: (S, 3) rows of x, half width and upper edge, above the sill."""
    sections = []
    for x, half, top in stations:
        outline = [(-0.92, sill), (-1, sill + 0.15), (-1, top - 0.12), (-0.88, top)]
        outline += [(-y, z) for y, z in reversed(outline)]
        sections.append([(x, half * y, z) for y, z in outline])
    return loft(np.array(sections))


def car(rng: np.random.Generator) -> Mesh:
    """A hatchback, saloon, estate car or small van of random measures and paint."""
    kind = rng.choice(4, p=[0.4, 0.25, 0.25, 0.1])
    length = (3.9, 4.6, 4.6, 4.9)[kind] * rng.uniform(0.94, 1.06)
    half = (0.84, 0.88, 0.88, 0.95)[kind] * rng.uniform(0.97, 1.04)
    height = (1.48, 1.44, 1.52, 1.95)[kind] * rng.uniform(0.97, 1.08)
    belt = height * rng.uniform(0.60, 0.64)
    paint = rng.uniform(0.3, 2.2)
    nose, tail = length / 2, -length / 2
    bonnet = 0.86 * belt
    base = nose - length * (0.27, 0.28, 0.26, 0.2)[kind]  # foot of the windscreen
    boot = tail + length * (0.05, 0.2, 0.03, 0.01)[kind]  # foot of the rear window
    deck = belt if kind != 1 else 0.95 * belt
    stations = np.array(
        [
            (tail, 0.86 * half, 0.6 * belt),
            (tail + 0.07, 0.95 * half, deck),
            (boot + 0.1, half, belt),
            (base, half, belt),
            (base + 0.05, half, belt),
            (nose - 0.35, 0.97 * half, bonnet),
            (nose - 0.06, 0.9 * half, 0.72 * belt),
            (nose, 0.8 * half, 0.55 * belt),
        ]
    )
    rake = (height - belt) * (1.2, 1.5, 1.3, 0.7)[kind]
    hatch = (height - belt) * (0.5, 1.2, 0.4, 0.1)[kind]
    cabin = _cabin(
        (boot, base, -0.93 * half, 0.93 * half, belt - 0.02),
        (boot + hatch, base - rake, -0.74 * half, 0.74 * half, height - 0.05),
        paint,
    )
    axle = (nose - 0.18 * length, tail + 0.2 * length)
    radius = rng.uniform(0.29, 0.34)
    wheels = [_wheel(x, y, radius, 0.2) for x in axle for y in (-half + 0.01, half - 0.01)]
    ears = [box((0.12, 0.2, 0.14), (base - 0.25, y * (half + 0.07), belt + 0.05)) for y in (-1, 1)]
    mirrors = [Mesh.of(ear, Material.PAINT, paint) for ear in ears]
    plates = [
        Mesh.of(box((0.02, 0.5, 0.11), (x, 0, z)), Material.REFLECTOR)
        for x, z in ((nose + 0.01, 0.42), (tail - 0.01, 0.5 * belt))
    ]
    lamps = [
        Mesh.of(
            box((0.06, 0.26, 0.13), (x, side * 0.66 * half, 0.62 * belt)), Material.REFLECTOR, 0.7
        )
        for x in (nose - 0.03, tail + 0.01)
        for side in (-1, 1)
    ]
    hull = Mesh.of(_hull(stations, 0.22), Material.PAINT, paint)
    return join([hull, cabin, *wheels, *mirrors, *plates, *lamps])


def truck(rng: np.random.Generator) -> Mesh:
    """A cab in front of a box body or an open load bed."""
    half = rng.uniform(1.1, 1.25)
    load, height = rng.uniform(3.2, 6.5), rng.uniform(2.6, 3.4)
    paint, cab_height = rng.uniform(0.6, 2.2), rng.uniform(2.2, 2.7)
    nose = (load + 2.0) / 2
    cab_tail = nose - 1.7
    hull = _hull(
        np.array(
            [(cab_tail, half * 0.96, 1.3), (nose - 0.1, half * 0.96, 1.3), (nose, half * 0.9, 1.2)]
        ),
        0.45,
    )
    cabin = _cabin(
        (cab_tail, nose - 0.03, -half * 0.94, half * 0.94, 1.25),
        (cab_tail, nose - 0.35, -half * 0.85, half * 0.85, cab_height),
        paint,
    )
    tail, middle = cab_tail - 0.15 - load, cab_tail - 0.15 - load / 2
    frame = Mesh.of(box((load, 0.9, 0.25), (middle, 0, 0.75)), Material.METAL)
    if rng.random() < 0.7:
        hold = box((load, 2 * half, height - 0.9), (middle, 0, (height + 0.9) / 2))
        body = [Mesh.of(hold, Material.PLASTER, rng.uniform(0.5, 1.2))]
    else:
        sides = (
            ((load, 2 * half, 0.12), (middle, 0, 0.95)),
            ((load, 0.06, 0.5), (middle, half, 1.2)),
            ((load, 0.06, 0.5), (middle, -half, 1.2)),
            ((0.06, 2 * half, 0.5), (tail, 0, 1.2)),
        )
        body = [Mesh.of(box(size, centre), Material.METAL) for size, centre in sides]
    axles = (nose - 0.7, tail + 0.25 * load, *([tail + 0.25 * load + 1.1] if load > 5 else []))
    wheels = [_wheel(x, y, 0.46, 0.28) for x in axles for y in (-half, half)]
    return join([Mesh.of(hull, Material.PAINT, paint), cabin, frame, *body, *wheels])


def _coach(length: float, half: float, height: float, paint: float) -> Mesh:
    """A long box with rows of windows."""
    bays = max(2, round(length / 1.5))
    x = np.linspace(-length / 2, length / 2, bays + 1)
    walls = []
    for side in (-1, 1):
        for a, b in pairwise(x):
            start, stop = (a, b) if side < 0 else (b, a)
            y = side * half
            walls.append([(start, y, 0.35), (stop, y, 0.35), (stop, y, height), (start, y, height)])
    for end in (-1, 1):
        a, e = end * half, end * length / 2
        walls.append([(e, -a, 0.35), (e, a, 0.35), (e, a, height), (e, -a, height)])
    frame, pane = panels(np.array(walls), (0.05, 0.05, 0.35, 0.15), 0.02)
    roof = box((length, 2 * half, 0.1), (0, 0, height))
    floor = box((length, 2 * half, 0.1), (0, 0, 0.4))
    skin = np.concatenate([frame, roof, floor])
    return join([Mesh.of(skin, Material.PAINT, paint), Mesh.of(pane, Material.GLASS)])


def bus(rng: np.random.Generator) -> Mesh:
    """A city bus."""
    length, half = rng.uniform(9.5, 12.0), 1.25
    wheels = [_wheel(x * length, y, 0.48, 0.28) for x in (0.3, -0.28) for y in (-half, half)]
    return join([_coach(length, half, rng.uniform(2.8, 3.1), rng.uniform(0.6, 2.0)), *wheels])


def trailer(rng: np.random.Generator) -> Mesh:
    """A caravan or a box trailer on one axle, with its drawbar."""
    length, half = rng.uniform(2.4, 5.0), rng.uniform(0.8, 1.1)
    bar = Mesh.of(tube([(length / 2, 0, 0.5), (length / 2 + 1.1, 0, 0.45)], 0.05), Material.METAL)
    wheels = [_wheel(-0.1 * length, y, 0.3, 0.18) for y in (-half - 0.02, half + 0.02)]
    if rng.random() < 0.6:
        body = _coach(length, half, rng.uniform(2.1, 2.5), rng.uniform(1.0, 2.4))
    else:
        height = rng.uniform(1.2, 1.9)
        outline = [
            (-length / 2, 0.45),
            (length / 2, 0.45),
            (length / 2, height),
            (-length / 2, height),
        ]
        body = Mesh.of(extrude(outline, -half, half), Material.WOOD)
    return join([body, bar, *wheels])


def bicycle(rng: np.random.Generator) -> Mesh:
    """Two wheels, a frame of tubes, a handlebar and a saddle."""
    paint = rng.uniform(0.5, 2.0)
    rear, front, radius = (-0.52, 0, 0.34), (0.54, 0, 0.34), 0.32
    crank, seat, head = (-0.08, 0, 0.3), (-0.24, 0, 0.78), (0.36, 0, 0.82)
    bars = [
        (rear, crank, seat, rear),
        (crank, (0.4, 0, 0.72)),
        (seat, head),
        (head, front),
        (seat, (-0.27, 0, 0.92)),
        (head, (0.32, 0, 1.0)),
        ((0.34, -0.29, 1.02), (0.34, 0.29, 1.02)),
    ]
    frame = [tube(pair, 0.022, 5) for bar in bars for pair in pairwise(bar)]
    saddle = box((0.26, 0.15, 0.06), (-0.28, 0, 0.94))
    wheels = [ring(centre, radius, 0.045) for centre in (rear, front)]
    spokes = [tube([(x, 0, 0.03), (x, 0, 0.65)], 0.012, 4) for x in (rear[0], front[0])]
    spokes += [
        tube([(x - 0.3, 0, 0.34), (x + 0.3, 0, 0.34)], 0.012, 4) for x in (rear[0], front[0])
    ]
    return join(
        [
            Mesh.of(np.concatenate([*frame, *spokes]), Material.METAL, paint),
            Mesh.of(np.concatenate([*wheels, saddle]), Material.TYRE, 2.0),
        ]
    ).scaled(1.0, 1.0, rng.uniform(0.95, 1.05))


def motorcycle(rng: np.random.Generator) -> Mesh:
    """Two thick wheels, engine, tank, bench, fork, exhaust; a scooter has a shield in front."""
    paint = rng.uniform(0.5, 2.2)
    is_scooter = rng.random() < 0.5
    front, rear = 0.66, -0.62
    wheels = [tube([(x, -0.06, 0.3), (x, 0.06, 0.3)], 0.3, 14) for x in (front, rear)]
    engine = box((0.6, 0.32, 0.4), (0.0, 0, 0.42))
    swell = ((-0.1, 0.78, 0.1, 0.06), (0.05, 0.82, 0.17, 0.13), (0.3, 0.82, 0.16, 0.13))
    tank = loft(
        np.array([_oval(x, 0, z, w, h) for x, z, w, h in (*swell, (0.42, 0.78, 0.08, 0.08))])
    )
    bench = frustum((-0.8, 0.0, -0.14, 0.14, 0.68), (-0.75, -0.02, -0.12, 0.12, 0.82))
    fork = [tube([(front, y, 0.3), (0.42, y, 0.95)], 0.035, 5) for y in (-0.1, 0.1)]
    handle = tube([(0.36, -0.37, 1.02), (0.42, 0, 0.96), (0.36, 0.37, 1.02)], 0.03, 5)
    exhaust = tube([(0.1, -0.2, 0.28), (-0.75, -0.22, 0.36)], 0.06, 6)
    lamp = box((0.12, 0.2, 0.18), (0.5, 0, 0.88))
    skin = [tank, bench, lamp]
    if is_scooter:
        shield = [(0.35, 0.3), (0.45, 0.3), (0.5, 1.0), (0.42, 1.0)]
        skin += [extrude(shield, -0.22, 0.22), box((0.6, 0.34, 0.4), (-0.45, 0, 0.6))]
    return join(
        [
            Mesh.of(np.concatenate(wheels), Material.TYRE),
            Mesh.of(np.concatenate([engine, *fork, handle, exhaust]), Material.METAL),
            Mesh.of(np.concatenate(skin), Material.PAINT, paint),
        ]
    )


def _oval(x: float, y: float, z: float, half_width: float, half_height: float) -> Floats:
    """(8, 3) an upright ellipse across x."""
    angle = np.arange(8) * (np.pi / 4)
    return np.stack(
        [np.full(8, x), y + half_width * np.cos(angle), z + half_height * np.sin(angle)], 1
    )
