# SPDX-License-Identifier: MIT
"""What stands where: the procedural layout of a street.

From the middle outwards a side has a lane, maybe parked cars, a sidewalk, and plots: terraced
houses, villas with gardens, greens, car parks, yards. Side roads interrupt the plots. Behind the
plots stand more houses and trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchsparse_lite.data.simulate import furniture, people, vehicles
from torchsparse_lite.data.simulate.builder import KERB_M, Builder, Profile
from torchsparse_lite.data.simulate.materials import ClassId
from torchsparse_lite.data.simulate.plots import house, line_with_plots
from torchsparse_lite.data.simulate.road import Road
from torchsparse_lite.data.simulate.shapes import Mesh, join

__all__ = ["Street", "random_street"]


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


def random_street(rng: np.random.Generator, *, start: float, stop: float) -> Street:
    """Lay out a street between two stations.

    Args:
        rng: decides everything.
        start: first station, metres.
        stop: last station, metres.
    """
    builder = Builder(rng, start, stop)
    _pave(builder)
    for side in (-1, 1):
        line_with_plots(builder, side)
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


def _pave(b: Builder) -> None:
    """Road, marks, bays, sidewalks, side roads."""
    rng, ground, profile = b.rng, b.ground, b.profile
    whole = (b.start, b.stop)
    lane, kerb, verge = profile.lane, profile.kerb, profile.verge
    ground.paint(whole, (-lane, lane), ClassId.ROAD, 0.0)
    for side in (-1, 1):
        ground.paint(whole, (side * lane, side * verge), ClassId.SIDEWALK, KERB_M)
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
                    ground.paint(walk, (side * verge, side * 80), ClassId.SIDEWALK, KERB_M)
                ground.paint((s - half, s + half), (side * lane, side * 80), ClassId.ROAD, 0.0)
    _mark_lanes(b)


def _mark_lanes(b: Builder) -> None:
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


def _line_with_furniture(b: Builder, side: int) -> None:
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


def _strew(b: Builder, side: int) -> None:
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


def _park_cars(b: Builder, side: int) -> None:
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


def _fill_background(b: Builder, side: int) -> None:
    """Houses, trees and hedges behind the plots; they close the view along side roads and gaps."""
    rng, verge = b.rng, b.profile.verge
    for s in np.arange(b.start, b.stop, 14.0):
        at = s + rng.uniform(0, 6)
        deep = rng.uniform(24, 60)
        choice = rng.random()
        if choice < 0.4 and not b.is_open(at + 6, 12):
            house(b, side, at, rng.uniform(8, 14), deep)
        elif choice < 0.9:
            for _ in range(7):
                d = side * (verge + deep + rng.uniform(-8, 8))
                place = at + rng.uniform(-5, 8)
                if not b.is_open(place, 6):
                    (b.tree if rng.random() < 0.5 else b.bush)(place, d)
