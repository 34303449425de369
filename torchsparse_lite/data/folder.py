# SPDX-License-Identifier: MIT
"""ScanFolder: plain folders of ``.bin`` scans with ``.label`` files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchsparse_lite.data.base import ScanDataset, chosen
from torchsparse_lite.data.files import need_file, need_folder
from torchsparse_lite.data.scan import Scan
from torchsparse_lite.data.scan_file import read_scan_file
from torchsparse_lite.errors import check_choice, refuse

__all__ = ["ScanFolder"]

_FUNCTION = "ScanFolder"


class ScanFolder(ScanDataset):
    """All ``*.bin`` scans under a folder, in order of their names.

    The card's layout says how many columns a row has and, where scans and labels lie in folders of
    their own, how these are called; otherwise a label file lies beside its scan.

    Args:
        root: folder of the data set.
        split: of the card's: a folder below ``root``, or a ``.lst`` file with a scan per line.
        files: scan names such as ``"train/000000"``: paths below ``root`` without ``.bin``.
            Without ``split`` and ``files``, all scans under ``root``.
        has_labels: whether to read labels; by default if the card has classes. Upper 16 bits are
            instance ids.
        card: the card, its name or the path of one's own; there is no default.
        options: ``label_map`` and ``drop_invalid`` of
            :class:`~torchsparse_lite.data.base.ScanDataset`.

    Raises:
        FileNotFoundError: a folder or file is missing, or there is no scan.
        ValueError: both ``split`` and ``files``, or an unknown split.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        files: Sequence[str] | None = None,
        has_labels: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        need_folder(f"{_FUNCTION}: root", self.root, self.card.source)
        self.has_labels = bool(self.card.classes) if has_labels is None else has_labels
        if split is not None or files is not None:
            chosen(_FUNCTION, split=split, files=files)
        if files is not None:
            self.names = list(files)
        elif split is not None:
            self.names = self._names_of(split)
        else:
            self.names = self._names_under(self.root)
        for name in self.names:
            need_file(f"{_FUNCTION}: files", self.root / f"{name}.bin", self.card.source)

    def _names_of(self, split: str) -> list[str]:
        check_choice(f"{_FUNCTION}: split", split, self.card.splits)
        place = self.root / str(self.card.splits[split])
        if place.suffix != ".lst":
            return self._names_under(need_folder(f"{_FUNCTION}: split", place, self.card.source))
        need_file(f"{_FUNCTION}: split", place, self.card.source)
        lines = place.read_text(encoding="utf-8").splitlines()
        return [line.split()[0].removesuffix(".bin") for line in lines if line.strip()]

    def _names_under(self, folder: Path) -> list[str]:
        scans = self.card.layout.get("scans")
        paths = (path.relative_to(self.root) for path in folder.rglob("*.bin"))
        names = sorted(
            path.with_suffix("").as_posix()
            for path in paths
            if scans is None or path.parent.name == scans
        )
        if not names:
            place = f"{folder}" if scans is None else f"folders {scans} under {folder}"
            refuse(
                f"{_FUNCTION}: {place}",
                "a place of .bin scans",
                "none",
                self.card.source,
                error=FileNotFoundError,
            )
        return names

    def read(self, name: str) -> Scan:
        """The scan at ``root/name.bin``."""
        path = self.root / f"{name}.bin"
        label_path = self._label_path(path) if self.has_labels else None
        scan = read_scan_file(path, self.card, label_path, label_map=self.label_map, name=name)
        if self.card.layout.get("drop_origin", False):
            return scan.take((scan.xyz != 0).any(axis=1))
        return scan

    def _label_path(self, path: Path) -> Path:
        layout = self.card.layout
        if "labels" in layout:
            return path.parent.parent / str(layout["labels"]) / f"{path.stem}.label"
        return path.with_suffix(".label")
