# SPDX-License-Identifier: MIT
"""What moves: the car with the sensor, and vehicles, riders and persons around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from torchsparse_lite.data.simulate import people, vehicles
from torchsparse_lite.data.simulate.builder import KERB_M
from torchsparse_lite.data.simulate.materials import MOVING, ClassId
from torchsparse_lite.data.simulate.shapes import Floats, Mesh, join
from torchsparse_lite.data.simulate.street import Street

__all__ = ["Drive", "Mover", "random_drive", "random_traffic", "traffic_at"]

_SEEN_M = 85.0


@dataclass(frozen=True)
class Drive:
    """The way of the sensor.

    Attributes:
        time: (F,) seconds from the first frame.
        station: (F,) metres along the road.
        pose: (F, 4, 4) float64, sensor to world.
    """

    time: Floats
    station: Floats
    pose: Floats


@dataclass(frozen=True)
class Mover:
    """One thing that moves at constant speed along or across the road.

    Attributes:
        make: its body, from the metres it has gone.
        label: its class.
        instance: its id, the same in all frames.
        station: at time 0, metres; ahead of the sensor's car if ``is_convoy``.
        offset: at time 0, metres.
        speed: along and across the road, m/s; along it is the sensor's if ``is_convoy``.
        is_convoy: keeps its distance to the sensor's car.
    """

    make: Callable[[float], Mesh]
    label: ClassId
    instance: int
    station: float
    offset: float
    speed: tuple[float, float]
    is_convoy: bool = False

    def at(self, street: Street, time: float, ego: float) -> tuple[float, Callable[[], Mesh]]:
        """Its station, and a function that puts its body into the world."""
        s = self.station + (ego if self.is_convoy else self.speed[0] * time)
        limit = street.profile.verge - 0.4
        d = float(np.clip(self.offset + self.speed[1] * time, -limit, limit))
        turn = float(np.arctan2(self.speed[1], self.speed[0]))
        gone = time * float(np.hypot(*self.speed))

        def body() -> Mesh:
            lift = KERB_M if abs(d) > street.profile.kerb else 0.0
            x, y, z = street.road.place(s, d, lift)
            heading = float(street.road.direction(s)) + turn
            return (
                self.make(gone).labelled(self.label, self.instance).moved(x, y, z, heading=heading)
            )

        return s, body


def traffic_at(movers: list[Mover], street: Street, time: float, ego: float) -> Mesh:
    """Everything that moves and is near enough to be seen, in the world."""
    found = [mover.at(street, time, ego) for mover in movers]
    return join(body() for s, body in found if abs(s - ego) < _SEEN_M)


def random_drive(
    rng: np.random.Generator, street: Street, times: Floats, height: float, speed: float
) -> Drive:
    """Along the right lane with a speed that breathes and a hand that is not quite steady.

    Args:
        rng: phases.
        street: with a road long enough.
        times: (F,) seconds.
        height: of the sensor above the road, metres.
        speed: mean, m/s.
    """
    pulse, phase = rng.uniform(0.3, 0.6), rng.uniform(0, 2 * np.pi, 2)
    swing = 0.25 * speed / pulse
    s = speed * times + swing * (np.sin(pulse * times + phase[0]) - np.sin(phase[0]))
    d = -0.45 * street.profile.lane + 0.15 * np.sin(0.05 * s + phase[1])
    place = street.road.place
    forward = place(s + 0.9, d + 0.9 * 0.0075 * np.cos(0.05 * s + phase[1])) - place(s - 0.9, d)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    left = place(s, d + 0.7) - place(s, d - 0.7)
    up = np.cross(forward, left)
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    pose = np.zeros((len(times), 4, 4))
    pose[:, :3, 0], pose[:, :3, 1], pose[:, :3, 2] = forward, np.cross(up, forward), up
    pose[:, :3, 3] = place(s, d) + height * up
    pose[:, 3, 3] = 1.0
    return Drive(times, s, pose)


def random_traffic(rng: np.random.Generator, street: Street, drive: Drive) -> list[Mover]:
    """Oncoming vehicles, some in front and behind, riders at the edge, persons."""
    first = street.next_instance
    specs = [
        *_oncoming(rng, street, drive),
        *_convoy(rng, street),
        *_riders(rng, street, drive),
        *_walkers(rng, street, drive),
    ]
    return [
        Mover(_maker(kind, int(rng.integers(2**31))), MOVING[kind], first + n, s, d, speed, convoy)
        for n, (kind, s, d, speed, convoy) in enumerate(specs)
    ]


_Spec = tuple[ClassId, float, float, tuple[float, float], bool]

_BODIES: dict[ClassId, Callable[[np.random.Generator], Mesh]] = {
    ClassId.CAR: vehicles.car,
    ClassId.TRUCK: vehicles.truck,
    ClassId.BUS: vehicles.bus,
    ClassId.OTHER_VEHICLE: vehicles.trailer,
    ClassId.MOTORCYCLIST: people.motorcyclist,
    ClassId.BICYCLIST: people.bicyclist,
}


def _maker(kind: ClassId, seed: int) -> Callable[[float], Mesh]:
    """The body of one mover; a walker's changes with its way, a vehicle's is made once."""
    if kind == ClassId.PERSON:
        return partial(_walker, seed)
    body = _BODIES[kind](np.random.default_rng(seed))
    return lambda gone: body


def _walker(seed: int, gone: float) -> Mesh:
    return people.person(np.random.default_rng(seed), gone / people.STRIDE_M)


def _vehicle(rng: np.random.Generator) -> ClassId:
    kinds = (ClassId.CAR, ClassId.TRUCK, ClassId.BUS, ClassId.OTHER_VEHICLE, ClassId.MOTORCYCLIST)
    return kinds[rng.choice(len(kinds), p=[0.68, 0.07, 0.03, 0.04, 0.18])]


def _oncoming(rng: np.random.Generator, street: Street, drive: Drive) -> list[_Spec]:
    speed = rng.uniform(5, 11)
    specs: list[_Spec] = []
    s = drive.station[0] - _SEEN_M
    while s < drive.station[-1] + _SEEN_M + speed * drive.time[-1]:
        s += 25.0 + rng.exponential(60.0)
        kind = _vehicle(rng)
        if abs(s - drive.station[0]) > 12.0:  # the first frame is not spent on a lorry's side
            specs.append((kind, s, 0.5 * street.profile.lane, (-speed, 0.0), False))
    return specs


def _convoy(rng: np.random.Generator, street: Street) -> list[_Spec]:
    lane = -0.5 * street.profile.lane
    specs: list[_Spec] = []
    for direction in (1, -1):
        gap = direction * (13.0 + rng.exponential(14.0))
        while abs(gap) < 60:
            if rng.random() < 0.6:
                specs.append((_vehicle(rng), gap, lane, (1.0, 0.0), True))
            gap += direction * (14.0 + rng.exponential(25.0))
    return specs


def _riders(rng: np.random.Generator, street: Street, drive: Drive) -> list[_Spec]:
    """Against the sensor's car on the left edge, and with it on the right, before and behind it."""
    edge, speed = street.profile.lane - 0.4, rng.uniform(3.5, 6.0)
    specs: list[_Spec] = []
    s = drive.station[0] - 60.0
    while s < drive.station[-1] + 60.0 + speed * drive.time[-1]:
        s += 12.0 + rng.exponential(45.0)
        specs.append((ClassId.BICYCLIST, s, edge, (-speed, 0.0), False))
    for direction in (-1, 1):
        gap = direction * (6.0 + rng.exponential(25.0))
        specs.append((ClassId.BICYCLIST, gap, -edge, (speed, 0.0), True))
    return specs


def _walkers(rng: np.random.Generator, street: Street, drive: Drive) -> list[_Spec]:
    """On the sidewalks, and across the road where the sensor's car is not."""
    profile = street.profile
    specs: list[_Spec] = []
    for side in (-1, 1):
        for s in np.arange(drive.station[0] - 55.0, drive.station[-1] + 55.0, 11.0):
            for _ in range(rng.poisson(0.4)):
                d = side * rng.uniform(profile.kerb + 0.7, profile.verge - 0.45)
                pace = rng.uniform(0.9, 1.7) * rng.choice([-1, 1])
                specs.append((ClassId.PERSON, s + rng.uniform(0, 11), d, (pace, 0.0), False))
    for edge, direction in ((drive.station[-1] + 7.0, 1), (drive.station[0] - 7.0, -1)):
        for _ in range(rng.poisson(1.0)):
            side = rng.choice([-1, 1])
            pace = rng.uniform(1.0, 1.6)
            start = side * (profile.lane + 0.5) * rng.uniform(-0.6, 1.2)
            at = edge + direction * rng.uniform(0, 25)
            specs.append((ClassId.PERSON, at, start, (0.0, -side * pace), False))
    return specs
