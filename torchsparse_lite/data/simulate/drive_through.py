# SPDX-License-Identifier: MIT
"""Scans of one drive through one street."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.simulate.raycast import RayCaster, nearest
from torchsparse_lite.data.simulate.sensor import SENSORS, Sensor
from torchsparse_lite.data.simulate.street import random_street
from torchsparse_lite.data.simulate.traffic import random_drive, random_traffic, traffic_at
from torchsparse_lite.errors import check_choice

__all__ = ["DriveThrough", "Labels", "Points", "simulate_scan"]

Points = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint32]


class DriveThrough:
    """A street with its traffic, and a sensor that is driven through it.

    The street stands in memory as one mesh that is prepared for rays once; a scan of frame ``i``
    depends on the seed and ``i`` alone, not on the scans made before.

    Args:
        seed: integers that decide everything.
        sensor: the LiDAR.
        frames: number of scans.
        interval_s: seconds between them.

    Attributes:
        time: (frames,) float64, seconds.
        pose: (frames, 4, 4) float64, sensor to world.
    """

    def __init__(self, seed: list[int], sensor: Sensor, frames: int, interval_s: float) -> None:
        self._seed, self._sensor = seed, sensor
        rng = np.random.default_rng([*seed, 0])
        times = interval_s * np.arange(frames, dtype=np.float64)
        speed = rng.uniform(4.0, 11.0)
        margin = sensor.max_range_m + 10.0
        self._street = random_street(rng, start=-margin, stop=1.3 * speed * times[-1] + margin)
        self._drive = random_drive(rng, self._street, times, sensor.height_m, speed)
        self._traffic = random_traffic(rng, self._street, self._drive)
        beams = len(sensor.elevations_deg)
        self._gain = rng.uniform(0.88, 1.12, beams)
        self._bias = sensor.beam_bias_m * rng.normal(size=beams)
        self._rays = sensor.rays()
        self._still = RayCaster(self._street.mesh)
        self.time, self.pose = self._drive.time, self._drive.pose

    def scan(self, frame: int) -> tuple[Points, Labels]:
        """The points of a frame.

        Args:
            frame: 0 for the first.

        Returns:
            (N, 4) float32 x, y, z (metres, to the millimetre) and remission (0..1, to a
            hundredth) in the sensor's axes, beam by beam from the highest, and (N,) uint32 raw
            SemanticKITTI labels with instance ids in the upper 16 bits.
        """
        pose, drive = self.pose[frame], self._drive
        rays = self._rays @ pose[:3, :3].T
        hits = self._still.cast(pose[:3, 3], rays)
        moving = traffic_at(self._traffic, self._street, drive.time[frame], drive.station[frame])
        if len(moving):
            hits = nearest(hits, RayCaster(moving).cast(pose[:3, 3], rays))
        noise = np.random.default_rng([*self._seed, 1, frame])
        kept, distance, remission = self._sensor.observe(hits, self._gain, self._bias, noise)
        xyz = np.round(self._rays[kept] * distance[kept, None], 3)
        points = np.concatenate([xyz, np.round(remission[kept, None], 2)], 1).astype(np.float32)
        return points, hits.label[kept]


def simulate_scan(seed: int, sensor: str = "hdl64") -> tuple[Points, Labels]:
    """One scan of a street of its own, in memory.

    Args:
        seed: decides everything.
        sensor: name in :data:`SENSORS`.

    Returns:
        (N, 4) float32 x, y, z, remission and (N,) uint32 raw labels, see
        :meth:`DriveThrough.scan`.

    Raises:
        ValueError: if the sensor is unknown.
        RuntimeError: if no ray caster is installed.
    """
    check_choice("simulate_scan: sensor", sensor, SENSORS)
    return DriveThrough([seed], SENSORS[sensor], frames=1, interval_s=0.1).scan(0)
