# SPDX-License-Identifier: MIT
"""SemanticKITTI: ``sequences/SS/velodyne/NNNNNN.bin`` with labels, poses and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.base import ScanDataset, chosen
from torchsparse_lite.data.files import need_file, need_folder, read_matrix
from torchsparse_lite.data.scan import Scan
from torchsparse_lite.data.scan_file import read_scan_file
from torchsparse_lite.errors import check_choice, refuse

__all__ = ["SemanticKITTI"]

_FUNCTION = "SemanticKITTI"


class SemanticKITTI(ScanDataset):
    """Scans of SemanticKITTI, or of anything written in its layout.

    Choose by one of ``split``, ``sequences`` and ``files``.

    Args:
        root: folder that holds ``sequences/``.
        split: ``"train"``, ``"val"``, ``"test"`` or another of the card's.
        sequences: sequence names such as ``"08"``, or their numbers.
        files: scan names such as ``"00/000000"``, in the order wanted.
        allow_missing: take the sequences of the split that are there, instead of raising.
        has_labels: whether to read labels; by default all sequences but those of the split
            ``test`` have them. Points that the labels leave open are ignored (255).
        options: ``card``, ``label_map`` and ``drop_invalid`` of
            :class:`~torchsparse_lite.data.base.ScanDataset`.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: no or several choices, or an unknown split.

    Each scan has labels, instances (the upper 16 bits of a label) and, where ``poses.txt`` and
    ``calib.txt`` are there, the pose of the LiDAR in the world of its sequence.

    Source: Behley et al., "SemanticKITTI", ICCV 2019; the split and the label map ``official`` are
    those of semantic-kitti-api, ``spvnas`` is that of the SPVNAS loader.
    """

    default_card: ClassVar[str] = "semantickitti"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        sequences: Sequence[str | int] | None = None,
        files: Sequence[str] | None = None,
        allow_missing: bool = False,
        has_labels: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        self.has_labels = has_labels
        chosen(_FUNCTION, split=split, sequences=sequences, files=files)
        remedy = self.card.source
        self._folder = need_folder(f"{_FUNCTION}: root", self.root / "sequences", remedy)
        if files is not None:
            self.names = [self._checked(name) for name in files]
            wanted = sorted({name.split("/")[0] for name in self.names})
        elif sequences is not None:
            wanted = [s if isinstance(s, str) else f"{s:02d}" for s in sequences]
        else:
            wanted = self._sequences_of(str(split), allow_missing=allow_missing)
        for sequence in wanted:
            need_folder(f"{_FUNCTION}: sequence", self._folder / sequence / "velodyne", remedy)
        if files is None:
            self.names = [name for sequence in wanted for name in self._scans_of(sequence)]
        self._poses = {sequence: self._poses_of(sequence) for sequence in wanted}

    def _sequences_of(self, split: str, *, allow_missing: bool) -> list[str]:
        check_choice(f"{_FUNCTION}: split", split, self.card.splits)
        listed = [str(sequence) for sequence in self.card.splits[split]]
        present = [s for s in listed if (self._folder / s / "velodyne").is_dir()]
        if not present or (len(present) < len(listed) and not allow_missing):
            missing = ", ".join(s for s in listed if s not in present)
            refuse(
                f"{_FUNCTION}: split {split!r}",
                f"complete under {self._folder}",
                f"no sequence {missing}",
                "Download the rest, or pass sequences=[...] or allow_missing=True.",
                error=FileNotFoundError,
            )
        return present

    def _checked(self, name: str) -> str:
        sequence, _, frame = name.partition("/")
        if not (sequence and frame):
            remedy = "Give the sequence and the frame."
            refuse(f"{_FUNCTION}: files", 'names such as "00/000000"', repr(name), remedy)
        path = self._folder / sequence / "velodyne" / f"{frame}.bin"
        need_file(f"{_FUNCTION}: files", path, self.card.source)
        return name

    def _scans_of(self, sequence: str) -> list[str]:
        folder = self._folder / sequence / "velodyne"
        paths = sorted(folder.glob("*.bin"))
        if not paths:
            rule, remedy = "a place of .bin scans", self.card.source
            refuse(f"{_FUNCTION}: {folder}", rule, "none", remedy, error=FileNotFoundError)
        return [f"{sequence}/{path.stem}" for path in paths]

    def _poses_of(self, sequence: str) -> npt.NDArray[np.float64] | None:
        """(frames, 4, 4) LiDAR to world: ``Tr^-1 pose Tr``, as poses are those of the camera."""
        folder = self._folder / sequence
        if not ((folder / "poses.txt").is_file() and (folder / "calib.txt").is_file()):
            return None
        camera = _homogeneous(read_matrix(_FUNCTION, folder / "poses.txt", 12))
        lidar_to_camera = _calibration(folder / "calib.txt")
        return np.asarray(np.linalg.inv(lidar_to_camera) @ camera @ lidar_to_camera)

    def read(self, name: str) -> Scan:
        """The scan ``"SS/NNNNNN"``."""
        sequence, frame = name.split("/")
        folder = self._folder / sequence
        labels = folder / "labels" / f"{frame}.label" if self._reads_labels(sequence) else None
        scan = read_scan_file(
            folder / "velodyne" / f"{frame}.bin",
            self.card,
            labels,
            label_map=self.label_map,
            name=name,
        )
        return replace(scan, pose=self._pose(sequence, frame))

    def prediction_path(self, name: str) -> Path:
        """``sequences/SS/predictions/NNNNNN.label``, as the benchmark's server wants it."""
        sequence, frame = name.split("/")
        return Path("sequences", sequence, "predictions", f"{frame}.label")

    def _reads_labels(self, sequence: str) -> bool:
        if self.has_labels is None:
            return sequence not in map(str, self.card.splits.get("test", ()))
        return self.has_labels

    def _pose(self, sequence: str, frame: str) -> npt.NDArray[np.float64] | None:
        poses = self._poses[sequence]
        if poses is None:
            return None
        if int(frame) >= len(poses):
            refuse(
                f"{_FUNCTION}: {self._folder / sequence / 'poses.txt'}",
                "a pose per frame",
                f"{len(poses)} poses for frame {frame}",
                "Copy the file again, or take it away to read scans without poses.",
            )
        return np.asarray(poses[int(frame)])


def _homogeneous(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, 12) rows of 3 x 4 matrices as (N, 4, 4)."""
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3] = rows.reshape(-1, 3, 4)
    return matrices


def _calibration(path: Path) -> npt.NDArray[np.float64]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, numbers = line.partition(":")
        try:
            row = np.array([numbers.split()], np.float64)
        except ValueError:
            continue
        if key.strip() == "Tr" and row.shape == (1, 12):
            return np.asarray(_homogeneous(row)[0])
    refuse(
        f"{_FUNCTION}: {path}",
        "a calibration with a line of 12 numbers named Tr",
        "no such line",
        "Copy the file again, or take it away to read scans without poses.",
    )
