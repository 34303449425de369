# SPDX-License-Identifier: MIT
"""The plots along a street: terraced houses, villas with gardens, greens, car parks, yards."""

from __future__ import annotations

import numpy as np

from torchsparse_lite.data.simulate import furniture, houses, plants, vehicles
from torchsparse_lite.data.simulate.builder import KERB_M, Builder
from torchsparse_lite.data.simulate.materials import ClassId

__all__ = ["house", "line_with_plots"]


def line_with_plots(b: Builder, side: int) -> None:
    """Plot after plot along a side, except where side roads come in."""
    s = b.start
    while s < b.stop - 8:
        blocked = [j for j in b.junctions if s - 5.5 < j < s + 8 + 5.5]
        if blocked:
            s = blocked[-1] + 5.6
            continue
        lay, widths = _PLOTS[b.rng.choice(len(_PLOTS), p=b.taste)]
        width = b.rng.uniform(*widths)
        ahead = [j - 5.5 - s for j in b.junctions if j > s]
        width = min([width, *ahead])
        lay(b, side, s, width)
        s += width + (b.rng.uniform(1.5, 6.0) if b.rng.random() < 0.4 else 0.0)


def house(b: Builder, side: int, s: float, width: float, setback: float) -> None:
    """A building whose front is ``setback`` metres behind the verge."""
    rng = b.rng
    depth, storeys = rng.uniform(8, 12), int(rng.integers(1, 4))
    body = houses.house(rng, width, depth, storeys).labelled(ClassId.BUILDING)
    corner = s if side > 0 else s + width
    d = side * (b.profile.verge + setback)
    x, y, _ = b.road.place(s + width / 2, d)
    turn = float(b.road.direction(s + width / 2)) + (0.0 if side > 0 else np.pi)
    ahead = side * (corner - s - width / 2)
    x, y = x + ahead * np.cos(turn), y + ahead * np.sin(turn)
    height = float(b.road.relief(s + width / 2, d)) + 0.1
    b.parts.append(body.moved(x, y, height, heading=turn))


def _terrace(b: Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    setback = rng.uniform(0.0, 1.0) if rng.random() < 0.1 else rng.uniform(3.0, 9.0)
    house(b, side, s, width, setback)
    if setback > 1.5:
        if rng.random() < 0.6:
            _border(b, side, s, width, gap=1.5)
        for _ in range(int(rng.integers(1, 5))):
            b.bush(s + rng.uniform(1, width - 1), side * (verge + rng.uniform(0.3, 0.9) * setback))
    elif setback < 0.8 and rng.random() < 0.5:
        b.ground.paint((s, s + width), (side * verge, side * (verge + 1)), ClassId.SIDEWALK, KERB_M)
    for _ in range(int(rng.integers(0, 3))):
        if rng.random() < 0.5:
            at, near = s + rng.uniform(1, width - 1), side * (verge - 0.35)
            b.thing(vehicles.bicycle, ClassId.BICYCLE, at, near, rng.normal(0, 0.15))


def _border(b: Builder, side: int, s: float, width: float, *, gap: float) -> None:
    """Hedge, fence or both along the sidewalk, open for ``gap`` metres."""
    rng, d = b.rng, side * (b.profile.verge + 0.5)
    opening = rng.uniform(0.15, 0.85) * (width - gap)
    kind = rng.choice(4, p=[0.62, 0.16, 0.12, 0.1])
    for begin, length in ((0.0, opening), (opening + gap, width - gap - opening)):
        if length < 1.0:
            continue
        at = s + begin if side > 0 else s + begin + length
        if kind in (0, 2):
            b.row(plants.hedge(rng, length), at, d + side * 0.3, side)
        if kind in (1, 2):
            b.row(houses.fence(rng, length).labelled(ClassId.FENCE), at, d - side * 0.35, side)


def _villa(b: Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    setback, drive = rng.uniform(6.0, 13.0), 3.0
    house(b, side, s + drive + 1, max(width - drive - 3.5, 5.0), setback)
    paved = ClassId.PARKING if rng.random() < 0.6 else ClassId.OTHER_GROUND
    b.ground.paint((s + 0.5, s + drive), (side * verge, side * (verge + setback + 6)), paved, 0.12)
    b.ground.paint(
        (s + 0.5, s + drive), (side * b.profile.kerb, side * verge), ClassId.SIDEWALK, 0.04
    )
    if rng.random() < 0.5:
        turn = 0.5 * np.pi * rng.choice([-1, 1])
        b.thing(vehicles.car, ClassId.CAR, s + 1.8, side * (verge + rng.uniform(3, 7)), turn)
    _border(b, side, s + drive, width - drive, gap=1.2)
    fenced = houses.fence if rng.random() < 0.25 else None
    for n in range(3):  # between the neighbours, across the street's direction
        length = (setback + 9) / 3
        d = side * (verge + 0.6 + n * length)
        row = fenced(rng, length).labelled(ClassId.FENCE) if fenced else plants.hedge(rng, length)
        b.put(row, s + width - 0.5, d, side * np.pi / 2, 0.1)
    for _ in range(int(rng.integers(3, 9))):
        b.bush(s + rng.uniform(drive + 1, width - 1), side * (verge + rng.uniform(1.2, setback)))
    for _ in range(int(rng.integers(0, 4))):
        b.tree(s + rng.uniform(drive + 1, width - 1), side * (verge + rng.uniform(1.5, setback)))


def _green(b: Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    for _ in range(int(width / 1.8)):
        at, d = s + rng.uniform(0, width), side * (verge + rng.uniform(1.5, 20))
        (b.tree if rng.random() < 0.4 else b.bush)(at, d)
    depth = rng.uniform(9, 22)
    length = width - 1
    at = s if side > 0 else s + length
    if rng.random() < 0.85:
        b.row(plants.hedge(rng, length).scaled(1, 1.6, 1.5), at, side * (verge + depth), side)
    if rng.random() < 0.2:
        b.row(houses.fence(rng, length).labelled(ClassId.FENCE), at, side * (verge + 0.4), side)
    if rng.random() < 0.4:
        path = (side * (verge + 4), side * (verge + 6))
        b.ground.paint((s, s + width), path, ClassId.SIDEWALK, 0.1)


def _lot(b: Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    b.ground.paint((s, s + width), (side * verge, side * (verge + 12)), ClassId.PARKING, 0.1)
    for at in np.arange(s + 1.6, s + width - 1.2, 2.7):
        if rng.random() < 0.65:
            turn = 0.5 * np.pi * rng.choice([-1, 1])
            b.thing(vehicles.car, ClassId.CAR, at, side * (verge + 8 + rng.normal(0, 0.3)), turn)
    at = s if side > 0 else s + width - 1
    b.row(plants.hedge(rng, width - 1), at, side * (verge + 12.5), side)
    house(b, side, s + 1, width - 2, 16.0)


def _yard(b: Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    b.ground.paint((s, s + width), (side * verge, side * (verge + 14)), ClassId.OTHER_GROUND, 0.1)
    kinds = (
        (vehicles.truck, ClassId.TRUCK),
        (vehicles.trailer, ClassId.OTHER_VEHICLE),
        (vehicles.car, ClassId.CAR),
    )
    for at in np.arange(s + 2.5, s + width - 2, 4.5):
        if rng.random() < 0.6:
            make, label = kinds[rng.choice(3, p=[0.4, 0.35, 0.25])]
            b.thing(make, label, at, side * (verge + 7), 0.5 * np.pi * rng.choice([-1, 1]))
    for _ in range(int(rng.integers(1, 4))):
        at, d = s + rng.uniform(1, width - 1), side * (verge + rng.uniform(11, 13))
        b.put(furniture.clutter(rng), at, d, rng.uniform(0, np.pi))
    house(b, side, s, width, 14.0)


# Least and largest width of each, metres. How often they come is the builder's taste.
_PLOTS = (
    (_terrace, (8, 15)),
    (_villa, (14, 22)),
    (_green, (10, 26)),
    (_lot, (14, 24)),
    (_yard, (12, 20)),
)
