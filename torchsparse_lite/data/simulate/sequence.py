# SPDX-License-Identifier: MIT
"""Sequences on disk in the layout of SemanticKITTI.

``sequences/SS/`` has ``velodyne/NNNNNN.bin``, ``labels/NNNNNN.label``, ``poses.txt``, ``calib.txt``
and ``times.txt``. A pose is that of the camera in the camera's first frame, as in the data set: the
LiDAR of frame i is at ``inverse(Tr) @ pose_i @ Tr`` in the LiDAR's first frame.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from torchsparse_lite.data.simulate.drive_through import DriveThrough
from torchsparse_lite.data.simulate.raycast import ray_caster_name
from torchsparse_lite.data.simulate.sensor import SENSORS
from torchsparse_lite.data.simulate.shapes import Floats
from torchsparse_lite.errors import check_choice, refuse
from torchsparse_lite.whole_file import write_whole

__all__ = ["ARGUMENTS_FILE", "simulate", "write_sequence"]

ARGUMENTS_FILE: Final = "simulation.json"
"""Beside the scans of a sequence: what they were made with."""

# Changes when the same arguments give other scans.
_VERSION: Final = 1

# From LiDAR axes (x forward, y left, z up) to camera axes (z forward, x right, y down).
_TR: Final = np.array(
    [
        [0.0, -1.0, 0.0, 0.0],
        [0.0, 0.0, -1.0, -0.08],
        [1.0, 0.0, 0.0, -0.27],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
_CAMERA: Final = np.array(
    [[718.856, 0.0, 607.1928, 0.0], [0.0, 718.856, 185.2157, 0.0], [0.0, 0.0, 1.0, 0.0]]
)


def simulate(
    root: str | os.PathLike[str],
    *,
    sequences: Sequence[str],
    frames: int,
    seed: int,
    sensor: str = "hdl64",
    interval_s: float = 0.1,
    progress: bool = True,
) -> tuple[Path, ...]:
    """Write simulated sequences, each of a street of its own, under ``root/sequences``.

    What is there from a run with the same arguments is kept, so a run that was stopped goes on and
    a finished one returns at once. Every file appears whole or not at all. The same arguments give
    the same bytes with the same ray caster.

    Args:
        root: folder of the data set; made if needed.
        sequences: numbers with two digits, such as "00" for training and "08" for validation.
        frames: scans per sequence.
        seed: decides everything, together with the sequence's number.
        sensor: name in :data:`SENSORS`.
        interval_s: seconds between two scans. More than a turn of the sensor gives more variety
            in as many scans.
        progress: show a bar where tqdm is installed.

    Returns:
        The folder of each sequence.

    Raises:
        TypeError: if an argument is not of the type above.
        ValueError: if an argument is out of range, or a sequence is there that was not made
            with these arguments: a real data set is never overwritten.
        RuntimeError: if no ray caster is installed.
        OSError: if a file cannot be written.
    """
    if isinstance(sequences, str):
        remedy = "Give a list, such as ['00', '08']."
        refuse(
            "simulate: sequences", "a sequence of names", repr(sequences), remedy, error=TypeError
        )
    parent = Path(root) / "sequences"
    writers = {
        name: _Sequence(parent, name, frames, seed=seed, sensor=sensor, interval_s=interval_s)
        for name in sequences
    }
    for writer in writers.values():
        writer.claim()
    steps: Iterable[tuple[str, int]] = [(name, i) for name in writers for i in range(frames)]
    for name, frame in _bar([*steps]) if progress else steps:
        writers[name].write(frame)
        if frame == frames - 1:
            writers[name].forget_street()
    return tuple(writer.folder for writer in writers.values())


def write_sequence(
    root: str | os.PathLike[str],
    sequence: str,
    *,
    frames: int,
    seed: int,
    sensor: str = "hdl64",
    interval_s: float = 0.1,
) -> Path:
    """Write one sequence without a progress bar; see :func:`simulate`."""
    return simulate(
        root,
        sequences=[sequence],
        frames=frames,
        seed=seed,
        sensor=sensor,
        interval_s=interval_s,
        progress=False,
    )[0]


class _Sequence:
    """One sequence's folder; its street is built when the first missing scan asks for it."""

    def __init__(
        self, parent: Path, name: str, frames: int, *, seed: int, sensor: str, interval_s: float
    ) -> None:
        where = "simulate: "
        if not (isinstance(name, str) and len(name) == 2 and name.isdigit()):
            refuse(where + "sequences", "names of two digits", repr(name), "Use '00' to '99'.")
        for argument, value, least in (("frames", frames, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int):
                remedy = f"Give a whole number from {least} on."
                refuse(where + argument, "an int", type(value).__name__, remedy, error=TypeError)
            if value < least:
                refuse(where + argument, f"at least {least}", value, "Give a larger number.")
        if not 0.0 < interval_s <= 10.0:
            refuse(where + "interval_s", "in (0, 10] seconds", interval_s, "A usual value is 0.1.")
        check_choice(where + "sensor", sensor, SENSORS)
        self.folder = parent / name
        self._frames = frames
        self._drive: DriveThrough | None = None
        self._seed, self._sensor, self._interval = [seed, int(name)], sensor, interval_s
        self._arguments = {
            "version": _VERSION,
            "seed": seed,
            "frames": frames,
            "sensor": sensor,
            "interval_s": interval_s,
            "ray_caster": ray_caster_name(),
        }

    def claim(self) -> None:
        """Make the folder ours, or check that it is."""
        arguments: dict[str, Any] = self._arguments
        path = self.folder / ARGUMENTS_FILE
        if path.is_file():
            found = json.loads(path.read_text())
            other = {key: found.get(key) for key in arguments if found.get(key) != arguments[key]}
            if other:
                rule = "empty or made with the same arguments"
                remedy = "Delete that folder, choose another root, or give the same arguments."
                refuse(f"simulate: {self.folder}", rule, f"one made with {other}", remedy)
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            remedy = "It may be a real data set. Choose another root or sequence."
            refuse(f"simulate: {self.folder}", "empty or simulated", "files of others", remedy)
        for part in ("velodyne", "labels"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        _write(path, (json.dumps(arguments, indent=2) + "\n").encode())

    def write(self, frame: int) -> None:
        """Write a scan and its labels unless both are there; poses and times with the first."""
        scan = self.folder / "velodyne" / f"{frame:06d}.bin"
        label = self.folder / "labels" / f"{frame:06d}.label"
        texts = [self.folder / name for name in ("times.txt", "calib.txt", "poses.txt")]
        missing_texts = frame == 0 and not all(path.is_file() for path in texts)
        missing_scan = not (label.is_file() and scan.is_file())
        if not (missing_texts or missing_scan):
            return
        if self._drive is None:
            self._drive = DriveThrough(
                self._seed, SENSORS[self._sensor], frames=self._frames, interval_s=self._interval
            )
        if missing_texts:
            times = "".join(f"{time:.6e}\n" for time in self._drive.time)
            contents = (times, _calib_text(), _pose_text(self._drive.pose))
            for path, text in zip(texts, contents, strict=True):
                _write(path, text.encode())
        if missing_scan:
            points, labels = self._drive.scan(frame)
            _write(label, labels.astype("<u4").tobytes())
            _write(scan, points.astype("<f4").tobytes())

    def forget_street(self) -> None:
        """Free the memory of a street that no further frame needs."""
        self._drive = None


def _row(matrix: Floats) -> str:
    return " ".join(f"{value:.12e}" for value in matrix[:3].ravel())


def _calib_text() -> str:
    cameras = "".join(f"P{i}: {_row(_CAMERA)}\n" for i in range(4))
    return f"{cameras}Tr: {_row(_TR)}\n"


def _pose_text(poses: Floats) -> str:
    """Camera poses in the camera's first frame, a line of 12 numbers each."""
    moves = np.linalg.inv(poses[0]) @ poses
    return "".join(_row(pose) + "\n" for pose in _TR @ moves @ np.linalg.inv(_TR))


def _write(path: Path, content: bytes) -> None:
    write_whole("simulate", path, content, sync=False)


def _bar(steps: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The steps with a progress bar, or as they are without tqdm."""
    try:
        tqdm = import_module("tqdm").tqdm
    except ImportError:
        yield from steps
        return
    yield from tqdm(steps, desc="simulate", unit="scan")
