# SPDX-License-Identifier: MIT
"""Triangle meshes of simple bodies, of which everything in a street is put together.

Local axes: x forward, y left, z up, metres, the origin on the ground. Nearly every body is a loft:
a skin over cross-sections that have the same number of corners.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.simulate.materials import ClassId, Material

__all__ = [
    "Floats",
    "Mesh",
    "box",
    "circle",
    "ellipsoid",
    "extrude",
    "frustum",
    "join",
    "leaves",
    "loft",
    "panels",
    "quads",
    "ring",
    "tube",
]

Floats = npt.NDArray[np.float64]
Point = Sequence[float]


@dataclass(frozen=True)
class Mesh:
    """A soup of triangles and what each of them is.

    Attributes:
        triangles: (F, 3, 3) float64, corners in metres.
        material: (F,) uint8, :class:`Material`.
        albedo: (F,) float32, factor on the material's remission.
        label: (F,) uint32, class id in the lower and instance in the upper 16 bits.
    """

    triangles: Floats
    material: npt.NDArray[np.uint8]
    albedo: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.triangles)

    @staticmethod
    def of(triangles: Floats, material: Material, albedo: float = 1.0) -> Mesh:
        """One material and no class yet."""
        count = len(triangles)
        return Mesh(
            np.asarray(triangles, np.float64).reshape(-1, 3, 3),
            np.full(count, material, np.uint8),
            np.full(count, albedo, np.float32),
            np.zeros(count, np.uint32),
        )

    def labelled(self, label: ClassId, instance: int = 0) -> Mesh:
        """The same body as this class and instance."""
        return replace(self, label=np.full(len(self), label + (instance << 16), np.uint32))

    def moved(
        self, x: float = 0.0, y: float = 0.0, z: float = 0.0, *, heading: float = 0.0
    ) -> Mesh:
        """Turned about z by ``heading`` (radians), then shifted."""
        c, s = np.cos(heading), np.sin(heading)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return replace(self, triangles=self.triangles @ turn.T + [x, y, z])

    def tilted(self, angle: float) -> Mesh:
        """Turned about y by ``angle`` (radians, positive leans forward)."""
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        return replace(self, triangles=self.triangles @ turn.T)

    def scaled(self, x: float, y: float, z: float) -> Mesh:
        """Stretched along the axes."""
        return replace(self, triangles=self.triangles * [x, y, z])


def join(meshes: Iterable[Mesh]) -> Mesh:
    """All triangles of several meshes in one, in order."""
    parts = [*meshes] or [Mesh.of(np.empty((0, 3, 3)), Material.SOIL)]
    return Mesh(
        np.concatenate([part.triangles for part in parts]),
        np.concatenate([part.material for part in parts]),
        np.concatenate([part.albedo for part in parts]),
        np.concatenate([part.label for part in parts]),
    )


def quads(corners: Floats) -> Floats:
    """(Q, 4, 3) corners in turn -> (2 Q, 3, 3) triangles."""
    corners = np.asarray(corners, np.float64).reshape(-1, 4, 3)
    return np.stack([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], 1).reshape(-1, 3, 3)


def loft(sections: Floats, *, is_open: bool = False) -> Floats:
    """Skin over cross-sections.

    Args:
        sections: (S, P, 3), the corners of each cross-section in turn.
        is_open: leave the two ends without caps.

    Returns:
        (F, 3, 3) triangles.
    """
    sections = np.asarray(sections, np.float64)
    after = np.roll(sections, -1, axis=1)
    sides = quads(np.stack([sections[:-1], after[:-1], after[1:], sections[1:]], 2))
    if is_open:
        return sides
    ends = sections[[0, -1]]
    middle = np.broadcast_to(ends.mean(1, keepdims=True), ends.shape)
    caps = np.stack([middle, ends, np.roll(ends, -1, axis=1)], 2)
    return np.concatenate([sides, caps.reshape(-1, 3, 3)])


def extrude(profile: Sequence[Point], low: float, high: float) -> Floats:
    """A star-shaped outline of (x, z) points drawn along y from ``low`` to ``high``."""
    x, z = np.asarray(profile, np.float64).T
    return loft(np.stack([np.stack([x, np.full_like(x, y), z], 1) for y in (low, high)]))


def frustum(bottom: Point, top: Point) -> Floats:
    """Between two level rectangles, each given as x0, x1, y0, y1, z."""
    faces = [
        [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)] for x0, x1, y0, y1, z in (bottom, top)
    ]
    return loft(np.array(faces))


def box(size: Point, centre: Point) -> Floats:
    """A box with edges along the axes."""
    (length, width, height), (x, y, z) = size, centre
    sides = (x - length / 2, x + length / 2, y - width / 2, y + width / 2)
    return frustum((*sides, z - height / 2), (*sides, z + height / 2))


def circle(radius: float, corners: int) -> Floats:
    """(corners, 2) points on a circle about the origin."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _frame(direction: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors across a direction."""
    direction = direction / np.linalg.norm(direction)
    helper = np.array([0.0, 0.0, 1.0] if abs(direction[2]) < 0.9 else [1.0, 0.0, 0.0])
    across = np.cross(direction, helper)
    across /= np.linalg.norm(across)
    return across, np.cross(direction, across)


def tube(path: Sequence[Point], radius: float | Sequence[float], corners: int = 6) -> Floats:
    """A round bar along a path of points, with one radius or one per point."""
    points = np.asarray(path, np.float64)
    radii = np.broadcast_to(np.asarray(radius, np.float64), len(points))
    outline = circle(1.0, corners)
    across, up = _frame(points[-1] - points[0])
    ring_of = outline[:, :1] * across + outline[:, 1:] * up
    return loft(points[:, None] + radii[:, None, None] * ring_of)


def ellipsoid(centre: Point, radii: Point, *, rings: int = 6, corners: int = 10) -> Floats:
    """An ellipsoid with axes along x, y, z."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    outline = circle(1.0, corners)
    rows = np.concatenate(
        [
            np.cos(angle)[:, None, None] * outline,
            np.broadcast_to(np.sin(angle)[:, None, None], (rings + 1, corners, 1)),
        ],
        axis=2,
    )
    return loft(np.asarray(centre) + rows * np.asarray(radii), is_open=True)


def ring(centre: Point, radius: float, thickness: float, corners: int = 14) -> Floats:
    """A wheel's rim and tyre: a torus whose axis is y."""
    angle = np.linspace(0, 2 * np.pi, corners + 1)
    radial = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], 1)
    outline = circle(thickness / 2, 4)
    rows = (radius + outline[:, :1]) * radial[:, None] + outline[:, 1:] * np.array([0.0, 1.0, 0.0])
    return loft(np.asarray(centre) + rows, is_open=True)


def panels(corners: Floats, margins: Point, depth: float) -> tuple[Floats, Floats]:
    """Walls with one opening each that is set back.

    Args:
        corners: (Q, 4, 3): lower left, lower right, upper right, upper left as seen from outside.
        margins: left, right, lower, upper margin of the opening as parts of the width and height.
        depth: metres from the wall to the inner face, away from the beholder.

    Returns:
        Triangles of the frames with their reveals, (8 Q or 16 Q, 3, 3), and of the inner faces,
        (2 Q, 3, 3).
    """
    corners = np.asarray(corners, np.float64).reshape(-1, 4, 3)
    left, right, lower, upper = margins
    weights = np.array(
        [[left, lower], [1 - right, lower], [1 - right, 1 - upper], [left, 1 - upper]]
    )
    u, v = weights[:, :1], weights[:, 1:]
    a, b, c, d = (corners[:, None, i] for i in range(4))
    inner = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    sunk = inner - depth * normal[:, None]
    bands = [(corners, inner)] + ([(inner, sunk)] if depth else [])
    frames = [quads(np.stack([o, np.roll(o, -1, 1), np.roll(i, -1, 1), i], 2)) for o, i in bands]
    return np.concatenate(frames), quads(sunk)


def leaves(rng: np.random.Generator, centres: Floats, size: float) -> Floats:
    """One triangle of random size and attitude about each centre.

    Args:
        rng: random numbers.
        centres: (K, 3).
        size: typical edge in metres.

    Returns:
        (K, 3, 3).
    """
    corners = rng.normal(0.0, 1.0, (len(centres), 3, 3))
    corners -= corners.mean(1, keepdims=True)
    corners /= np.sqrt((corners**2).sum((1, 2), keepdims=True)) + 1e-6
    edge = size * rng.uniform(0.6, 1.4, (len(centres), 1, 1))
    return np.asarray(centres)[:, None] + edge * corners
