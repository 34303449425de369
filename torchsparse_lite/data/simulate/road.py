# SPDX-License-Identifier: MIT
"""The line of a road and the ground along it.

Places are given as station ``s`` (metres along the road) and offset ``d`` (metres to the left of
its middle line). The ground is a grid of cells in (s, d); each cell has a class and a step, its
height above the relief, and an upright face joins cells of unequal steps: the kerb.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.simulate.materials import ClassId, Material
from torchsparse_lite.data.simulate.shapes import Floats, Mesh, join, quads

__all__ = ["Ground", "Road", "random_road"]

Places = float | Floats
"""Stations, offsets or heights: one or many."""

_GROUND_MATERIAL = {
    ClassId.ROAD: Material.ASPHALT,
    ClassId.PARKING: Material.COBBLES,
    ClassId.SIDEWALK: Material.PAVING,
    ClassId.OTHER_GROUND: Material.GRAVEL,
    ClassId.LANE_MARKING: Material.MARKING,
    ClassId.TERRAIN: Material.SOIL,
}


@dataclass(frozen=True)
class Road:
    """A smooth line over a gentle relief.

    Attributes:
        station: (n,) ascending, metres.
        xy: (n, 2) the middle line in the world.
        heading: (n,) radians.
        height: (n,) of the middle line, metres.
        verge: offset beyond which the relief rises and falls.
        banks: slope of the land to the right and to the left.
        waves: (k, 4) wave numbers along s and d, phase, height: the relief's hills.
    """

    station: Floats
    xy: Floats
    heading: Floats
    height: Floats
    verge: float
    banks: tuple[float, float]
    waves: Floats

    def direction(self, s: Places) -> Floats:
        """Heading of the road at stations, radians."""
        return np.asarray(np.interp(s, self.station, self.heading), np.float64)

    def relief(self, s: Places, d: Places) -> Floats:
        """Height of the land without kerbs at places, metres."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        beyond = np.maximum(np.abs(d) - self.verge, 0.0)
        slope = np.where(d < 0, self.banks[0], self.banks[1])
        hills = np.zeros_like(beyond)
        for along, across, phase, height in self.waves:
            hills += height * np.sin(along * s + across * d + phase)
        camber = -0.02 * np.minimum(np.abs(d), self.verge)
        land = 12.0 * slope * np.tanh(beyond / 12.0) + hills * np.clip(beyond / 5.0, 0.0, 1.0)
        return np.asarray(np.interp(s, self.station, self.height) + camber + land, np.float64)

    def place(self, s: Places, d: Places, z: Places = 0.0) -> Floats:
        """(..., 3) world positions of places, ``z`` metres above the land."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        turn = self.direction(s)
        x = np.interp(s, self.station, self.xy[:, 0]) - d * np.sin(turn)
        y = np.interp(s, self.station, self.xy[:, 1]) + d * np.cos(turn)
        return np.stack([x, y, self.relief(s, d) + z], -1)

    def bent(self, mesh: Mesh, s: float, d: float, side: int) -> Mesh:
        """A body whose x runs along the road: with it on the left side, against it on the right."""
        x, y, z = np.moveaxis(mesh.triangles, -1, 0)
        return Mesh(
            self.place(s + side * x, d + side * y, z), mesh.material, mesh.albedo, mesh.label
        )


def random_road(rng: np.random.Generator, *, start: float, stop: float, verge: float) -> Road:
    """Bends that come and go, a slope, hills beside the verge."""
    station = np.arange(start, stop + 0.5, 0.5)
    phase = rng.uniform(0, 2 * np.pi, 6)
    bend, sway = rng.uniform(0.05, 0.55), rng.uniform(0.02, 0.1)
    heading = bend * np.sin(2 * np.pi * station / rng.uniform(160, 320) + phase[0])
    heading += sway * np.sin(2 * np.pi * station / rng.uniform(60, 110) + phase[1])
    middle = (heading[1:] + heading[:-1]) / 2
    step = 0.5 * np.stack([np.cos(middle), np.sin(middle)], 1)
    xy = np.concatenate([np.zeros((1, 2)), np.cumsum(step, axis=0)])
    height = rng.uniform(0.2, 1.2) * np.sin(2 * np.pi * station / rng.uniform(150, 300) + phase[2])
    height += rng.uniform(0.0, 0.06) * np.sin(2 * np.pi * station / rng.uniform(25, 45) + phase[3])
    waves = np.stack(
        [
            rng.uniform(0.05, 0.6, 5),
            rng.uniform(0.05, 0.6, 5),
            rng.uniform(0, 2 * np.pi, 5),
            rng.uniform(0.02, 0.09, 5),
        ],
        axis=1,
    )
    right, left = rng.normal(0.02, 0.05, 2)
    return Road(station, xy, heading, height, verge, (float(right), float(left)), waves)


class Ground:
    """Classes and steps of the cells; painted while a street is laid out, then made a mesh.

    Args:
        road: below it all.
        seams: offsets that must be borders of cells.
    """

    def __init__(self, road: Road, seams: list[float]) -> None:
        self._road = road
        near = np.arange(-14.0, 14.1, 0.5)
        far = np.concatenate([np.arange(15.0, 30.0, 1.0), np.arange(30.0, 85.0, 2.5)])
        regular = np.concatenate([-far[::-1], near, far])
        exact = np.unique(np.round([*seams, *(-x for x in seams)], 3))
        gap = np.abs(regular[:, None] - exact).min(1)
        self._d = np.sort(np.concatenate([regular[gap > 0.2], exact]))
        self._s = road.station
        shape = (len(self._s) - 1, len(self._d) - 1)
        self._label = np.full(shape, ClassId.TERRAIN, np.uint32)
        self._step = np.full(shape, 0.14)

    def paint(
        self, s: tuple[float, float], d: tuple[float, float], label: ClassId, step: float | None
    ) -> None:
        """Give the cells between two stations and two offsets a class, and a step unless None."""
        rows = slice(*np.searchsorted((self._s[1:] + self._s[:-1]) / 2, sorted(s)))
        columns = slice(*np.searchsorted((self._d[1:] + self._d[:-1]) / 2, sorted(d)))
        self._label[rows, columns] = label
        if step is not None:
            self._step[rows, columns] = step

    def step_at(self, s: float, d: float) -> float:
        """Height of the cell at a place above the relief."""
        row = int(np.clip(np.searchsorted(self._s, s) - 1, 0, self._step.shape[0] - 1))
        column = int(np.clip(np.searchsorted(self._d, d) - 1, 0, self._step.shape[1] - 1))
        return float(self._step[row, column])

    def mesh(self) -> Mesh:
        """All cells and their upright faces, but not where the road's bend would fold them."""
        grid = self._road.place(self._s[:, None], self._d)
        low = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], 2)
        cells = low.copy()
        cells[..., 2] += self._step[..., None]
        bend = np.gradient(self._road.heading, self._s)[:-1, None]
        middle = (self._d[1:] + self._d[:-1]) / 2
        kept = 1.0 - bend * middle > 0.25
        parts = [self._meshes(cells[kept], self._label[kept])]
        for axis, edge in ((1, (3, 2)), (0, (1, 2))):
            before = (slice(None), slice(None, -1)) if axis else (slice(None, -1), slice(None))
            after = (slice(None), slice(1, None)) if axis else (slice(1, None), slice(None))
            jump = self._step[after] - self._step[before]
            there = (np.abs(jump) > 1e-6) & kept[before] & kept[after]
            foot = low[before][there][:, edge]
            face = np.concatenate([foot, foot[:, ::-1]], 1)
            face[:, :2, 2] += self._step[before][there][:, None]
            face[:, 2:, 2] += self._step[after][there][:, None]
            higher = np.where(jump > 0, self._label[after], self._label[before])
            parts.append(self._meshes(face, higher[there]))
        return join(parts)

    @staticmethod
    def _meshes(corners: Floats, label: npt.NDArray[np.uint32]) -> Mesh:
        """(Q, 4, 3) faces with a class each."""
        table = np.zeros(256, np.uint8)
        for ground, material in _GROUND_MATERIAL.items():
            table[ground] = material
        twice = np.repeat(label, 2)
        return Mesh(quads(corners), table[twice], np.ones(len(twice), np.float32), twice)
