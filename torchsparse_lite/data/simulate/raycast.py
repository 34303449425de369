# SPDX-License-Identifier: MIT
"""Rays against triangles by a library: embreex where it imports, else Open3D."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.simulate.shapes import Floats, Mesh
from torchsparse_lite.errors import refuse

__all__ = ["Hits", "RayCaster", "nearest", "ray_caster_name"]


@dataclass(frozen=True)
class Hits:
    """What each ray meets first.

    Attributes:
        distance: (R,) float64, metres, inf where there is nothing.
        facing: (R,) float64, cosine between the ray and the surface's normal, 0..1.
        material: (R,) uint8.
        albedo: (R,) float32.
        label: (R,) uint32, instance in the upper 16 bits.
    """

    distance: Floats
    facing: Floats
    material: npt.NDArray[np.uint8]
    albedo: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint32]


class _Library(Protocol):
    """Distances (inf for none) and triangle numbers (any for none) of rays."""

    def cast(
        self, origins: npt.NDArray[np.float32], rays: npt.NDArray[np.float32]
    ) -> tuple[Floats, npt.NDArray[np.int64]]: ...


class _Embree:
    """Intel's Embree by way of embreex."""

    def __init__(self, corners: npt.NDArray[np.float32]) -> None:
        self._scene = import_module("embreex.rtcore_scene").EmbreeScene()
        # The scene keeps no reference to its geometry.
        self._mesh = import_module("embreex.mesh_construction").TriangleMesh(self._scene, corners)

    def cast(
        self, origins: npt.NDArray[np.float32], rays: npt.NDArray[np.float32]
    ) -> tuple[Floats, npt.NDArray[np.int64]]:
        found: dict[str, npt.NDArray[Any]] = self._scene.run(origins, rays, output=True)
        index = found["primID"].astype(np.int64)
        return np.where(index >= 0, found["tfar"].astype(np.float64), np.inf), index


class _Open3D:
    """Open3D's RaycastingScene."""

    def __init__(self, corners: npt.NDArray[np.float32]) -> None:
        o3d = import_module("open3d")
        self._tensor = o3d.core.Tensor
        self._scene = o3d.t.geometry.RaycastingScene()
        order = np.arange(corners.size // 3, dtype=np.uint32).reshape(-1, 3)
        self._scene.add_triangles(self._tensor(corners.reshape(-1, 3)), self._tensor(order))

    def cast(
        self, origins: npt.NDArray[np.float32], rays: npt.NDArray[np.float32]
    ) -> tuple[Floats, npt.NDArray[np.int64]]:
        found = self._scene.cast_rays(self._tensor(np.concatenate([origins, rays], 1)))
        index = found["primitive_ids"].numpy().astype(np.int64)
        return found["t_hit"].numpy().astype(np.float64), index


_LIBRARIES: Final[dict[str, Callable[[npt.NDArray[np.float32]], _Library]]] = {
    "embreex": _Embree,
    "open3d": _Open3D,
}


def ray_caster_name() -> str:
    """The library that casts rays here.

    Raises:
        RuntimeError: if neither is installed.
    """
    for name in _LIBRARIES:
        try:
            import_module(name)
        except ImportError:
            continue
        return name
    refuse(
        "simulate: a ray caster",
        "installed",
        "neither embreex nor open3d",
        "Install one with: pip install 'torchsparse_lite[sim]'.",
        error=RuntimeError,
    )


class RayCaster:
    """A mesh prepared for rays."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        corners = np.ascontiguousarray(mesh.triangles, np.float32)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        self._normal = normal / np.maximum(length, 1e-12)
        self._library = _LIBRARIES[ray_caster_name()](corners)

    def cast(self, origin: Floats, rays: Floats) -> Hits:
        """First hits of rays from one point.

        Args:
            origin: (3,) metres.
            rays: (R, 3) unit vectors.
        """
        directions = np.ascontiguousarray(rays, np.float32)
        origins = np.broadcast_to(origin.astype(np.float32), directions.shape).copy()
        distance, index = self._library.cast(origins, directions)
        index = np.where(np.isfinite(distance), index, 0)
        facing = np.abs((self._normal[index] * directions).sum(1)).astype(np.float64)
        mesh = self._mesh
        return Hits(distance, facing, mesh.material[index], mesh.albedo[index], mesh.label[index])


def nearest(first: Hits, second: Hits) -> Hits:
    """The nearer of two hits, ray by ray."""
    is_second = second.distance < first.distance
    return Hits(
        np.where(is_second, second.distance, first.distance),
        np.where(is_second, second.facing, first.facing),
        np.where(is_second, second.material, first.material),
        np.where(is_second, second.albedo, first.albedo),
        np.where(is_second, second.label, first.label),
    )
