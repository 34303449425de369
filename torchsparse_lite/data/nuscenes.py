# SPDX-License-Identifier: MIT
"""nuScenes-lidarseg: key frames of the roof LiDAR through the data set's own tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.base import ScanDataset, chosen
from torchsparse_lite.data.files import need_folder, read_json, read_labels
from torchsparse_lite.data.scan import Array, Scan
from torchsparse_lite.data.scan_file import read_scan_file
from torchsparse_lite.errors import check_choice, refuse

__all__ = ["NuScenesLidarseg"]

_FUNCTION = "NuScenesLidarseg"
Record = dict[str, Any]


class NuScenesLidarseg(ScanDataset):
    """Labelled key frames of nuScenes, in order of scene and time.

    Choose by ``split`` or ``scenes``.

    Args:
        root: folder with the tables (``v1.0-*``), ``samples`` and ``lidarseg``.
        split: ``train``, ``val``, ``mini_train``, ``mini_val`` or ``test``.
        scenes: scene names such as ``"scene-0061"``.
        version: folder of the tables; by default that of the split, or the only one there.
        has_labels: whether to read labels; by default if the version has ``lidarseg.json``.
        has_poses: whether to read poses (the largest table).
        options: ``card``, ``label_map`` and ``drop_invalid`` of
            :class:`~torchsparse_lite.data.base.ScanDataset`.

    Raises:
        FileNotFoundError: a folder, table or file is missing.
        ValueError: no or both choices, an unknown split or scene, tables that contradict the card.

    Scans are named by their sample tokens. x points right, y forward.

    Source: Fong et al., "Panoptic nuScenes", RA-L 2022; tables, splits and the merging into 16
    classes as in nuscenes-devkit.
    """

    default_card: ClassVar[str] = "nuscenes_lidarseg"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        scenes: Sequence[str] | None = None,
        version: str | None = None,
        has_labels: bool | None = None,
        has_poses: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        chosen(_FUNCTION, split=split, scenes=scenes)
        need_folder(f"{_FUNCTION}: root", self.root, self.card.source)
        if split is not None:
            check_choice(f"{_FUNCTION}: split", split, self.card.splits)
            version = version or str(self.card.splits[split]["version"])
        tables = self._version_folder(version)
        self._part = split or tables.name
        by_token = {scene["token"]: scene["name"] for scene in self._table(tables, "scene")}
        wanted = self._wanted(split, scenes, set(by_token.values()))
        if has_labels is None:
            has_labels = (tables / "lidarseg.json").is_file()
        self._files = self._frames(tables, by_token, wanted)
        self.names = list(self._files)
        self._label_files = self._labels_of(tables) if has_labels else None
        self._card_ids = self._ids(tables) if has_labels else None
        self._poses = self._poses_of(tables) if has_poses else {}

    def _table(self, tables: Path, name: str) -> list[Record]:
        return list(read_json(_FUNCTION, tables / f"{name}.json"))

    def _version_folder(self, version: str | None) -> Path:
        if version is None:
            found = sorted(path.name for path in self.root.glob("v1.0-*") if path.is_dir())
            if len(found) != 1:
                remedy = "Pass version=."
                refuse(f"{_FUNCTION}: root", "a place of one version", found or "none", remedy)
            version = found[0]
        return need_folder(f"{_FUNCTION}: tables", self.root / version, self.card.source)

    def _wanted(self, split: str | None, scenes: Sequence[str] | None, known: set[str]) -> set[str]:
        if scenes is not None:
            wanted = set(scenes)
        else:
            entry = self.card.splits[str(split)]
            if "scenes" in entry:
                wanted = _scene_names(entry["scenes"])
            else:
                without = self.card.splits.get(entry.get("without"), {"scenes": ()})
                wanted = known - _scene_names(without["scenes"])
        if not wanted or not wanted <= known:
            missing = ", ".join(sorted(wanted - known)[:8]) or "no scene at all"
            remedy = "Download the missing parts, or choose other scenes or another version."
            refuse(f"{_FUNCTION}: scenes", "in the tables", f"without {missing}", remedy)
        return wanted

    def _frames(
        self, tables: Path, scene_names: dict[str, str], wanted: set[str]
    ) -> dict[str, Record]:
        """Sample token to its record of the roof LiDAR, by scene name and time."""
        scene_of = {
            sample["token"]: scene_names[sample["scene_token"]]
            for sample in self._table(tables, "sample")
        }
        records = [
            record
            for record in self._table(tables, "sample_data")
            if record["is_key_frame"]
            and "LIDAR_TOP" in record["filename"].split("/")
            and scene_of[record["sample_token"]] in wanted
        ]
        records.sort(key=lambda r: (scene_of[r["sample_token"]], r["timestamp"], r["token"]))
        return {record["sample_token"]: record for record in records}

    def _labels_of(self, tables: Path) -> dict[str, str]:
        table = self._table(tables, "lidarseg")
        return {record["sample_data_token"]: record["filename"] for record in table}

    def _ids(self, tables: Path) -> npt.NDArray[np.int64]:
        """The card's label id for each index of ``category.json``, matched by name."""
        card_id = {name: raw for raw, name in self.card.raw_names.items()}
        ids = np.full(256, -1, np.int64)
        for category in self._table(tables, "category"):
            if category["name"] not in card_id:
                path = tables / "category.json"
                remedy = "Use a card that has this category."
                refuse(f"{_FUNCTION}: {path}", "known to the card", category["name"], remedy)
            if "index" in category:
                ids[category["index"]] = card_id[category["name"]]
        return ids

    def _poses_of(self, tables: Path) -> dict[str, npt.NDArray[np.float64]]:
        """LiDAR to world of each frame: vehicle in the world times LiDAR on the vehicle."""
        records = self._files.values()
        vehicles = {record["ego_pose_token"] for record in records}
        mounts = {record["calibrated_sensor_token"] for record in records}
        world = _matrices(self._table(tables, "ego_pose"), vehicles)
        mount = _matrices(self._table(tables, "calibrated_sensor"), mounts)
        return {
            token: world[record["ego_pose_token"]] @ mount[record["calibrated_sensor_token"]]
            for token, record in self._files.items()
        }

    def read(self, name: str) -> Scan:
        """The key frame of this sample token."""
        record = self._files[name]
        scan = read_scan_file(self.root / record["filename"], self.card, name=name)
        labels = self._read_labels(record["token"], len(scan))
        return replace(scan, labels=labels, pose=self._poses.get(name))

    def prediction_path(self, name: str) -> Path:
        """Where the challenge looks for it, below the folder of a submission."""
        return Path("lidarseg", self._part, f"{self._files[name]['token']}_lidarseg.bin")

    def _read_labels(self, token: str, count: int) -> npt.NDArray[np.int64] | None:
        if self._label_files is None or self._card_ids is None:
            return None
        if token not in self._label_files:
            remedy = "Unpack nuScenes-lidarseg over the tables, or pass has_labels=False."
            refuse(f"{_FUNCTION}: lidarseg.json", f"complete: frame {token}", "none", remedy)
        path = self.root / self._label_files[token]
        raw: Array = read_labels(_FUNCTION, path, count, "u1")
        ids = self._card_ids[raw]
        if (ids < 0).any():
            unknown = np.unique(raw[ids < 0])[:8].tolist()
            remedy = "Copy the labels and category.json of one and the same release."
            refuse(f"{_FUNCTION}: label ids in {path}", "in category.json", unknown, remedy)
        return self._labels(ids, path)


def _scene_names(numbers: Iterable[int]) -> set[str]:
    return {f"scene-{number:04d}" for number in numbers}


def _matrices(table: list[Record], tokens: set[str]) -> dict[str, npt.NDArray[np.float64]]:
    """(4, 4) by token, from unit quaternions w, x, y, z and translations."""
    result = {}
    for record in table:
        if record["token"] in tokens:
            w, x, y, z = record["rotation"]
            matrix = np.eye(4)
            matrix[:3, :3] = [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
            matrix[:3, 3] = record["translation"]
            result[record["token"]] = matrix
    return result
