# SPDX-License-Identifier: MIT
"""Spinning LiDARs: where their beams point, and what they report of a surface that they meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.simulate.materials import surface_column
from torchsparse_lite.data.simulate.raycast import Hits
from torchsparse_lite.data.simulate.shapes import Floats

__all__ = ["SENSORS", "Sensor"]

# Parts of the carrying car as ellipses in the sensor's view: azimuth, elevation, and their half
# axes, degrees. Read off the empty regions that all scans of KITTI share.
_OWN_CAR: Final = (
    (0.0, -26.0, 24.0, 4.2),
    (-67.0, -20.0, 7.0, 2.6),
    (163.0, -19.0, 9.0, 1.3),
    (168.0, -27.0, 50.0, 6.0),
    (132.0, -22.5, 5.0, 2.2),
    (-125.0, -21.5, 5.0, 1.8),
    (-165.0, -22.5, 24.0, 2.8),
)


@dataclass(frozen=True)
class Sensor:
    """A spinning LiDAR on the roof of a car.

    Attributes:
        elevations_deg: of the beams, the highest first.
        azimuth_steps: firings per turn.
        height_m: above the road.
        max_range_m: beyond it nothing is reported.
        reach_m: range at which half of the pulses come back from a white wall met face on.
        range_noise_m: standard deviation of a range.
        beam_bias_m: standard deviation of the constant error of each beam's range.
    """

    elevations_deg: tuple[float, ...]
    azimuth_steps: int
    height_m: float
    max_range_m: float
    reach_m: float
    range_noise_m: float
    beam_bias_m: float

    def rays(self) -> Floats:
        """(beams * azimuth_steps, 3) unit vectors, beam by beam, counter-clockwise from x."""
        up = np.deg2rad(self.elevations_deg)[:, None]
        around = (np.arange(self.azimuth_steps) + 0.5) * (2 * np.pi / self.azimuth_steps)
        level = np.cos(up)
        parts = (level * np.cos(around), level * np.sin(around), np.sin(up) + 0.0 * around)
        return np.stack(parts, -1).reshape(-1, 3)

    def is_free(self) -> npt.NDArray[np.bool_]:
        """(beams * azimuth_steps,) whether a ray passes the car that carries the sensor."""
        elevation = np.asarray(self.elevations_deg)[:, None]
        around = (np.arange(self.azimuth_steps) + 0.5) * (360.0 / self.azimuth_steps)
        free = np.ones((len(elevation), self.azimuth_steps), np.bool_)
        for azimuth, height, half_width, half_height in _OWN_CAR:
            off = (around - azimuth + 180.0) % 360.0 - 180.0
            free &= (off / half_width) ** 2 + ((elevation - height) / half_height) ** 2 > 1.0
        return free.ravel()

    def observe(
        self, hits: Hits, beam_gain: Floats, beam_bias: Floats, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
        """What comes back of rays that met a surface.

        Args:
            hits: all rays, in the order of :meth:`rays`.
            beam_gain: (beams,) factor on the remission.
            beam_bias: (beams,) metres.
            rng: noise.

        Returns:
            Which rays are reported (R,), their measured ranges (R,) in metres, and their
            remissions (R,) in 0..1.
        """
        size = len(hits.distance)
        beam = np.repeat(np.arange(len(self.elevations_deg)), self.azimuth_steps)
        names = ("remission", "spread", "roughness_m", "gloss", "loss", "faint")
        table = {name: surface_column(name)[hits.material] for name in names}
        facing, far = hits.facing, np.where(np.isfinite(hits.distance), hits.distance, 1e3)
        matt = 0.55 + 0.45 * np.sqrt(facing)
        lobe = 0.25 + 0.75 * facing**4
        white = (
            table["remission"] * hits.albedo * ((1 - table["gloss"]) * matt + table["gloss"] * lobe)
        )
        energy = white * (0.15 + 0.85 * facing) * (self.reach_m / np.maximum(far, 1.0)) ** 4
        kept = rng.random(size) < (1 - table["loss"]) * energy / (energy + 1.0)
        sigma = np.hypot(self.range_noise_m, table["roughness_m"])
        measured = far + beam_bias[beam] + sigma * rng.normal(size=size)
        fade = 1.0 - 0.4 * np.clip((far - 12.0) / 40.0, 0.0, 1.0)
        remission = white * fade * beam_gain[beam] + table["spread"] * rng.normal(size=size)
        remission = np.where(rng.random(size) < table["faint"], 0.0, np.clip(remission, 0.0, 0.99))
        kept &= self.is_free() & (far < self.max_range_m) & (measured > 1.0)
        return kept, measured, remission


def _fan(high: float, low: float, beams: int) -> tuple[float, ...]:
    return tuple(np.linspace(high, low, beams).round(4).tolist())


SENSORS: Final[dict[str, Sensor]] = {
    # Velodyne HDL-64E: an upper block with steps of 1/3 degree, a lower one with 1/2 degree.
    # 20,833 firings a second at KITTI's 9.64 turns a second (at 10 turns they are 2,083). The noise
    # is that of KITTI's road: second differences of the range along a beam, 4 to 20 m away.
    "hdl64": Sensor(
        _fan(2.0, -8.3333, 32) + _fan(-8.83, -24.33, 32), 2160, 1.73, 80.0, 120.0, 0.009, 0.012
    ),
    # Velodyne HDL-32E: steps of 4/3 degree.
    "hdl32": Sensor(_fan(10.67, -30.67, 32), 2170, 1.84, 80.0, 120.0, 0.009, 0.008),
    # Ouster OS1 with 128 beams over 45 degrees.
    "os128": Sensor(_fan(22.5, -22.5, 128), 1024, 1.80, 120.0, 150.0, 0.015, 0.005),
}
"""Known sensors. Source: the makers' data sheets; heights are usual ones on a car's roof."""
