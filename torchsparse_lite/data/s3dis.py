# SPDX-License-Identifier: MIT
"""S3DIS: rooms of six office areas, as text files per object or as arrays per room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from torchsparse_lite.data.base import ScanDataset, chosen
from torchsparse_lite.data.files import need_folder, read_matrix
from torchsparse_lite.data.scan import Scan
from torchsparse_lite.errors import check_choice, refuse

__all__ = ["S3DIS"]

_FUNCTION = "S3DIS"
Room = tuple[npt.NDArray[np.float64], Path, npt.NDArray[np.int32] | None]


class S3DIS(ScanDataset):
    """Rooms, in order of area and name. Choose by ``split`` or ``areas``.

    Args:
        root: folder with ``Area_1/office_1/Annotations/*.txt`` (lines of x, y, z, r, g, b; an
            instance per file, its class before the underscore), or with ``Area_1_office_1.npy``
            (rows of x, y, z, r, g, b, label), which are read some hundred times faster.
        split: ``train`` (areas 1, 2, 3, 4, 6) or ``val`` (area 5).
        areas: area names such as ``"Area_5"``.
        options: ``card``, ``label_map`` and ``drop_invalid`` of
            :class:`~torchsparse_lite.data.base.ScanDataset`.

    Raises:
        FileNotFoundError: a folder or file is missing, or an area has no room.
        ValueError: a file holds something else.

    Scans are named ``"Area_5/office_1"``; they have colours, remission is 0. Rooms read from text
    have instances. ``stairs`` count as clutter, as in PointNet.

    Source: Armeni et al., CVPR 2016; class order of Qi et al., "PointNet", CVPR 2017.
    """

    default_card: ClassVar[str] = "s3dis"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        areas: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        chosen(_FUNCTION, split=split, areas=areas)
        need_folder(f"{_FUNCTION}: root", self.root, self.card.source)
        if areas is None:
            check_choice(f"{_FUNCTION}: split", str(split), self.card.splits)
            areas = [str(area) for area in self.card.splits[str(split)]]
        for area in areas:
            self.names += self._rooms_of(area)

    def _rooms_of(self, area: str) -> list[str]:
        arrays = self.root.glob(f"{area}_*.npy")
        folders = (self.root / area).glob("*/Annotations")
        rooms = {path.stem.removeprefix(f"{area}_") for path in arrays}
        rooms |= {path.parent.name for path in folders}
        if not rooms:
            place = f"rooms of {area} under {self.root}"
            remedy = f"Choose other areas, or obtain it. {self.card.source}"
            refuse(f"{_FUNCTION}: {place}", "there", "none", remedy, error=FileNotFoundError)
        return [f"{area}/{room}" for room in sorted(rooms)]

    def read(self, name: str) -> Scan:
        """The room ``"Area_k/room"``, from its array if there is one."""
        area, room = name.split("/")
        array = self.root / f"{area}_{room}.npy"
        if array.is_file():
            rows, file, instances = _room_of_array(array)
        else:
            rows, file, instances = self._room_of_text(self.root / area / room / "Annotations")
        return Scan(
            xyz=rows[:, :3].astype(np.float32),
            remission=np.zeros(len(rows), np.float32),
            labels=self._labels(rows[:, 6].astype(np.int64), file),
            instances=instances,
            name=name,
            colors=(rows[:, 3:6] / 255.0).astype(np.float32),
        )

    def _room_of_text(self, folder: Path) -> Room:
        """Rows as in an array, objects in order of their file names."""
        raw_id = {name: raw for raw, name in self.card.raw_names.items()}
        parts, sizes = [np.empty((0, 7))], []
        for path in sorted(need_folder(_FUNCTION, folder, self.card.source).glob("*.txt")):
            word = path.stem.partition("_")[0]
            if word not in raw_id:
                remedy = "Rename the file, or add the class to a copy of the card."
                rule = f"named after one of {', '.join(raw_id)}"
                refuse(f"{_FUNCTION}: {path}", rule, word, remedy)
            rows = read_matrix(_FUNCTION, path, 6)
            parts.append(np.column_stack([rows, np.full(len(rows), raw_id[word])]))
            sizes.append(len(rows))
        if not sizes:
            remedy = "Unpack the room again."
            rule = "a folder of .txt files"
            refuse(f"{_FUNCTION}: {folder}", rule, "none", remedy, error=FileNotFoundError)
        numbers = np.arange(1, len(sizes) + 1, dtype=np.int32)
        return np.concatenate(parts), folder, np.repeat(numbers, sizes)


def _room_of_array(path: Path) -> Room:
    remedy = "Save rows of x, y, z, r, g, b, label with numpy.save."
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as broken:
        refuse(f"{_FUNCTION}: {path}", "an array", str(broken), remedy)
    if rows.ndim != 2 or rows.shape[1] != 7:
        refuse(f"{_FUNCTION}: {path}", "of shape (N, 7)", rows.shape, remedy)
    return rows, path, None
