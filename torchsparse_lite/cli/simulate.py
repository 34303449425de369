# SPDX-License-Identifier: MIT
"""``tsl simulate``."""

from __future__ import annotations

import argparse

from torchsparse_lite.data.simulate import SENSORS
from torchsparse_lite.data.simulate import simulate as write_streets

__all__ = ["simulate"]


def simulate(arguments: list[str]) -> None:
    """Write simulated streets; what is there from the same arguments is kept."""
    parser = argparse.ArgumentParser("tsl simulate", description=simulate.__doc__)
    parser.add_argument("root", help="folder of the data set to write")
    parser.add_argument("--sequences", nargs="+", default=["00", "08"], metavar="SS")
    parser.add_argument("--frames", type=int, default=20, help="scans of a sequence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sensor", choices=SENSORS, default="hdl64")
    parser.add_argument("--interval", type=float, default=0.1, metavar="SECONDS")
    options = parser.parse_args(arguments)
    folders = write_streets(
        options.root,
        sequences=options.sequences,
        frames=options.frames,
        seed=options.seed,
        sensor=options.sensor,
        interval_s=options.interval,
    )
    print("\n".join(str(folder) for folder in folders))
