# SPDX-License-Identifier: MIT
"""What a laser pulse finds: classes by the ids of SemanticKITTI, materials by how they reflect."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["MOVING", "SURFACES", "ClassId", "Material", "Surface", "surface_column"]


class ClassId(IntEnum):
    """Raw label ids. They are the data set's, not ours: semantic-kitti.yaml, key ``labels``."""

    CAR = 10
    BICYCLE = 11
    BUS = 13
    MOTORCYCLE = 15
    TRUCK = 18
    OTHER_VEHICLE = 20
    PERSON = 30
    BICYCLIST = 31
    MOTORCYCLIST = 32
    ROAD = 40
    PARKING = 44
    SIDEWALK = 48
    OTHER_GROUND = 49
    BUILDING = 50
    FENCE = 51
    LANE_MARKING = 60
    VEGETATION = 70
    TRUNK = 71
    TERRAIN = 72
    POLE = 80
    TRAFFIC_SIGN = 81
    OTHER_OBJECT = 99
    MOVING_CAR = 252
    MOVING_BICYCLIST = 253
    MOVING_PERSON = 254
    MOVING_MOTORCYCLIST = 255
    MOVING_BUS = 257
    MOVING_TRUCK = 258
    MOVING_OTHER_VEHICLE = 259


MOVING: Final[dict[ClassId, ClassId]] = {
    ClassId.CAR: ClassId.MOVING_CAR,
    ClassId.BICYCLIST: ClassId.MOVING_BICYCLIST,
    ClassId.PERSON: ClassId.MOVING_PERSON,
    ClassId.MOTORCYCLIST: ClassId.MOVING_MOTORCYCLIST,
    ClassId.BUS: ClassId.MOVING_BUS,
    ClassId.TRUCK: ClassId.MOVING_TRUCK,
    ClassId.OTHER_VEHICLE: ClassId.MOVING_OTHER_VEHICLE,
}
"""The id of a class while it moves."""


class Material(IntEnum):
    """Kinds of surface."""

    ASPHALT = 0
    PAVING = 1
    MARKING = 2
    SOIL = 3
    PLASTER = 4
    BRICK = 5
    ROOF = 6
    WOOD = 7
    METAL = 8
    PAINT = 9
    GLASS = 10
    TYRE = 11
    REFLECTOR = 12
    BARK = 13
    LEAF = 14
    CLOTH = 15
    SKIN = 16
    WINDOW = 17
    COBBLES = 18
    GRAVEL = 19


@dataclass(frozen=True)
class Surface:
    """How one material answers a pulse.

    Attributes:
        remission: mean value near and face on, 0..1.
        spread: standard deviation of the remission from pulse to pulse.
        roughness_m: standard deviation of the range that the surface itself adds.
        gloss: 0 for matt (bright at any angle) to 1 for a mirror (lost unless met face on).
        loss: share of the pulses that never come back, whatever the range.
        faint: share of the returns too weak for a remission; they report 0.
    """

    remission: float
    spread: float
    roughness_m: float
    gloss: float
    loss: float
    faint: float


SURFACES: Final[dict[Material, Surface]] = {
    Material.ASPHALT: Surface(0.31, 0.05, 0.004, 0.00, 0.002, 0.12),
    Material.PAVING: Surface(0.40, 0.05, 0.004, 0.00, 0.002, 0.02),
    Material.MARKING: Surface(0.56, 0.16, 0.003, 0.00, 0.002, 0.02),
    Material.SOIL: Surface(0.47, 0.07, 0.030, 0.00, 0.010, 0.02),
    Material.PLASTER: Surface(0.52, 0.07, 0.003, 0.00, 0.003, 0.02),
    Material.BRICK: Surface(0.38, 0.07, 0.006, 0.00, 0.003, 0.02),
    Material.ROOF: Surface(0.30, 0.07, 0.015, 0.00, 0.010, 0.05),
    Material.WOOD: Surface(0.40, 0.08, 0.006, 0.00, 0.005, 0.06),
    Material.METAL: Surface(0.22, 0.12, 0.003, 0.35, 0.020, 0.22),
    Material.PAINT: Surface(0.17, 0.10, 0.003, 0.55, 0.030, 0.35),
    Material.GLASS: Surface(0.06, 0.05, 0.020, 0.90, 0.720, 0.40),
    Material.TYRE: Surface(0.05, 0.03, 0.004, 0.00, 0.120, 0.30),
    Material.REFLECTOR: Surface(0.62, 0.28, 0.003, 0.00, 0.000, 0.04),
    Material.BARK: Surface(0.42, 0.10, 0.012, 0.00, 0.005, 0.05),
    Material.LEAF: Surface(0.42, 0.11, 0.010, 0.00, 0.020, 0.04),
    Material.CLOTH: Surface(0.42, 0.13, 0.010, 0.00, 0.010, 0.04),
    Material.SKIN: Surface(0.45, 0.08, 0.008, 0.00, 0.010, 0.03),
    Material.COBBLES: Surface(0.37, 0.06, 0.012, 0.00, 0.003, 0.03),
    Material.GRAVEL: Surface(0.29, 0.07, 0.020, 0.00, 0.005, 0.05),
    Material.WINDOW: Surface(0.24, 0.12, 0.030, 0.60, 0.400, 0.10),  # of a house: curtains, blinds
}


def surface_column(name: str) -> npt.NDArray[np.float64]:
    """(materials,) float64: one attribute of :class:`Surface` for every :class:`Material`."""
    return np.array([getattr(SURFACES[material], name) for material in Material])
