# SPDX-License-Identifier: MIT
"""What stands where: the procedural layout of a street.

From the middle outwards a side has a lane, maybe parked cars, a sidewalk, and plots: terraced
houses, villas with gardens, greens, car parks, yards. Side roads interrupt the plots. Behind the
plots stand more houses and trees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

from torchsparse_lite.data.simulate import furniture, houses, people, plants, vehicles
from torchsparse_lite.data.simulate.materials import ClassId
from torchsparse_lite.data.simulate.road import Ground, Road, random_road
from torchsparse_lite.data.simulate.shapes import Mesh, join

__all__ = ["Profile", "Street", "random_street"]

_KERB_M = 0.12
_NEAR_M = 24.0  # plants farther from the road are made of fewer, larger leaves
_PLOTS = ("terrace", "villa", "green", "lot", "yard")


@dataclass(frozen=True)
class Profile:
    """Widths of a street's parts, metres.

    Attributes:
        lane: of one lane; the road is twice as wide.
        bay: of the parking bays beside it.
        sidewalk: of each sidewalk.
    """

    lane: float
    bay: float
    sidewalk: float

    @property
    def kerb(self) -> float:
        """Offset at which the sidewalk begins."""
        return self.lane + self.bay

    @property
    def verge(self) -> float:
        """Offset at which the plots begin."""
        return self.kerb + self.sidewalk


@dataclass(frozen=True)
class Street:
    """A street that does not move.

    Attributes:
        road: line and relief.
        profile: widths.
        mesh: everything that stands, class and instance included.
        junctions: stations of side roads.
        next_instance: the first instance id that is free for moving things.
    """

    road: Road
    profile: Profile
    mesh: Mesh
    junctions: tuple[float, ...]
    next_instance: int


class _Builder:
    """Collects the bodies of a street. The random generator decides everything."""

    def __init__(self, rng: np.random.Generator, start: float, stop: float) -> None:
        self.rng = rng
        self.start, self.stop = start, stop
        self.profile = Profile(rng.uniform(3.3, 4.6), rng.uniform(2.0, 2.3), rng.uniform(1.8, 3.8))
        self.road = random_road(rng, start=start, stop=stop, verge=self.profile.verge)
        lane, kerb, verge = self.profile.lane, self.profile.kerb, self.profile.verge
        self.ground = Ground(self.road, [0.07, lane - 0.3, lane - 0.18, lane, kerb, verge])
        self.parts: list[Mesh] = []
        self.instances = count(1)
        gap = rng.uniform(45, 90)
        self.junctions = tuple(np.arange(start + rng.uniform(10, gap), stop - 10, gap).tolist())
        self.crowns = [plants.tree(rng) for _ in range(7)]
        self.shrubs = [plants.bush(rng) for _ in range(5)]
        self.far_crowns = [plants.tree(rng, leaf_m=0.8) for _ in range(4)]
        self.far_shrubs = [plants.bush(rng, leaf_m=0.8) for _ in range(4)]
        self.taste = rng.dirichlet([24.0, 16.0, 12.0, 1.5, 1.5])

    def put(
        self, mesh: Mesh, s: float, d: float, turn: float = 0.0, z: float | None = None
    ) -> None:
        """Stand a body at a place, turned against the road's heading."""
        x, y, height = self.road.place(s, d)
        lift = self.ground.step_at(s, d) if z is None else z
        heading = float(self.road.direction(s)) + turn
        self.parts.append(mesh.moved(x, y, height + lift, heading=heading))

    def thing(
        self,
        make: Callable[[np.random.Generator], Mesh],
        label: ClassId,
        s: float,
        d: float,
        turn: float,
    ) -> None:
        """Stand something countable at a place."""
        self.put(make(self.rng).labelled(label, next(self.instances)), s, d, turn)

    def row(self, mesh: Mesh, s: float, d: float, side: int) -> None:
        """A hedge or fence that follows the road from a place on."""
        self.parts.append(self.road.bent(mesh, s, d, side))

    def tree(self, s: float, d: float) -> None:
        """One of the street's trees, turned and stretched."""
        rng = self.rng
        size = rng.uniform(0.75, 1.25)
        stock = self.crowns if abs(d) < _NEAR_M else self.far_crowns
        grown = stock[rng.integers(len(stock))].scaled(size, size, rng.uniform(0.85, 1.2))
        self.put(grown, s, d, rng.uniform(0, 2 * np.pi))

    def bush(self, s: float, d: float) -> None:
        """One of the street's bushes, turned and stretched."""
        rng = self.rng
        size = rng.uniform(0.7, 1.5)
        stock = self.shrubs if abs(d) < _NEAR_M else self.far_shrubs
        grown = stock[rng.integers(len(stock))].scaled(size, size, rng.uniform(0.7, 1.3))
        self.put(grown, s, d, rng.uniform(0, 2 * np.pi))

    def is_open(self, s: float, margin: float) -> bool:
        """Whether a side road is nearer than ``margin``."""
        return any(abs(s - junction) < margin for junction in self.junctions)


def random_street(rng: np.random.Generator, *, start: float, stop: float) -> Street:
    """Lay out a street between two stations.

    Args:
        rng: decides everything.
        start: first station, metres.
        stop: last station, metres.
    """
    builder = _Builder(rng, start, stop)
    _pave(builder)
    for side in (-1, 1):
        _line_with_plots(builder, side)
        _line_with_furniture(builder, side)
        _park_cars(builder, side)
        _fill_background(builder, side)
    ground = builder.ground.mesh()
    return Street(
        builder.road,
        builder.profile,
        join([ground, *builder.parts]),
        builder.junctions,
        next(builder.instances),
    )


def _pave(b: _Builder) -> None:
    """Road, marks, bays, sidewalks, side roads."""
    rng, ground, profile = b.rng, b.ground, b.profile
    whole = (b.start, b.stop)
    lane, kerb, verge = profile.lane, profile.kerb, profile.verge
    ground.paint(whole, (-lane, lane), ClassId.ROAD, 0.0)
    for side in (-1, 1):
        ground.paint(whole, (side * lane, side * verge), ClassId.SIDEWALK, _KERB_M)
        s = b.start + rng.uniform(0, 20)
        while s < b.stop and rng.random() < 0.85:  # bays alternate with wide sidewalk
            length = rng.uniform(12, 40)
            ground.paint((s, s + length), (side * lane, side * kerb), ClassId.PARKING, 0.02)
            s += length + rng.uniform(8, 50)
    for s in b.junctions:
        half = rng.uniform(2.6, 3.6)
        for side in (-1, 1):
            if rng.random() < 0.75:
                for flank in (-1, 1):
                    edge = s + flank * half
                    walk = (edge, edge + 1.8 * flank)
                    ground.paint(walk, (side * verge, side * 80), ClassId.SIDEWALK, _KERB_M)
                ground.paint((s - half, s + half), (side * lane, side * 80), ClassId.ROAD, 0.0)
    _mark_lanes(b)


def _mark_lanes(b: _Builder) -> None:
    """A broken middle line, edge lines on some streets, zebra crossings at some side roads."""
    rng, ground, lane = b.rng, b.ground, b.profile.lane
    if rng.random() < 0.75:
        for s in np.arange(b.start, b.stop, 6.0):
            ground.paint((s, s + 3.0), (-0.07, 0.07), ClassId.LANE_MARKING, None)
    if rng.random() < 0.35:
        for side in (-1, 1):
            edge = (side * (lane - 0.3), side * (lane - 0.18))
            ground.paint((b.start, b.stop), edge, ClassId.LANE_MARKING, None)
    for s in b.junctions:
        if rng.random() < 0.6:
            for d in np.arange(-lane + 0.4, lane - 0.5, 1.0):
                ground.paint((s - 8.5, s - 5.5), (d, d + 0.5), ClassId.LANE_MARKING, None)


def _line_with_plots(b: _Builder, side: int) -> None:
    """Plot after plot along a side, except where side roads come in."""
    lay = {
        "terrace": _terrace,
        "villa": _villa,
        "green": _green,
        "lot": _lot,
        "yard": _yard,
    }
    widths = {
        "terrace": (8, 15),
        "villa": (14, 22),
        "green": (10, 26),
        "lot": (14, 24),
        "yard": (12, 20),
    }
    s = b.start
    while s < b.stop - 8:
        blocked = [j for j in b.junctions if s - 5.5 < j < s + 8 + 5.5]
        if blocked:
            s = blocked[-1] + 5.6
            continue
        kind = _PLOTS[b.rng.choice(len(_PLOTS), p=b.taste)]
        width = b.rng.uniform(*widths[kind])
        ahead = [j - 5.5 - s for j in b.junctions if j > s]
        width = min([width, *ahead])
        lay[kind](b, side, s, width)
        s += width + (b.rng.uniform(1.5, 6.0) if b.rng.random() < 0.4 else 0.0)


def _house(b: _Builder, side: int, s: float, width: float, setback: float) -> None:
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


def _terrace(b: _Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    setback = rng.uniform(0.0, 1.0) if rng.random() < 0.1 else rng.uniform(3.0, 9.0)
    _house(b, side, s, width, setback)
    if setback > 1.5:
        if rng.random() < 0.6:
            _border(b, side, s, width, gap=1.5)
        for _ in range(int(rng.integers(1, 5))):
            b.bush(s + rng.uniform(1, width - 1), side * (verge + rng.uniform(0.3, 0.9) * setback))
    elif setback < 0.8 and rng.random() < 0.5:
        b.ground.paint(
            (s, s + width), (side * verge, side * (verge + 1)), ClassId.SIDEWALK, _KERB_M
        )
    for _ in range(int(rng.integers(0, 3))):
        if rng.random() < 0.5:
            at, near = s + rng.uniform(1, width - 1), side * (verge - 0.35)
            b.thing(vehicles.bicycle, ClassId.BICYCLE, at, near, rng.normal(0, 0.15))


def _border(b: _Builder, side: int, s: float, width: float, *, gap: float) -> None:
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


def _villa(b: _Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    setback, drive = rng.uniform(6.0, 13.0), 3.0
    _house(b, side, s + drive + 1, max(width - drive - 3.5, 5.0), setback)
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


def _green(b: _Builder, side: int, s: float, width: float) -> None:
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


def _lot(b: _Builder, side: int, s: float, width: float) -> None:
    rng, verge = b.rng, b.profile.verge
    b.ground.paint((s, s + width), (side * verge, side * (verge + 12)), ClassId.PARKING, 0.1)
    for at in np.arange(s + 1.6, s + width - 1.2, 2.7):
        if rng.random() < 0.65:
            turn = 0.5 * np.pi * rng.choice([-1, 1])
            b.thing(vehicles.car, ClassId.CAR, at, side * (verge + 8 + rng.normal(0, 0.3)), turn)
    at = s if side > 0 else s + width - 1
    b.row(plants.hedge(rng, width - 1), at, side * (verge + 12.5), side)
    _house(b, side, s + 1, width - 2, 16.0)


def _yard(b: _Builder, side: int, s: float, width: float) -> None:
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
    _house(b, side, s, width, 14.0)


def _line_with_furniture(b: _Builder, side: int) -> None:
    """Lamps, signs, trees, and what is strewn about."""
    rng, profile = b.rng, b.profile
    inner = profile.kerb + 0.35
    for s in np.arange(b.start + rng.uniform(0, 28), b.stop, rng.uniform(22, 32)):
        b.put(furniture.lamp(rng), s, side * inner, 0.0 if side > 0 else np.pi)
    for s in b.junctions:
        b.put(furniture.sign(rng), s - side * 6.5, side * inner, 0.0 if side < 0 else np.pi)
    for s in np.arange(b.start + rng.uniform(5, 20), b.stop, rng.uniform(35, 80)):
        b.put(furniture.sign(rng), s, side * inner, rng.normal(0.0 if side < 0 else np.pi, 0.2))
    if rng.random() < 0.85:
        spacing = rng.uniform(8, 16)
        for s in np.arange(b.start + 4, b.stop, spacing):
            if rng.random() < 0.8 and not b.is_open(s, 6):
                b.tree(s, side * (inner if rng.random() < 0.3 else profile.verge + 0.8))
    _strew(b, side)


def _strew(b: _Builder, side: int) -> None:
    """Bollards, bins, bicycles and people here and there on the sidewalk."""
    rng, inner, outer = b.rng, b.profile.kerb + 0.35, b.profile.verge - 0.3
    for s in np.arange(b.start, b.stop, 12.0):
        at = s + rng.uniform(0, 12)
        make = (furniture.bollard, furniture.clutter, None)[rng.choice(3, p=[0.1, 0.15, 0.75])]
        if make and not b.is_open(at, 5):
            b.put(make(rng), at, side * (inner if make is furniture.bollard else outer))
        if rng.random() < 0.2 and not b.is_open(at, 5):
            turn = rng.uniform(0, 2 * np.pi)
            b.thing(_standing, ClassId.PERSON, at + 2, side * rng.uniform(inner, outer), turn)
        if rng.random() < 0.35 and not b.is_open(at, 5):
            kinds = ((vehicles.bicycle, ClassId.BICYCLE), (vehicles.motorcycle, ClassId.MOTORCYCLE))
            make_cycle, label = kinds[rng.choice(2, p=[0.7, 0.3])]
            b.thing(make_cycle, label, at + 4, side * inner, rng.normal(0, 0.3))


def _standing(rng: np.random.Generator) -> Mesh:
    return people.person(rng, is_walking=False)


def _park_cars(b: _Builder, side: int) -> None:
    """Bays with gaps: mostly cars, now and then a truck, trailer, motorcycle."""
    rng = b.rng
    kinds = (
        (vehicles.car, ClassId.CAR),
        (vehicles.truck, ClassId.TRUCK),
        (vehicles.trailer, ClassId.OTHER_VEHICLE),
        (vehicles.motorcycle, ClassId.MOTORCYCLE),
    )
    middle = b.profile.lane + 0.5 * b.profile.bay
    density, turn = rng.uniform(0.2, 0.6), 0.0 if side < 0 else np.pi
    s = b.start
    while s < b.stop:
        kind = rng.choice(4, p=[0.8, 0.03, 0.04, 0.13])
        length = (5.8, 10.0, 7.0, 2.6)[kind]
        in_bay = b.ground.step_at(s, side * middle) < 0.05 and not b.is_open(s, 9)
        if in_bay and rng.random() < density:
            make, label = kinds[kind]
            wobble = rng.normal(0, [0.03, 0.15])
            b.thing(make, label, s + length / 2, side * middle + wobble[1], turn + wobble[0])
        s += length + rng.uniform(0, 1)


def _fill_background(b: _Builder, side: int) -> None:
    """Houses, trees and hedges behind the plots; they close the view along side roads and gaps."""
    rng, verge = b.rng, b.profile.verge
    for s in np.arange(b.start, b.stop, 14.0):
        at = s + rng.uniform(0, 6)
        deep = rng.uniform(24, 60)
        choice = rng.random()
        if choice < 0.4 and not b.is_open(at + 6, 12):
            _house(b, side, at, rng.uniform(8, 14), deep)
        elif choice < 0.9:
            for _ in range(7):
                d = side * (verge + deep + rng.uniform(-8, 8))
                place = at + rng.uniform(-5, 8)
                if not b.is_open(place, 6):
                    (b.tree if rng.random() < 0.5 else b.bush)(place, d)
