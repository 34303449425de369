# SPDX-License-Identifier: MIT
"""Streets that were never driven: procedural scenes, ray-cast as a LiDAR would see them.

The scans come in SemanticKITTI's layout and with its labels, so whatever reads the data set reads
them. Needs a ray caster: ``pip install 'torchsparse_lite[sim]'``. Only :func:`scan_boxes`, a simple
street to measure with, needs none.
"""

from torchsparse_lite.data.simulate.boxes import scan_boxes
from torchsparse_lite.data.simulate.drive_through import DriveThrough, simulate_scan
from torchsparse_lite.data.simulate.materials import ClassId
from torchsparse_lite.data.simulate.sensor import SENSORS, Sensor
from torchsparse_lite.data.simulate.sequence import simulate, write_sequence
from torchsparse_lite.data.simulate.statistics import ScanStatistics, statistics

__all__ = [
    "SENSORS",
    "ClassId",
    "DriveThrough",
    "ScanStatistics",
    "Sensor",
    "scan_boxes",
    "simulate",
    "simulate_scan",
    "statistics",
    "write_sequence",
]
