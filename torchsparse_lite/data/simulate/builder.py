# SPDX-License-Identifier: MIT
"""The widths of a street, and the collector of what stands in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

from torchsparse_lite.data.simulate import plants
from torchsparse_lite.data.simulate.materials import ClassId
from torchsparse_lite.data.simulate.road import Ground, random_road
from torchsparse_lite.data.simulate.shapes import Mesh

__all__ = ["KERB_M", "Builder", "Profile"]

KERB_M = 0.12
"""Height of the sidewalk above the road."""

_NEAR_M = 24.0  # plants farther from the road are made of fewer, larger leaves


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


class Builder:
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
        stock = self.crowns if abs(d) < _NEAR_M else self.far_crowns
        self._plant(stock, s, d, size=(0.75, 1.25), height=(0.85, 1.2))

    def bush(self, s: float, d: float) -> None:
        """One of the street's bushes, turned and stretched."""
        stock = self.shrubs if abs(d) < _NEAR_M else self.far_shrubs
        self._plant(stock, s, d, size=(0.7, 1.5), height=(0.7, 1.3))

    def _plant(
        self,
        stock: list[Mesh],
        s: float,
        d: float,
        *,
        size: tuple[float, float],
        height: tuple[float, float],
    ) -> None:
        rng = self.rng
        width = rng.uniform(*size)
        grown = stock[rng.integers(len(stock))].scaled(width, width, rng.uniform(*height))
        self.put(grown, s, d, rng.uniform(0, 2 * np.pi))

    def is_open(self, s: float, margin: float) -> bool:
        """Whether a side road is nearer than ``margin``."""
        return any(abs(s - junction) < margin for junction in self.junctions)
